"""Rollouts in a whole control plane: what their tests begin with and wait for."""

import asyncio
from dataclasses import replace

from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.rollout import Member, Rollout, RolloutState


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
