"""What people ask of a stack ends the order of a rollout that waits for its agent, and nothing of that order is left."""

from dataclasses import replace
from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.group import GroupWish
from opencode_lifecycle.model.migration import AtDeadline, MigrationOrder
from opencode_lifecycle.model.states import MigrationState, Phase
from opencode_lifecycle.ports.stores import Decision
from world import ADA, BACKEND, OPERATOR, World

AT_WORK = {"busy": True}


@pytest.fixture
async def world(tmp_path):
    """Give a world in which the runtime of Ada is ordered to be replaced, and waited for: its agent is at work."""
    limits = Limits(
        start=timedelta(seconds=60),
        stop=timedelta(seconds=60),
        poll=timedelta(milliseconds=50),
        idle_after=timedelta(0),
        idle_poll=timedelta(milliseconds=50),
    )
    world = World(tmp_path, limits=limits)
    world.server_changes = AT_WORK
    async with world.running():
        await world.ensure()
        await order(world)
        await world.until(lambda: world.stack().status.migration_state is MigrationState.DRAINING)
        yield world


async def order(world):
    """Write the order of a rollout that has been forgotten since: its deadline comes, and it is not there to see it."""

    def decide(situation):
        stack = situation.stack
        waits = MigrationOrder(
            id="ro_forgotten", deadline=utc_now() + timedelta(hours=1), at_deadline=AtDeadline.FORCE
        )
        generation = stack.intent.generation + 1
        intent = replace(stack.intent, generation=generation, order=waits, environment={"LANG": "C"})
        return Decision(stack=replace(stack, intent=intent), wake=True)

    _, made = await world.store.decide(ADA, decide)
    world.plane.fleet.put(made.stack)
    world.plane.dispatcher.hint(ADA)


async def test_a_stack_that_was_stopped_starts_without_the_order_it_had(world):
    provisioning = world.plane.provisioning

    await world.finished(await provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))
    assert world.stack().intent.order is None
    await world.ensure()

    assert world.stack().intent.order is None
    events = (await world.store.find_events(user_id=ADA, after=None, limit=100)).items
    assert [e.data.get("order_ended") for e in events if e.kind == "stack.stop"] == ["ro_forgotten"]


async def test_a_recreate_does_not_wait_at_the_gate_of_the_order_it_overrules(world):
    before = world.stack().status.runtime.allocation_id

    operation = await world.plane.provisioning.recreate(ADA, by=BACKEND, if_match=None)
    await world.finished(operation)

    stack = await world.phase(Phase.RUNNING)
    assert (stack.intent.order, stack.status.runtime.allocation_id != before) == (None, True)


async def test_a_group_is_changed_without_ending_the_order(world):
    names = frozenset({"pin"})
    await world.plane.groups.put("team-a", GroupWish(names=names, pin=None), by=OPERATOR)

    await world.ensure(group="team-a", wait=None)

    assert world.stack().intent.order.id == "ro_forgotten"
