"""
Ways in which the stack of one user comes to be in each phase and each migration state, and stays there until it is let go.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from draining import NODE, has_listed_the_nodes, is_held_on_a_drained_node
from migrating import a_release, order, until_outcome, until_state
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.migration import AtDeadline, OrderOutcome
from opencode_lifecycle.model.operation import Operation
from opencode_lifecycle.model.states import Health, MigrationState, Phase, Reason, WhenStale
from world import ADA, BACKEND, OPERATOR, World, server_of

LetGo = Callable[[], object]
"""Takes away what keeps the stack where it is."""

LIMITS = Limits(
    start=timedelta(seconds=60),
    stop=timedelta(seconds=60),
    poll=timedelta(milliseconds=50),
    wedged_probes=100_000,
    idle_after=timedelta(0),
    idle_poll=timedelta(milliseconds=20),
    delivery_poll=timedelta(milliseconds=20),
)


def a_world(path: Path, **changes) -> World:
    """Return a world in which the situations come about: nothing stale is put right in it but by an order."""
    parameters = {"limits": LIMITS, "when_stale": WhenStale.REPORT, **changes}
    return World(path, liveness_interval=timedelta(milliseconds=20), **parameters)


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


async def is_shown_stale(world: World) -> LetGo:
    await world.ensure()
    world.nomad.edit_outside(world.job_id(), image="other")
    return nothing


async def another_version(world: World, **what) -> str:
    """Order the stack to be brought to another version, which takes a restart."""
    return await order(world, await a_release(world, opencode_version="1.18.35"), **what)


async def cannot_say_whether_its_agent_works(world: World) -> LetGo:
    await world.ensure()
    server_of(world).password = "of somebody else"
    await another_version(world)
    return nothing


async def could_not_start_again(world: World) -> LetGo:
    await world.ensure()
    world.nomad.nodes.close(NODE)
    await has_listed_the_nodes(world)
    await another_version(world)
    return nothing


async def waits_for_its_agent(world: World) -> LetGo:
    await world.ensure()
    server_of(world).busy = True
    await another_version(world)
    return nothing


async def waits_for_a_lease(world: World) -> LetGo:
    await world.ensure()
    await world.plane.leases.extend(ADA, timedelta(minutes=10))
    await another_version(world)
    return nothing


async def waits_for_its_agent_on_a_drained_node(world: World) -> LetGo:
    await world.ensure()
    server_of(world).busy = True
    world.nomad.nodes.drain(NODE, deadline=None)
    return nothing


async def publishes_its_live_files(world: World) -> LetGo:
    await world.ensure()
    hold = world.nomad.live_files.faults.hold_next("point")
    await order(world, await a_release(world, instructions="Be brief."))
    await hold.reached.wait()
    return hold.release


async def reads_its_configuration_anew(world: World) -> LetGo:
    await world.ensure()
    hold = world.prober.hold_next("reload")
    await order(world, await a_release(world, managed_config='{"share": "disabled"}'))
    await hold.reached.wait()
    return hold.release


async def ends_in_order_to_be_replaced(world: World) -> LetGo:
    await world.ensure()
    world.nomad.autostop = False
    await another_version(world)
    return lambda: world.nomad.end_allocation(world.job_id())


async def starts_as_it_should_be(world: World) -> LetGo:
    await world.ensure()
    world.nomad.autorun = False
    await another_version(world)
    return nothing


async def waits_for_its_live_files(world: World) -> LetGo:
    await world.ensure()
    world.nomad.files.deaf.add(world.job_id())
    await order(world, await a_release(world, instructions="Be brief."))
    return nothing


async def is_asked_which_turns_were_cut_off(world: World) -> LetGo:
    await world.ensure()
    hold = world.prober.hold_next("interrupted_turns")
    await another_version(world)
    await hold.reached.wait()
    return hold.release


async def was_refused_by_nomad(world: World) -> LetGo:
    await world.ensure()
    world.nomad.faults.fail_next("validate", UpstreamRejected("nomad", "validate", "no"))
    assert await until_outcome(world, await another_version(world)) is OrderOutcome.FAILED
    return nothing


async def was_at_work_until_the_deadline(world: World) -> LetGo:
    await world.ensure()
    server_of(world).busy = True
    await another_version(world, deadline=utc_now() - timedelta(seconds=1), at_deadline=AtDeadline.HOLD)
    return nothing


async def is_held_by_its_node(world: World) -> LetGo:
    await is_held_on_a_drained_node(world)
    return nothing


@dataclass(frozen=True, slots=True)
class Situation:
    phase: Phase
    bring: Callable[[World], Awaitable[LetGo]]
    migration_state: MigrationState = MigrationState.CURRENT

    async def brought_about(self, world: World) -> LetGo:
        """Bring the stack there, and return what lets it go."""
        let_go = await self.bring(world)
        await world.phase(self.phase)
        await until_state(world, self.migration_state)
        assert world.stack().status.phase is self.phase
        return let_go

    def __str__(self) -> str:
        where = [self.phase, *([self.migration_state] if self.migration_state != "current" else [])]
        return f"{' and '.join(where)}, {self.bring.__name__}"


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
    Situation(Phase.STOPPING, is_being_recreated, MigrationState.REPLACING),
    Situation(Phase.STOPPED, is_stopped),
    Situation(Phase.STOPPED, is_held),
    Situation(Phase.FAILED, is_of_the_wrong_version),
    Situation(Phase.FAILED, failed_and_cannot_be_stopped),
    Situation(Phase.FAILED, meets_a_foreign_job),
    Situation(Phase.FAILED, has_lost_its_workspace),
    Situation(Phase.DELETING, is_being_deleted),
    Situation(Phase.DELETING, is_deleted_and_begins_anew),
    Situation(Phase.RUNNING, is_shown_stale, MigrationState.STALE),
    Situation(Phase.RUNNING, cannot_say_whether_its_agent_works, MigrationState.QUEUED),
    Situation(Phase.RUNNING, could_not_start_again, MigrationState.QUEUED),
    Situation(Phase.RUNNING, waits_for_its_agent, MigrationState.DRAINING),
    Situation(Phase.RUNNING, waits_for_a_lease, MigrationState.DRAINING),
    Situation(Phase.RUNNING, waits_for_its_agent_on_a_drained_node, MigrationState.DRAINING),
    Situation(Phase.RUNNING, publishes_its_live_files, MigrationState.REPLACING),
    Situation(Phase.RUNNING, reads_its_configuration_anew, MigrationState.REPLACING),
    Situation(Phase.STOPPING, ends_in_order_to_be_replaced, MigrationState.REPLACING),
    Situation(Phase.STARTING, starts_as_it_should_be, MigrationState.VERIFYING),
    Situation(Phase.RUNNING, waits_for_its_live_files, MigrationState.VERIFYING),
    Situation(Phase.RUNNING, is_asked_which_turns_were_cut_off, MigrationState.VERIFYING),
    Situation(Phase.RUNNING, was_refused_by_nomad, MigrationState.FAILED),
    Situation(Phase.RUNNING, was_at_work_until_the_deadline, MigrationState.HELD),
    Situation(Phase.STOPPED, is_held_by_its_node, MigrationState.HELD),
]
