"""
No dead ends: from wherever a stack is, a stop stops it and a deletion deletes it, whatever was lost meanwhile.

Each situation brings the stack of one user to a phase and keeps it there. What keeps it there is taken away only after
the stop or the deletion was asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle import reconciler
from opencode_lifecycle.lifecycle.effects import Effects
from opencode_lifecycle.lifecycle.steps import Limits, Move, Rest
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
    Reason,
    WhenStale,
)
from world import ADA, BACKEND, OPERATOR, World

LetGo = Callable[[], object]
LIMITS = Limits(
    start=timedelta(seconds=60),
    stop=timedelta(seconds=60),
    poll=timedelta(milliseconds=50),
    wedged_probes=100_000,
)


def a_world(path, **changes) -> World:
    return World(path, liveness_interval=timedelta(milliseconds=20), **{"limits": LIMITS, **changes})


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


def illegal(moves: list[tuple[Status, Status]]) -> set[tuple[str, str]]:
    tables = (("phase", PHASE_MOVES), ("health", HEALTH_MOVES), ("migration_state", MIGRATION_MOVES))
    return {
        (getattr(before, name), getattr(after, name))
        for name, table in tables
        for before, after in moves
        if getattr(after, name) not in {getattr(before, name), *table[getattr(before, name)]}
    }


# --- how a stack comes to be where it is


def nothing() -> None:
    """Let nothing go: nothing keeps the stack where it is."""


async def stop(world: World) -> Operation:
    return await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None)


async def delete(world: World) -> Operation:
    return await world.plane.provisioning.delete(ADA, delete_workspace=True, by=BACKEND, if_match=None)


async def waits_for_its_secret(world: World) -> LetGo:
    hold = world.vault.hold_next("ensure")
    await world.ensure(wait=None)
    await hold.reached.wait()
    return hold.release


async def waits_for_a_sealed_vault(world: World) -> LetGo:
    world.vault.sealed = True
    await world.ensure(wait=None)
    await world.until(lambda: world.stack().status.reason is Reason.VAULT_UNAVAILABLE)

    def unseal() -> None:
        world.vault.sealed = False

    return unseal


async def is_registered_and_does_not_know_it(world: World) -> LetGo:
    hold = world.nomad.faults.hold_next("register", after_commit=True)
    await world.ensure(wait=None)
    await hold.reached.wait()
    return hold.release


async def waits_for_an_earlier_allocation(world: World) -> LetGo:
    await world.ensure()
    world.nomad.autostop = False
    world.nomad.purge_outside(world.job_id())
    return lambda: world.nomad.end_allocation(world.job_id())


async def waits_for_its_task(world: World) -> LetGo:
    world.nomad.autorun = False
    await world.ensure(wait=None)
    return nothing


async def finds_no_place(world: World) -> LetGo:
    world.nomad.refuse_placement("no node has the memory")
    await world.ensure(wait=None)
    return nothing


async def is_not_listed_by_consul(world: World) -> LetGo:
    world.consul.denied = True
    await world.ensure(wait=None)

    def admit() -> None:
        world.consul.denied = False

    return admit


async def runs(world: World) -> LetGo:
    await world.ensure()
    return nothing


def hang(world: World) -> None:
    """Let the runtime take connections and answer none."""
    address = world.live_allocations()[0].address
    world.prober.servers[address.host, address.port].hangs = True


async def runs_and_hangs(world: World) -> LetGo:
    await world.ensure()
    hang(world)
    await world.until(lambda: world.stack().status.health is Health.UNRESPONSIVE)
    return nothing


async def runs_where_nobody_sees_it(world: World) -> LetGo:
    await world.ensure()
    world.nomad.go_down()
    return world.nomad.come_up


async def is_being_stopped(world: World) -> LetGo:
    await world.ensure()
    world.nomad.autostop = False
    await stop(world)
    return lambda: world.nomad.end_allocation(world.job_id())


async def is_being_recreated(world: World) -> LetGo:
    await world.ensure()
    world.nomad.autostop = False
    await world.plane.provisioning.recreate(ADA, by=BACKEND, if_match=None)
    return lambda: world.nomad.end_allocation(world.job_id())


async def is_stopped(world: World) -> LetGo:
    await world.ensure()
    await world.finished(await stop(world))
    return nothing


async def is_held(world: World) -> LetGo:
    await world.ensure()
    await world.finished(await world.plane.provisioning.stop(ADA, by=OPERATOR, hold=True, if_match=None))
    return nothing


async def is_of_the_wrong_version(world: World) -> LetGo:
    world.server_changes = {"version": "0.0.1"}
    await world.ensure(wait=None)
    return nothing


async def failed_and_cannot_be_stopped(world: World) -> LetGo:
    world.server_changes = {"version": "0.0.1"}
    hold = world.nomad.faults.hold_next("deregister")
    await world.ensure(wait=None)
    await hold.reached.wait()
    return hold.release


async def meets_a_foreign_job(world: World) -> LetGo:
    world.nomad.plant_job(world.job_id(), managed_by="somebody")
    await world.ensure(wait=None)
    return nothing


async def has_lost_its_workspace(world: World) -> LetGo:
    await is_stopped(world)
    world.nomad.workspaces.lose(world.job_id())
    await world.ensure(wait=None)
    return nothing


async def is_being_deleted(world: World) -> LetGo:
    await world.ensure()
    hold = world.vault.hold_next("destroy")
    world.consul.forget(world.job_id(), world.live_allocations()[0].id)
    await delete(world)
    await hold.reached.wait()
    return hold.release


async def is_deleted_and_begins_anew(world: World) -> LetGo:
    let_go = await is_being_deleted(world)
    await world.ensure(wait=None)
    return let_go


@dataclass(frozen=True, slots=True)
class Situation:
    phase: Phase
    bring: Callable[[World], Awaitable[LetGo]]

    def __str__(self) -> str:
        return f"{self.phase}, {self.bring.__name__}"


SITUATIONS = [
    Situation(Phase.PENDING, waits_for_its_secret),
    Situation(Phase.PENDING, waits_for_a_sealed_vault),
    Situation(Phase.PENDING, is_registered_and_does_not_know_it),
    Situation(Phase.PENDING, waits_for_an_earlier_allocation),
    Situation(Phase.STARTING, waits_for_its_task),
    Situation(Phase.STARTING, finds_no_place),
    Situation(Phase.STARTING, is_not_listed_by_consul),
    Situation(Phase.RUNNING, runs),
    Situation(Phase.RUNNING, runs_and_hangs),
    Situation(Phase.RUNNING, runs_where_nobody_sees_it),
    Situation(Phase.STOPPING, is_being_stopped),
    Situation(Phase.STOPPING, is_being_recreated),
    Situation(Phase.STOPPED, is_stopped),
    Situation(Phase.STOPPED, is_held),
    Situation(Phase.FAILED, is_of_the_wrong_version),
    Situation(Phase.FAILED, failed_and_cannot_be_stopped),
    Situation(Phase.FAILED, meets_a_foreign_job),
    Situation(Phase.FAILED, has_lost_its_workspace),
    Situation(Phase.DELETING, is_being_deleted),
    Situation(Phase.DELETING, is_deleted_and_begins_anew),
]
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


# --- the promises


def test_there_is_a_situation_for_every_phase():
    assert {situation.phase for situation in SITUATIONS} == set(Phase)


@in_every_situation
async def test_a_stop_stops_a_stack_wherever_it_is(world, situation):
    let_go = await situation.bring(world)
    await world.phase(situation.phase)

    operation = await stop(world)
    let_go()

    assert await outcome(world, operation) is OperationState.SUCCEEDED
    if situation.phase is Phase.DELETING:
        await gone(world)
    else:
        assert world.stack().status.phase is Phase.STOPPED
    assert nothing_of_ours_runs(world)


@in_every_situation
async def test_a_deletion_deletes_a_stack_wherever_it_is(world, situation):
    let_go = await situation.bring(world)
    await world.phase(situation.phase)

    operation = await delete(world)
    let_go()

    assert await outcome(world, operation) is OperationState.SUCCEEDED
    await gone(world)
    assert left_of(world) == []
    assert nothing_of_ours_runs(world)


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


async def test_a_deletion_of_a_stopped_stack_ends_although_its_volume_and_its_secret_are_gone(world):
    await is_stopped(world)
    world.nomad.collect_garbage()
    await lose(world, "secret")
    await lose(world, "volume")

    operation = await delete(world)

    assert await outcome(world, operation) is OperationState.SUCCEEDED
    await gone(world)
    assert left_of(world) == []


async def test_every_health_is_reached(tmp_path, moves):
    world = a_world(tmp_path, limits=replace(LIMITS, silent_probes=25))
    async with world.running():
        world.nomad.autorun = False
        await world.ensure(wait=None)
        for health, cause in [
            (Health.STARTING, nothing),
            (Health.HEALTHY, lambda: world.nomad.run_allocation(world.job_id())),
            (Health.DEGRADED, lambda: hang(world)),
            (Health.UNRESPONSIVE, nothing),
        ]:
            cause()
            await world.until(lambda health=health: world.stack().status.health is health)
        await world.finished(await stop(world))

    assert {status.health for move in moves for status in move} == set(Health)


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
    assert reached == {MigrationState.CURRENT, MigrationState.REPLACING, MigrationState.FAILED}


async def test_a_stack_that_is_shown_stale_becomes_current_when_it_is_stopped(tmp_path, moves):
    world = a_world(tmp_path, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        world.nomad.edit_outside(world.job_id(), image="other")
        await world.until(lambda: world.stack().status.migration_state is MigrationState.STALE)

        await world.finished(await stop(world))

        assert world.stack().status.migration_state is MigrationState.CURRENT
