"""Rollouts over stacks that are asleep, stopped because nobody used them: nobody is woken, and each wakes as it should be."""

from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.group import GroupWish
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.rollout import MemberReason, MemberState, RolloutState
from opencode_lifecycle.model.rollout_specification import Amount, RolloutSpecification, Strategy
from opencode_lifecycle.model.states import Phase
from rollout_worlds import a_new_release, ended, members
from world import OPERATOR, World

SLEEPERS = ("bob", "cyd")
AT_ONCE = Strategy(soak=timedelta(0), waves=(Amount(percent=100),))


@pytest.fixture
async def world(tmp_path):
    """Give a world in which `ada` runs, and others are asleep."""
    limits = Limits(
        start=timedelta(seconds=5),
        stop=timedelta(seconds=60),
        poll=timedelta(milliseconds=20),
        idle_after=timedelta(0),
        idle_poll=timedelta(milliseconds=20),
    )
    world = World(tmp_path, limits=limits)
    async with world.running():
        await world.ensure("ada")
        for user in SLEEPERS:
            await world.ensure(user, group="sleepy")
        await let_idle_ones_stop(world, timedelta(milliseconds=50))
        for user in SLEEPERS:
            world.plane.dispatcher.hint(UserId(user))
            await world.phase(Phase.STOPPED, user)
        yield world


async def let_idle_ones_stop(world, after: timedelta | None) -> None:
    wish = GroupWish(names=frozenset({"idle_stop_after"}), idle_stop_after=after)
    await world.plane.groups.put("sleepy", wish, by=OPERATOR)


async def release_on_waking(world, user: str) -> str:
    await let_idle_ones_stop(world, None)
    return (await world.ensure(user)).view.stack.status.release


def allocations(world) -> dict[str, int]:
    return {user: len(world.nomad.allocations[world.job_id(user)]) for user in SLEEPERS}


async def rolled_out(world, specification):
    rollout = await world.plane.rollouts.start(specification, by=OPERATOR)
    return await ended(world, rollout.id)


async def test_a_rollout_wakes_nobody_and_who_wakes_after_it_is_on_its_release(world):
    before, release = allocations(world), await a_new_release(world, environment={"LANG": "C"})

    rollout = await rolled_out(world, RolloutSpecification(release=release, strategy=AT_ONCE))

    assert rollout.state is RolloutState.SUCCEEDED
    assert allocations(world) == before
    found = await members(world, rollout.id)
    assert {(found[UserId(user)].state, found[UserId(user)].reason) for user in SLEEPERS} == {
        (MemberState.MIGRATED, MemberReason.NOT_RUNNING.value)
    }
    assert await release_on_waking(world, "bob") == release


async def test_recreating_everybody_starts_nobody_who_is_asleep(world):
    before = allocations(world)

    rollout = await rolled_out(world, RolloutSpecification(recreate=True, strategy=AT_ONCE))

    assert rollout.state is RolloutState.SUCCEEDED
    assert allocations(world) == before


async def test_who_fell_asleep_on_a_release_wakes_on_the_one_from_before_when_it_was_rolled_back(world):
    before = world.plane.releases.current.id
    release = await a_new_release(world, environment={"LANG": "C"})
    rollout = await rolled_out(world, RolloutSpecification(release=release, strategy=AT_ONCE))
    await world.ensure("bob")
    await world.phase(Phase.STOPPED, "bob")
    asleep = allocations(world)

    await world.plane.rollouts.rollback(rollout.id, by=OPERATOR)
    back = await ended(world, rollout.id)

    assert back.state is RolloutState.ROLLED_BACK
    assert allocations(world) == asleep
    assert await release_on_waking(world, "bob") == before
