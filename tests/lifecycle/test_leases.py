"""A backend that is at work with a runtime says so, and is told when it is too late."""

from datetime import timedelta

import pytest

from opencode_lifecycle.model.errors import StackDraining, StackNotFound
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.states import Phase
from situations import SITUATIONS, a_world, stop
from world import ADA

MINUTE = timedelta(seconds=60)


async def test_a_lease_is_in_memory_as_soon_as_it_is_answered(world):
    await world.ensure()

    busy_until = await world.plane.leases.extend(ADA, MINUTE)

    assert world.stack().busy_until == busy_until
    assert (await world.store.get(ADA)).busy_until == busy_until


async def test_a_lease_keeps_an_ensure_as_hot_as_it_was(world):
    await world.ensure()
    await world.plane.leases.extend(ADA, MINUTE)
    statements = world.store.statements

    assert (await world.ensure()).ready
    assert world.store.statements == statements


async def test_who_waits_for_a_runtime_that_starts_may_say_so(world):
    world.nomad.autorun = False
    await world.ensure(wait=None)

    busy_until = await world.plane.leases.extend(ADA, MINUTE)
    await world.until(lambda: bool(world.live_allocations()))
    world.nomad.run_allocation(world.job_id())

    assert (await world.phase(Phase.RUNNING)).busy_until == busy_until


async def test_once_a_stop_is_accepted_nobody_takes_a_lease_any_more(world):
    await world.ensure()
    await stop(world)

    with pytest.raises(StackDraining):
        await world.plane.leases.extend(ADA, MINUTE)


async def test_a_user_without_a_stack_has_no_lease(world):
    with pytest.raises(StackNotFound):
        await world.plane.leases.extend(UserId("nobody"), MINUTE)


@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
async def test_wherever_a_stack_is_a_lease_is_given_or_refused_and_changes_nothing_else(tmp_path, situation):
    async with a_world(tmp_path).running() as world:
        await a_lease_is_given_or_refused(world, situation)


async def a_lease_is_given_or_refused(world, situation):
    let_go = await situation.brought_about(world)
    generation, events = (
        world.stack().intent.generation,
        await world.store.find_events(user_id=ADA, after=None, limit=500),
    )

    try:
        given = await world.plane.leases.extend(ADA, MINUTE)
    except StackDraining:
        given = None
    after = await world.store.get(ADA)

    assert after.busy_until == given
    assert after.intent.generation == generation
    kinds = [event.kind for event in events.items]
    assert [
        event.kind for event in (await world.store.find_events(user_id=ADA, after=None, limit=500)).items
    ][: len(kinds)] == kinds
    let_go()
