"""Rollouts in a whole control plane: what their tests begin with and wait for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.rollout import Member, Rollout, RolloutState
from opencode_lifecycle.model.rollout_specification import Amount, Strategy
from world import World

USERS = ("ada", "bob", "cyd", "dan")
AT_ONCE = Strategy(soak=timedelta(0), waves=(Amount(percent=50),))


@asynccontextmanager
async def four_that_run(tmp_path) -> AsyncIterator[World]:
    """Give a world in which four runtimes run, of which each may be interrupted."""
    limits = Limits(
        start=timedelta(seconds=5),
        stop=timedelta(seconds=60),
        poll=timedelta(milliseconds=50),
        idle_after=timedelta(0),
    )
    world = World(tmp_path, limits=limits)
    async with world.running():
        for user in USERS:
            await world.ensure(user)
        yield world


async def a_new_release(world, **changes) -> ReleaseId:
    content = replace(world.content, **changes)
    release = Release(
        id=content.id,
        number=0,
        image=content.image,
        opencode_version=content.opencode_version,
        template=content.template,
        instructions=content.instructions,
        managed_config=content.managed_config,
        environment=content.environment,
        resource_classes=content.resource_classes,
        created_at=utc_now(),
    )
    return (await world.store.add_release(release)).id


async def ended(world, rollout_id) -> Rollout:
    """Wait until the rollout has ended or waits for somebody, and return how it is."""
    async with asyncio.timeout(20):
        while True:
            rollout = (await world.plane.rollouts.get(rollout_id)).rollout
            if not rollout.is_active or rollout.state is RolloutState.PAUSED:
                return rollout
            await asyncio.sleep(0.02)


async def members(world, rollout_id) -> dict[str, Member]:
    page = await world.plane.rollouts.members(rollout_id, state=None, after=None, limit=500)
    return {member.user_id: member for member in page.items}
