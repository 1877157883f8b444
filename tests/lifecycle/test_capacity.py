"""A cluster without room for a stack: that is said in Nomad's own words, and tried again."""

from datetime import timedelta

from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.errors import NoCapacity
from opencode_lifecycle.model.states import Phase, Reason
from world import World

NO_ROOM = NoCapacity("nomad", "create volume", "could not place volume: no node meets constraints")


async def test_a_stack_whose_volume_no_node_can_take_waits_for_capacity_and_starts_when_there_is_some(world):
    world.nomad.workspaces.faults.fail_next("ensure", NO_ROOM, times=None)
    await world.ensure(wait=None)
    await world.until(lambda: world.stack().status.reason is Reason.NO_CAPACITY)
    assert "no node meets constraints" in world.stack().status.message

    world.nomad.workspaces.faults.heal()

    await world.phase(Phase.RUNNING)


async def test_a_stack_whose_volume_no_node_could_take_for_long_has_failed_and_is_tried_again(tmp_path):
    limits = Limits(
        start=timedelta(seconds=0.3),
        stop=timedelta(seconds=60),
        poll=timedelta(milliseconds=50),
        retry=Backoff(first=0.05, most=0.1),
    )
    world = World(tmp_path, limits=limits)
    async with world.running():
        world.nomad.workspaces.faults.fail_next("ensure", NO_ROOM, times=None)
        await world.ensure(wait=None)
        stack = await world.phase(Phase.FAILED)
        assert stack.status.reason is Reason.NO_CAPACITY

        world.nomad.workspaces.faults.heal()

        await world.phase(Phase.RUNNING)
