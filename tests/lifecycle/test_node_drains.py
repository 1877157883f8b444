"""A node that is drained empties through the busy gate, and what cannot run elsewhere waits for it."""

from datetime import timedelta

import pytest

from draining import (
    NODE,
    OTHER,
    QUICK,
    UNBOUND,
    has_listed_the_nodes,
    history,
    is_held,
    runs_again,
    said_of,
    waits_for_its_agent,
)
from fakes.opencode import FakeSession
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import StackDraining, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.lease import check_may_be_leased
from opencode_lifecycle.model.node import DRAIN_MARGIN
from opencode_lifecycle.model.states import Desired, MigrationState, Phase, Reason, WhenStale
from world import ADA, World, content, ids, server_of

LATER = DRAIN_MARGIN + timedelta(hours=1)
"""A deadline before which nobody is forced for a while."""


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT)
    async with world.running():
        yield world


# --- through the gate


@pytest.mark.parametrize("deadline", [None, LATER], ids=["no_deadline", "a_deadline"])
async def test_an_agent_at_work_is_waited_for(world, deadline):
    await world.ensure()
    server_of(world).busy = True
    before = ids(world)

    world.nomad.nodes.drain(NODE, deadline=utc_now() + deadline if deadline else None)
    await waits_for_its_agent(world)
    await has_listed_the_nodes(world)

    assert said_of(world) == (Phase.RUNNING, MigrationState.DRAINING, Reason.NODE_DRAINING)
    assert ids(world) == before
    (told,) = [data for kind, data in await history(world) if kind == "stack.node_draining"]
    assert (told["node"], told["until"] is None) == (NODE, deadline is None)
    assert "node-1 is being drained" in told["message"]


async def test_it_is_stopped_when_its_agent_has_finished_and_held_since_its_workspace_is_on_the_node(world):
    await world.ensure()
    server_of(world).busy = True
    world.nomad.nodes.drain(NODE, deadline=None)
    await waits_for_its_agent(world)

    server_of(world).busy = False
    await is_held(world)

    assert said_of(world) == (Phase.STOPPED, MigrationState.HELD, Reason.NODE_DRAINING)
    assert world.stack().intent.desired is Desired.RUNNING
    assert world.live_allocations() == []
    assert world.nomad.jobs[world.job_id()].seen.stopped


async def test_it_is_stopped_by_us_so_that_the_drain_is_over_before_its_deadline(world):
    await world.ensure()

    world.nomad.nodes.drain(NODE, deadline=utc_now() + LATER)
    await is_held(world)

    assert world.nomad.nodes.closed[NODE].drain is None
    assert ("phase.stopping", "node_draining") in [
        (kind, data.get("reason")) for kind, data in await history(world)
    ]


async def test_two_minutes_before_the_deadline_its_turns_are_aborted_and_it_is_stopped(world):
    await world.ensure()
    server = server_of(world)
    server.sessions.append(FakeSession(id="ses_1", changed_at=utc_now(), at_work=True))

    world.nomad.nodes.drain(NODE, deadline=utc_now() + DRAIN_MARGIN)
    await is_held(world)

    assert server.sessions[0].was_aborted
    (turns,) = [data["turns"] for kind, data in await history(world) if kind == "stack.turns_aborted"]
    assert [turn["session"] for turn in turns] == ["ses_1"]


async def test_the_deadline_of_a_drain_may_be_brought_forward(world):
    await world.ensure()
    server_of(world).busy = True
    world.nomad.nodes.drain(NODE, deadline=None)
    await waits_for_its_agent(world)

    world.nomad.nodes.drain(NODE, deadline=utc_now())

    await is_held(world)


async def test_a_drain_that_is_cancelled_before_the_stop_leaves_the_runtime_as_it_is(world):
    await world.ensure()
    server_of(world).busy = True
    before = ids(world)
    world.nomad.nodes.drain(NODE, deadline=utc_now() + LATER)
    await waits_for_its_agent(world)

    world.nomad.nodes.open(NODE)
    await world.until(lambda: world.stack().status.migration_state is MigrationState.CURRENT)
    server_of(world).busy = False
    await has_listed_the_nodes(world)

    assert said_of(world) == (Phase.RUNNING, MigrationState.CURRENT, None)
    assert ids(world) == before
    assert [kind for kind, _ in await history(world)][-2:] == [
        "stack.node_draining",
        "stack.drain_called_off",
    ]


async def test_a_runtime_on_a_node_that_is_only_ineligible_runs_on(world):
    await world.ensure()
    before = ids(world)

    world.nomad.nodes.close(NODE)
    await has_listed_the_nodes(world)

    assert (ids(world), world.stack().status.migration_state) == (before, MigrationState.CURRENT)


async def test_a_stack_that_starts_on_the_node_comes_up_and_leaves_it_then(world):
    world.nomad.autorun = False
    await world.ensure(wait=None)
    await world.until(lambda: len(world.live_allocations()) == 1)
    world.nomad.nodes.drain(NODE, deadline=utc_now() + LATER)
    await has_listed_the_nodes(world)
    assert world.stack().status.phase is Phase.STARTING

    world.nomad.run_allocation(world.job_id())
    await is_held(world)

    phases = [kind for kind, _ in await history(world) if kind.startswith("phase.")]
    assert phases[-3:] == ["phase.running", "phase.stopping", "phase.stopped"]


async def test_a_drain_that_was_called_off_unseen_forces_nobody(tmp_path):
    slow = {"resync_interval": timedelta(minutes=2), "observation_max_age": timedelta(minutes=5)}
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT, **slow)
    async with world.running():
        await world.ensure()
        await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))
        before = ids(world)
        world.nomad.nodes.drain(NODE, deadline=utc_now() + DRAIN_MARGIN + timedelta(seconds=2))
        await waits_for_its_agent(world)

        world.nomad.is_mute = True
        world.nomad.nodes.open(NODE)
        await world.until(lambda: world.stack().status.migration_state is MigrationState.CURRENT)

        assert (ids(world), world.stack().status.phase) == (before, Phase.RUNNING)


async def test_nobody_is_forced_while_the_node_cannot_be_looked_at(tmp_path):
    slow = {"resync_interval": timedelta(minutes=2), "observation_max_age": timedelta(minutes=5)}
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT, **slow)
    async with world.running():
        await world.ensure()
        server_of(world).busy = True
        before = ids(world)
        world.nomad.nodes.drain(NODE, deadline=utc_now() + DRAIN_MARGIN + timedelta(seconds=2))
        await waits_for_its_agent(world)
        looks = world.nomad.faults.calls["closed_nodes"]

        gone = UpstreamUnavailable("nomad", "list nodes", "connection refused")
        world.nomad.faults.fail_next("closed_nodes", gone, times=2)
        await world.until(lambda: world.nomad.faults.calls["closed_nodes"] >= looks + 2)

        assert (ids(world), world.stack().status.phase) == (before, Phase.RUNNING)
        await is_held(world)


# --- how it is noticed


async def test_a_drain_is_noticed_by_its_event_long_before_the_next_listing(tmp_path):
    slow = {"resync_interval": timedelta(minutes=2), "observation_max_age": timedelta(minutes=5)}
    world = World(tmp_path, limits=QUICK, **slow)
    async with world.running():
        await world.ensure()
        await world.until(lambda: world.nomad.faults.calls["closed_nodes"] >= 1)

        world.nomad.nodes.drain(NODE, deadline=None)

        await is_held(world)


async def test_a_drain_of_which_no_event_tells_is_noticed_by_a_listing(world):
    await world.ensure()
    world.nomad.is_mute = True

    world.nomad.nodes.drain(NODE, deadline=None)

    await is_held(world)


# --- leases


async def test_a_lease_is_honoured(world):
    await world.ensure()
    before = ids(world)
    await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))

    world.nomad.nodes.drain(NODE, deadline=utc_now() + LATER)
    await waits_for_its_agent(world)

    assert ids(world) == before


async def test_a_lease_that_comes_before_the_stop_is_committed_prevents_it(world):
    await world.ensure()
    before = ids(world)
    hold = world.prober.hold_next("activity", after_commit=True)
    world.nomad.nodes.drain(NODE, deadline=utc_now() + LATER)
    await hold.reached.wait()
    await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))
    hold.release()
    await waits_for_its_agent(world)

    assert ids(world) == before


async def test_once_the_stop_is_committed_a_lease_is_refused_and_so_it_is_while_the_stack_is_held(world):
    world.nomad.autostop = False
    await world.ensure()
    world.nomad.nodes.drain(NODE, deadline=None)
    await world.phase(Phase.STOPPING)
    with pytest.raises(StackDraining):
        check_may_be_leased(world.stack())

    world.nomad.end_allocation(world.job_id())
    await is_held(world)

    with pytest.raises(StackDraining):
        check_may_be_leased(world.stack())


async def test_a_lease_does_not_outlast_the_drain(world):
    await world.ensure()
    await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))

    world.nomad.nodes.drain(NODE, deadline=utc_now())

    await is_held(world)


# --- what cannot be seen


async def test_of_nodes_that_cannot_be_listed_nothing_is_concluded(world):
    await world.ensure()
    before = ids(world)
    gone = UpstreamUnavailable("nomad", "list nodes", "connection refused")
    world.nomad.faults.fail_next("closed_nodes", gone, times=None)

    world.nomad.nodes.drain(NODE, deadline=utc_now())
    await has_listed_the_nodes(world)
    assert (ids(world), world.stack().status.reason) == (before, None)

    world.nomad.faults.heal()
    await is_held(world)


# --- where the deadline of Nomad comes first


async def test_what_nomad_ended_at_the_deadline_is_held_and_its_job_is_stopped(world):
    await world.ensure()
    server_of(world).busy = True
    world.nomad.nodes.drain(NODE, deadline=utc_now() + LATER)
    await waits_for_its_agent(world)

    world.nomad.nodes.pass_deadline(NODE)
    await is_held(world)

    assert world.nomad.jobs[world.job_id()].seen.stopped
    assert world.stack().status.attempts == 0


async def test_turns_that_nomad_cut_off_are_told_when_it_runs_again(world):
    await world.ensure()
    server_of(world).busy = True
    world.nomad.nodes.drain(NODE, deadline=utc_now() + LATER)
    await waits_for_its_agent(world)
    world.nomad.nodes.pass_deadline(NODE)
    await is_held(world)
    world.server_changes = {"sessions": [FakeSession(id="ses_9", changed_at=utc_now(), was_cut=True)]}

    world.nomad.nodes.open(NODE)
    await runs_again(world)

    (turns,) = [data["turns"] for kind, data in await history(world) if kind == "stack.turns_cut_off"]
    assert [turn["session"] for turn in turns] == ["ses_9"]


async def test_a_task_that_restarts_on_a_node_that_takes_nothing_new_stays_there(world):
    await world.ensure()
    world.nomad.nodes.close(NODE)
    await has_listed_the_nodes(world)
    before = ids(world)

    world.nomad.restart_task(world.job_id())
    await world.until(lambda: world.stack().status.runtime is not None)
    await world.phase(Phase.RUNNING)

    assert ids(world) == before


# --- where the workspace is not bound


async def test_a_stack_without_a_workspace_on_the_node_is_simply_moved(tmp_path):
    world = World(tmp_path, limits=QUICK)
    world.content = content(template=UNBOUND)
    async with world.running():
        await world.ensure()
        world.nomad.nodes.add(OTHER)

        world.nomad.nodes.drain(NODE, deadline=None)
        await world.until(lambda: [each.node_id for each in world.live_allocations()] == [OTHER])

        await runs_again(world)


async def test_a_workspace_is_made_where_it_can_be_used(world):
    world.nomad.nodes.close(NODE)
    world.nomad.nodes.add(OTHER)
    await has_listed_the_nodes(world)

    answer = await world.ensure()

    assert (answer.ready, [each.node_id for each in world.live_allocations()]) == (True, [OTHER])
