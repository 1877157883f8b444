"""A stack whose workspace lies on a node that takes nothing new: held until it does again, whatever is asked for."""

from dataclasses import replace
from datetime import timedelta

import pytest

from draining import (
    NODE,
    OTHER,
    QUICK,
    UNBOUND,
    has_listed_the_nodes,
    is_held,
    is_held_on_a_drained_node,
    runs_again,
    said_of,
    waits_for_its_agent,
)
from migrating import a_release
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.group import GroupWish
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.migration import AtDeadline, MigrationOrder, OrderOutcome
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import MigrationState, Phase, Reason, WhenStale
from opencode_lifecycle.ports.stores import Decision
from world import ADA, BACKEND, OPERATOR, World, ids, server_of


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT)
    async with world.running():
        yield world


HELD = (Phase.STOPPED, MigrationState.HELD, Reason.NODE_DRAINING)


async def operation_of(world: World):
    return await world.plane.provisioning.operation(world.stack().intent.last_operation)


# --- an ensure


async def test_an_ensure_of_it_is_accepted_says_why_and_waits_for_nothing(world):
    await is_held_on_a_drained_node(world)
    await has_listed_the_nodes(world)

    answer = await world.ensure(wait=60)

    status = answer.view.stack.status
    assert (answer.ready, status.phase, status.reason) == (False, Phase.STOPPED, Reason.NODE_DRAINING)
    assert "node node-1, which takes nothing new" in status.message
    assert (answer.view.closed_node.name, answer.view.closed_node.drain) == (NODE, None)


async def test_ensures_of_it_place_nothing_and_share_one_operation_that_stays_open(world):
    await is_held_on_a_drained_node(world)
    before = world.nomad.faults.calls["register"]

    first = await world.ensure(wait=60)
    second = await world.ensure(wait=60)

    assert first.operation == second.operation
    assert not (await operation_of(world)).state.is_finished
    assert world.nomad.faults.calls["register"] == before


async def test_while_it_is_held_nothing_is_done_for_it_again_and_again(world):
    await is_held_on_a_drained_node(world)
    await has_listed_the_nodes(world)
    before = (world.stack().change_seq, world.nomad.faults.calls["observe"])

    await has_listed_the_nodes(world, times=5)

    assert (world.stack().change_seq, world.nomad.faults.calls["observe"]) == before


async def test_an_ensure_of_a_stopped_stack_whose_node_is_closed_is_held_and_not_failed(world):
    await world.ensure()
    await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))
    world.nomad.nodes.close(NODE)
    await has_listed_the_nodes(world)

    answer = await world.ensure(wait=60)

    assert said_of(world) == HELD
    assert answer.view.stack.status.attempts == 0


async def test_a_first_start_that_finds_its_node_closed_is_held_and_its_job_waits_for_nobody(world):
    world.nomad.refuse_placement("no room")
    await world.ensure(wait=None)
    await world.phase(Phase.STARTING)

    world.nomad.nodes.close(NODE)
    await is_held(world)
    assert world.nomad.jobs[world.job_id()].seen.stopped

    world.nomad.allow_placement()
    world.nomad.nodes.open(NODE)
    await runs_again(world)


# --- the node is open again


async def test_it_starts_by_itself_when_its_node_takes_jobs_again(world):
    await is_held_on_a_drained_node(world)
    await world.ensure(wait=60)

    world.nomad.nodes.open(NODE)
    await runs_again(world)

    assert (await operation_of(world)).state is OperationState.SUCCEEDED


async def test_it_starts_also_where_its_node_was_opened_while_it_was_still_being_stopped(world):
    await world.ensure()
    hold = world.nomad.faults.hold_next("deregister", after_commit=True)
    world.nomad.nodes.drain(NODE, deadline=None)
    await hold.reached.wait()
    world.nomad.nodes.open(NODE)
    listings = world.nomad.faults.calls["closed_nodes"]
    await world.until(lambda: world.nomad.faults.calls["closed_nodes"] >= listings + 2)

    hold.release()

    await runs_again(world)


async def test_it_stays_held_over_a_restart_of_the_service_and_starts_when_the_node_was_opened_meanwhile(
    tmp_path,
):
    world = World(tmp_path, limits=QUICK)
    async with world.running():
        await is_held_on_a_drained_node(world)
    async with world.running():
        await has_listed_the_nodes(world)
        assert said_of(world) == HELD
    world.nomad.nodes.open(NODE)

    async with world.running():
        await runs_again(world)


async def test_a_service_that_starts_without_seeing_the_nodes_leaves_it_held_until_it_does(tmp_path):
    world = World(tmp_path, limits=QUICK)
    async with world.running():
        await is_held_on_a_drained_node(world)
    world.nomad.nodes.open(NODE)
    gone = UpstreamUnavailable("nomad", "list nodes", "connection refused")
    world.nomad.faults.fail_next("closed_nodes", gone, times=None)

    async with world.running():
        await has_listed_the_nodes(world)
        assert said_of(world) == HELD

        world.nomad.faults.heal()
        await runs_again(world)


async def test_a_service_that_dies_before_it_told_nomad_to_stop_finishes_the_stop(tmp_path):
    world = World(tmp_path, limits=QUICK)
    async with world.running():
        await world.ensure()
        hold = world.nomad.faults.hold_next("deregister")
        world.nomad.nodes.drain(NODE, deadline=None)
        await hold.reached.wait()

    async with world.running():
        await is_held(world)
        assert world.live_allocations() == []


async def test_two_replicas_stop_it_once_and_start_it_once(tmp_path):
    world = World(tmp_path, limits=QUICK, shares_database=True)
    async with world.running(), world.another_plane().running(world.content):
        await world.ensure()

        world.nomad.nodes.drain(NODE, deadline=None)
        await is_held(world)
        await has_listed_the_nodes(world)
        assert world.nomad.faults.calls["deregister"] == 1

        world.nomad.nodes.open(NODE)
        await runs_again(world)
        assert len(world.nomad.allocations[world.job_id()]) == 2


async def test_a_held_stack_whose_node_is_gone_says_that_its_workspace_is(world):
    await is_held_on_a_drained_node(world)
    world.nomad.workspaces.lose(world.job_id())

    world.nomad.nodes.open(NODE)

    await world.until(lambda: world.stack().status.reason is Reason.WORKSPACE_UNAVAILABLE)


# --- what else is asked for


async def test_a_stop_of_it_leaves_it_stopped_and_an_open_node_does_not_start_it(world):
    await is_held_on_a_drained_node(world)

    done = await world.finished(
        await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None)
    )
    world.nomad.nodes.open(NODE)
    await has_listed_the_nodes(world)

    assert done.state is OperationState.SUCCEEDED
    assert said_of(world) == (Phase.STOPPED, MigrationState.CURRENT, None)


async def test_a_deletion_of_it_deletes_it(world):
    await is_held_on_a_drained_node(world)
    world.consul.forget(world.job_id(), world.nomad.allocations[world.job_id()][0].id)

    await world.plane.provisioning.delete(ADA, delete_workspace=True, by=BACKEND, if_match=None)

    await world.gone()
    assert world.nomad.workspaces.volumes == {}


@pytest.mark.parametrize("call", ["recreate", "recover", "start", "rotate_password"])
async def test_what_else_is_asked_of_it_is_done_when_it_starts(world, call):
    await is_held_on_a_drained_node(world)

    operation = await getattr(world.plane.provisioning, call)(ADA, by=OPERATOR, if_match=None)
    await is_held(world)
    await has_listed_the_nodes(world)
    assert said_of(world) == HELD

    world.nomad.nodes.open(NODE)
    assert (await world.finished(operation)).state is OperationState.SUCCEEDED
    await runs_again(world)


# --- orders, and what else would stop it


async def order(world: World, release: ReleaseId | None = None, *, fresh: bool = False, **what) -> None:
    """Order that the stack be brought to *release*, or started afresh, as a rollout does."""
    generation = world.stack().intent.generation + 1

    def decide(situation):
        intent = replace(
            situation.stack.intent,
            generation=generation,
            order=MigrationOrder(id=f"ro_test.{generation}", **what),
            wanted_release=release or situation.stack.intent.wanted_release,
            fresh_start=generation if fresh else situation.stack.intent.fresh_start,
        )
        return Decision(stack=replace(situation.stack, intent=intent), wake=True)

    _, decision = await world.store.decide(ADA, decide)
    world.plane.fleet.put(decision.stack)
    world.plane.dispatcher.hint(ADA)


async def until_outcome(world: World) -> OrderOutcome | None:
    await world.until(lambda: world.stack().standing_order is None)
    return world.stack().status.order_outcome


async def test_an_order_to_a_stack_that_leaves_its_node_is_held_and_heeded_when_it_starts(world):
    await world.ensure()
    server_of(world).busy = True
    world.nomad.nodes.drain(NODE, deadline=None)
    await waits_for_its_agent(world)
    release = await a_release(world, opencode_version="1.18.35")

    await order(world, release)
    assert await until_outcome(world) is OrderOutcome.HELD
    assert world.stack().status.reason is Reason.NODE_DRAINING

    server_of(world).busy = False
    await is_held(world)
    world.nomad.nodes.open(NODE)
    await runs_again(world)
    assert world.stack().status.runtime.opencode_version == "1.18.35"


async def test_an_agent_under_an_order_of_a_fresh_start_is_waited_for_still_when_its_node_is_drained(world):
    await world.ensure()
    before = ids(world)
    server_of(world).busy = True
    await order(world, fresh=True)
    await waits_for_its_agent(world)

    world.nomad.nodes.drain(NODE, deadline=None)

    assert await until_outcome(world) is OrderOutcome.HELD
    await has_listed_the_nodes(world)
    assert said_of(world) == (Phase.RUNNING, MigrationState.DRAINING, Reason.NODE_DRAINING)
    assert ids(world) == before


async def test_an_order_to_a_held_stack_is_held(world):
    await is_held_on_a_drained_node(world)

    await order(world, await a_release(world, opencode_version="1.18.35"))

    assert await until_outcome(world) is OrderOutcome.HELD
    assert said_of(world) == HELD


async def test_a_held_stack_that_is_to_be_without_a_workspace_starts_on_another_node(world):
    await is_held_on_a_drained_node(world)
    world.nomad.nodes.add(OTHER)

    await order(world, await a_release(world, template=UNBOUND))

    await world.until(lambda: [each.node_id for each in world.live_allocations()] == [OTHER])


async def test_new_instructions_reach_a_runtime_that_waits_to_leave_its_node(world):
    await world.ensure()
    server_of(world).busy = True
    before = ids(world)
    world.nomad.nodes.drain(NODE, deadline=None)
    await waits_for_its_agent(world)

    await order(world, await a_release(world, instructions="Be brief."))

    assert await until_outcome(world) is OrderOutcome.DONE
    await waits_for_its_agent(world)
    assert ids(world) == before


async def test_no_restart_for_a_change_takes_down_what_could_not_start_again(world):
    await world.ensure()
    before = ids(world)
    world.nomad.nodes.close(NODE)
    await has_listed_the_nodes(world)

    await order(world, await a_release(world, opencode_version="1.18.35"))
    await world.until(lambda: world.stack().status.migration_state is MigrationState.QUEUED)
    await has_listed_the_nodes(world)
    assert ids(world) == before

    world.nomad.nodes.open(NODE)
    assert await until_outcome(world) is OrderOutcome.DONE


@pytest.mark.parametrize("at_deadline", [AtDeadline.SKIP, AtDeadline.FORCE])
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "at_work"])
async def test_an_order_with_a_deadline_leaves_alone_what_could_not_start_again(world, at_deadline, is_busy):
    await world.ensure()
    before = ids(world)
    server_of(world).busy = is_busy
    world.nomad.nodes.close(NODE)
    await has_listed_the_nodes(world)
    release = await a_release(world, opencode_version="1.18.35")

    await order(world, release, deadline=utc_now() - timedelta(seconds=1), at_deadline=at_deadline)

    assert await until_outcome(world) is OrderOutcome.SKIPPED
    assert "its node took nothing new" in world.stack().status.message
    assert ids(world) == before


async def test_nobody_is_put_to_sleep_whom_nobody_could_wake(world):
    await world.ensure()
    before = ids(world)
    world.nomad.nodes.close(NODE)
    await has_listed_the_nodes(world)
    wish = GroupWish(names=frozenset({"idle_stop_after"}), idle_stop_after=timedelta(milliseconds=1))

    await world.plane.groups.put("default", wish, by=OPERATOR)
    world.plane.dispatcher.hint(ADA)
    await has_listed_the_nodes(world)

    assert ids(world) == before


async def test_a_recreate_takes_down_nothing_that_could_not_start_again(world):
    await world.ensure()
    before = ids(world)
    world.nomad.nodes.close(NODE)
    await has_listed_the_nodes(world)

    operation = await world.plane.provisioning.recreate(ADA, by=OPERATOR, if_match=None)
    done = await world.finished(operation)

    assert (done.state, done.reason) == (OperationState.FAILED, Reason.NODE_DRAINING)
    assert "Recreate it when the node takes jobs again" in done.message
    await has_listed_the_nodes(world)
    assert (ids(world), world.stack().status.phase) == (before, Phase.RUNNING)
    world.nomad.nodes.open(NODE)
    await has_listed_the_nodes(world)
    assert ids(world) == before


async def test_a_rotation_ends_the_old_password_also_where_nothing_could_start_again(world):
    await world.ensure()
    world.nomad.nodes.close(NODE)
    await has_listed_the_nodes(world)

    await world.plane.provisioning.rotate_password(ADA, by=OPERATOR, if_match=None)

    await is_held(world)
    assert world.live_allocations() == []
