"""History says why a stack moved, also when what it waits for next is known before the move is written down."""

from datetime import timedelta

import pytest

from lifecycle.racing import order_fresh_start
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.observation import TaskTrouble
from opencode_lifecycle.model.states import MigrationState, Phase, Reason
from world import ADA, World


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, comparison_interval=timedelta(milliseconds=50))
    async with world.running():
        yield world


async def last_event(world: World, kind: str):
    page = await world.plane.provisioning.events(ADA, None, 100)
    return [event.data for event in page.items if event.kind == kind][-1]


async def contest(world: World) -> None:
    """Let Consul list the address for a runtime of another installation, of which our Nomad need not know."""
    address = world.live_allocations()[0].address
    world.consul.register(JobId("oc-other-job"), AllocationId("other"), address, installation="other")
    await world.phase(Phase.STARTING)


async def test_an_address_that_is_contested_leaves_in_history_why_it_was_withdrawn(world):
    await world.ensure()

    await contest(world)

    data = await last_event(world, "phase.starting")
    assert (data["from"], data["reason"]) == ("running", "contested")
    assert "oc-other-job" in data["message"]


async def test_a_stack_whose_address_is_contested_says_so_for_as_long_as_it_is(world):
    await world.ensure()
    await contest(world)

    await world.until(lambda: world.plane.fleet.get(ADA).proof is not None)
    await world.until(lambda: world.stack().status.reason is Reason.CONTESTED)
    assert "oc-other-job" in world.stack().status.message
    world.consul.forget(JobId("oc-other-job"), AllocationId("other"))

    assert (await world.phase(Phase.RUNNING)).status.reason is None


async def test_a_contested_stack_is_not_called_missing(world):
    await world.ensure()

    await contest(world)

    view = await world.plane.provisioning.inspect(ADA)
    assert view.staleness == ()


async def test_a_runtime_that_ended_leaves_in_history_that_it_was_lost(world):
    await world.ensure()
    world.nomad.autorun = False

    world.nomad.end_allocation(world.job_id())

    await world.phase(Phase.STARTING)
    data = await last_event(world, "phase.starting")
    assert (data["reason"], data["message"]) == (
        "lost",
        "its allocation ended or restarted; the next one is being proven",
    )


async def test_a_cause_that_is_known_by_then_is_what_history_says(world):
    await world.ensure()
    world.prober.withdraw(world.live_allocations()[0].address)
    world.nomad.restart_task(world.job_id())
    world.nomad.trouble_allocation(world.job_id(), TaskTrouble.EXITED, "exit code 137")

    await world.until(lambda: world.stack().status.reason is Reason.CRASH_LOOP)

    assert (await last_event(world, "phase.starting"))["reason"] in {"lost", "crash_loop"}


async def test_a_start_that_was_asked_for_needs_no_reason(world):
    await world.ensure()

    assert (await last_event(world, "phase.starting"))["reason"] is None
    assert (await last_event(world, "phase.running"))["reason"] is None


async def test_a_runtime_that_somebody_stopped_while_an_order_waited_for_its_agent_is_said_to_be_lost(world):
    await world.ensure()
    world.nomad.autostop = False
    await world.plane.leases.extend(ADA, timedelta(minutes=1))
    await order_fresh_start(world)
    await world.until(lambda: world.stack().status.migration_state is MigrationState.DRAINING)

    await world.nomad.deregister(world.job_id(), purge=False, deadline=Deadline.after(5, "an operator"))

    await world.phase(Phase.STOPPING)
    data = await last_event(world, "phase.stopping")
    assert (data["reason"], "stopped or removed outside" in data["message"]) == ("lost", True)
    world.nomad.end_allocation(world.job_id())
    assert (await world.phase(Phase.RUNNING)).status.fresh_start_done == world.stack().intent.fresh_start
