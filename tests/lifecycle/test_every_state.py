"""
No dead ends: from wherever a stack is, a stop stops it and a deletion deletes it, whatever was lost meanwhile.

What keeps a stack in its phase is taken away only after the stop or the deletion was asked for.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
import structlog

from opencode_lifecycle.lifecycle.reconciling import reconciler
from opencode_lifecycle.lifecycle.reconciling.effects import Effects
from opencode_lifecycle.lifecycle.reconciling.steps import Move, Rest
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.operation import Operation, OperationState
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.states import (
    HEALTH_MOVES,
    MIGRATION_MOVES,
    PHASE_MOVES,
    Health,
    MigrationState,
    Phase,
    WhenStale,
)
from situations import (
    LIMITS,
    SITUATIONS,
    a_world,
    delete,
    hang,
    is_not_listed_by_consul,
    is_stopped,
    runs,
    stop,
    waits_for_its_task,
)
from world import ADA, World


@pytest.fixture
async def world(tmp_path):
    made = a_world(tmp_path)
    async with made.running():
        yield made


@pytest.fixture(autouse=True)
def moves(monkeypatch):
    """Record every move that a plan or an effect makes of a stack, and hold all of them against the tables."""
    made: list[tuple[Status, Status]] = []
    plan, apply = reconciler.plan, Effects.apply

    def watched_plan(work, **about):
        step = plan(work, **about)
        if isinstance(step, Move | Rest):
            made.append((work.stack.status, step.status))
        return step

    async def watched_apply(self, current, step):
        before = current.work.stack.status
        await apply(self, current, step)
        made.append((before, current.work.stack.status))

    monkeypatch.setattr(reconciler, "plan", watched_plan)
    monkeypatch.setattr(Effects, "apply", watched_apply)
    yield made
    assert illegal(made) == set()
    assert healthy_without_runtime(made) == []


def healthy_without_runtime(moves: list[tuple[Status, Status]]) -> list[Status]:
    """Return where a health is shown and nothing runs that it could be of."""
    return [
        after
        for _, after in moves
        if after.runtime is None and after.health not in {Health.UNKNOWN, Health.STARTING}
    ]


def illegal(moves: list[tuple[Status, Status]]) -> set[tuple[str, str]]:
    tables = (("phase", PHASE_MOVES), ("health", HEALTH_MOVES), ("migration_state", MIGRATION_MOVES))
    return {
        (getattr(before, name), getattr(after, name))
        for name, table in tables
        for before, after in moves
        if getattr(after, name) not in {getattr(before, name), *table[getattr(before, name)]}
    }


in_every_situation = pytest.mark.parametrize("situation", SITUATIONS, ids=str)


def forget_ended(world: World) -> None:
    """Let Consul forget what ended, as Nomad tells it to."""
    live = {allocation.id for allocation in world.live_allocations()}
    job_id = world.job_id()
    for allocation_id in list(world.consul._services.get(job_id, {})):
        if allocation_id not in live:
            world.consul.forget(job_id, allocation_id)


async def outcome(world: World, operation: Operation) -> OperationState:
    async with asyncio.timeout(10):
        while True:
            forget_ended(world)
            found = await world.plane.provisioning.operation(operation.id)
            if found.state.is_finished:
                return found.state
            await asyncio.sleep(0.01)


async def gone(world: World) -> None:
    async with asyncio.timeout(10):
        while world.plane.fleet.get(ADA) is not None:
            forget_ended(world)
            await asyncio.sleep(0.01)


def our_job(world: World):
    job = world.nomad.jobs.get(world.job_id())
    return job if job is not None and job.seen.belongs_to("main") else None


def nothing_of_ours_runs(world: World) -> bool:
    is_foreign = world.job_id() in world.nomad.jobs and our_job(world) is None
    return is_foreign or not world.live_allocations()


def left_of(world: World) -> list[str]:
    job_id = world.job_id()
    places = {
        "job": our_job(world) is not None,
        "secret": job_id in world.vault.job_ids,
        "volume": job_id in world.nomad.workspaces.volumes,
        "pointer": job_id in world.nomad.live_files.pointers,
        "service": job_id in world.consul.job_ids,
    }
    return [name for name, is_there in places.items() if is_there]


def test_there_is_a_situation_for_every_phase_and_every_migration_state():
    assert {situation.phase for situation in SITUATIONS} == set(Phase)
    assert {situation.migration_state for situation in SITUATIONS} == set(MigrationState)


@in_every_situation
async def test_a_stop_stops_a_stack_wherever_it_is(world, situation):
    let_go = await situation.brought_about(world)

    operation = await stop(world)
    let_go()

    assert await outcome(world, operation) is OperationState.SUCCEEDED
    if situation.phase is Phase.DELETING:
        await gone(world)
    else:
        status = (await world.phase(Phase.STOPPED)).status
        assert status.migration_state is MigrationState.CURRENT
        assert world.stack().standing_order is None
    assert nothing_of_ours_runs(world)


@in_every_situation
async def test_a_deletion_deletes_a_stack_wherever_it_is(world, situation):
    let_go = await situation.brought_about(world)

    operation = await delete(world)
    let_go()

    assert await outcome(world, operation) is OperationState.SUCCEEDED
    await gone(world)
    assert left_of(world) == []
    assert nothing_of_ours_runs(world)


WAITS_FOR_A_NEIGHBOUR = is_not_listed_by_consul
"""Its runtime may be as healthy as can be, and cannot be proven: it is waited for as long as Consul is away."""


@pytest.mark.parametrize(
    "situation", [each for each in SITUATIONS if each.bring is not WAITS_FOR_A_NEIGHBOUR], ids=str
)
async def test_what_was_asked_for_has_an_outcome_once_every_deadline_has_passed(tmp_path, situation):
    """Whatever keeps the stack there stays: that nothing is concluded from silence keeps nobody waiting for ever."""
    world = a_world(tmp_path, shutdown_grace=timedelta(0))
    async with world.running():
        await situation.brought_about(world)
        operation = await world.plane.provisioning.operation(world.stack().intent.last_operation)
    world.parameters["limits"] = replace(LIMITS, start=timedelta(0), stop=timedelta(0))
    async with world.running():
        assert (await world.finished(operation)).state.is_finished


async def lose(world: World, what: str) -> None:
    """Take it away as an administrator of its system would."""
    job_id = world.job_id()
    match what:
        case "job":
            world.nomad.purge_outside(job_id)
        case "secret":
            await world.vault.destroy(job_id, Deadline.after(5, "test"))
        case "volume":
            world.nomad.workspaces.lose(job_id)
        case "pointer":
            del world.nomad.live_files.pointers[job_id]
        case "service":
            world.consul.forget(job_id, world.live_allocations()[0].id)
        case "everything":
            for each in ("service", "job", "secret", "volume", "pointer"):
                await lose(world, each)


@pytest.mark.parametrize("what", ["job", "secret", "volume", "pointer", "service", "everything"])
async def test_a_deletion_ends_although_something_was_lost_before(world, what):
    await world.ensure()
    await lose(world, what)

    operation = await delete(world)

    assert await outcome(world, operation) is OperationState.SUCCEEDED
    await gone(world)
    assert left_of(world) == []


@pytest.mark.parametrize("what", ["job", "secret", "volume", "pointer", "service", "everything"])
async def test_a_deletion_ends_although_something_is_lost_meanwhile(world, what):
    await world.ensure()
    hold = world.nomad.faults.hold_next("deregister")
    operation = await delete(world)
    await hold.reached.wait()

    await lose(world, what)
    hold.release()

    assert await outcome(world, operation) is OperationState.SUCCEEDED
    await gone(world)
    assert left_of(world) == []


def lose_whatever_is_there(world: World) -> None:
    """Let nothing be left of the stack but its row, and what runs of it."""
    job_id = world.job_id()
    if our_job(world) is not None:
        world.nomad.purge_outside(job_id)
    world.consul._services.pop(job_id, None)
    world.vault._items.pop(job_id, None)
    world.nomad.workspaces.volumes.pop(job_id, None)
    world.nomad.live_files.pointers.pop(job_id, None)


@in_every_situation
async def test_a_deletion_ends_wherever_a_stack_is_although_all_it_had_was_lost(world, situation):
    let_go = await situation.brought_about(world)
    lose_whatever_is_there(world)

    operation = await delete(world)
    let_go()

    assert await outcome(world, operation) is OperationState.SUCCEEDED
    await gone(world)
    assert left_of(world) == []
    assert nothing_of_ours_runs(world)


async def test_a_deletion_of_a_stopped_stack_ends_although_its_volume_and_its_secret_are_gone(world):
    await is_stopped(world)
    world.nomad.collect_garbage()
    await lose(world, "secret")
    await lose(world, "volume")

    operation = await delete(world)

    assert await outcome(world, operation) is OperationState.SUCCEEDED
    await gone(world)
    assert left_of(world) == []


async def runs_and_is_made_to_hang(world: World):
    await world.ensure()
    hang(world)


@pytest.mark.parametrize(
    ("health", "bring", "silent_probes"),
    [
        (Health.UNKNOWN, is_stopped, 3),
        (Health.STARTING, waits_for_its_task, 3),
        (Health.HEALTHY, runs, 3),
        (Health.DEGRADED, runs_and_is_made_to_hang, 100_000),
        (Health.UNRESPONSIVE, runs_and_is_made_to_hang, 3),
    ],
)
async def test_every_health_is_reached_and_left_by_a_stop(tmp_path, health, bring, silent_probes):
    world = a_world(tmp_path, limits=replace(LIMITS, silent_probes=silent_probes))
    async with world.running():
        await bring(world)
        await world.until(lambda: world.stack().status.health is health)

        await world.finished(await stop(world))

        assert world.stack().status.health is Health.UNKNOWN


async def test_every_migration_state_that_needs_no_rollout_is_reached(tmp_path, moves):
    world = a_world(tmp_path, when_stale=WhenStale.NOW)
    async with world.running():
        await world.ensure()
        world.nomad.autostop = False
        world.vault.put(world.job_id(), {"password": "from-an-administrator", "env": {}})
        await world.until(lambda: world.stack().status.migration_state is MigrationState.REPLACING)
        world.server_changes = {"version": "0.0.1"}
        world.nomad.end_allocation(world.job_id())
        await world.until(lambda: world.stack().status.migration_state is MigrationState.FAILED)

    reached = {status.migration_state for move in moves for status in move}
    assert reached == {
        MigrationState.CURRENT,
        MigrationState.REPLACING,
        MigrationState.VERIFYING,
        MigrationState.FAILED,
    }


async def test_a_stack_that_is_shown_stale_becomes_current_when_it_is_stopped(tmp_path, moves):
    world = a_world(tmp_path, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        world.nomad.edit_outside(world.job_id(), image="other")
        await world.until(lambda: world.stack().status.migration_state is MigrationState.STALE)

        await world.finished(await stop(world))

        assert world.stack().status.migration_state is MigrationState.CURRENT


def wrongly_healthy(work, **_):
    """Name a step of which only the health is wrong."""
    return Move(replace(work.stack.status, health=Health.UNRESPONSIVE, message="cannot be"))


def wrongly_verifying(work, **_):
    return Rest(replace(work.stack.status, migration_state=MigrationState.VERIFYING), None)


def wrongly_running(work, **_):
    return Rest(replace(work.stack.status, phase=Phase.RUNNING), None)


@pytest.mark.parametrize(
    ("defect", "move"),
    [
        (wrongly_healthy, "health unknown to unresponsive"),
        (wrongly_verifying, "migration state current to verifying"),
        (wrongly_running, "phase stopped to running"),
    ],
)
async def test_a_move_that_cannot_be_is_reported_and_leaves_the_row_untouched(
    world, monkeypatch, moves, defect, move
):
    await is_stopped(world)
    before = await world.store.get(ADA)
    plan = reconciler.plan
    monkeypatch.setattr(reconciler, "plan", defect)

    with structlog.testing.capture_logs() as lines:
        world.plane.dispatcher.hint(ADA)
        await world.until(lambda: any(line["event"] == "illegal move" for line in lines))

    (line,) = (line for line in lines if line["event"] == "illegal move")
    assert line["log_level"] == "error"
    assert line["error"] == f"{world.job_id()} cannot go from {move}"
    assert await world.store.get(ADA) == before
    monkeypatch.setattr(reconciler, "plan", plan)
    assert (await world.ensure()).ready
