"""How many stacks one replica works on at once: that bounds what it asks of its neighbours, however many wait."""

import asyncio
from datetime import timedelta

import pytest

from migrating import QUICK
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.rollout_specification import Amount, RolloutSpecification, Strategy
from opencode_lifecycle.model.states import Phase, WhenStale
from rollout_worlds import a_new_release
from world import BACKEND, OPERATOR, World

BOTH_AT_ONCE = Strategy(canary=Amount(count=2), max_in_flight=2, soak=timedelta(0))
USERS = ("ada", "bob", "cyd", "dan", "eve", "fay")


async def test_no_more_stacks_are_worked_on_at_once_than_there_are_workers(tmp_path):
    world = World(tmp_path, workers=2)
    async with world.running():
        reconciler = world.plane.dispatcher._reconciler
        reconcile, at_work, most = reconciler.reconcile, 0, 0

        async def counted(claimed):
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            try:
                return await reconcile(claimed)
            finally:
                at_work -= 1

        reconciler.reconcile = counted
        await asyncio.gather(*(world.ensure(user, wait=None) for user in USERS))
        for user in USERS:
            await world.phase(Phase.RUNNING, user)

    assert most == 2


@pytest.fixture
async def besieged(tmp_path):
    """Give a world whose two runtimes a rollout asks what they do, and neither answers; there are two workers."""
    slow = timedelta(seconds=60)
    world = World(tmp_path, limits=QUICK, workers=2, when_stale=WhenStale.REPORT, upstream_timeout=slow)
    async with world.running():
        for user in ("ada", "bob"):
            await world.ensure(user)
        holds = [world.prober.hold_next("activity") for _ in range(2)]
        wish = RolloutSpecification(
            release=await a_new_release(world, image="another"), strategy=BOTH_AT_ONCE
        )
        await world.plane.rollouts.start(wish, by=OPERATOR)
        await holds[0].reached.wait()
        yield world
        for hold in holds:
            hold.release()


async def test_a_new_user_does_not_wait_behind_a_rollout_whose_runtimes_do_not_answer(besieged):
    await besieged.ensure("eve", wait=None)

    await besieged.phase(Phase.RUNNING, "eve")


async def test_whoever_is_stopped_does_not_wait_behind_a_rollout_either(besieged):
    waits = "bob" if besieged.plane.dispatcher._unasked == {UserId("ada")} else "ada"

    await besieged.plane.provisioning.stop(UserId(waits), by=BACKEND, hold=False, if_match=None)

    await besieged.phase(Phase.STOPPED, waits)


async def test_a_worker_is_kept_for_whoever_waits_and_the_rollout_has_the_other(besieged):
    assert besieged.plane.dispatcher.at_work == 1
