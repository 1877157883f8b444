"""
Ways in which the stack of one user comes to be in each phase, and stays there until it is let go.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from opencode_lifecycle.model.operation import Operation
from opencode_lifecycle.model.states import Health, Phase, Reason
from world import ADA, BACKEND, OPERATOR, World

LetGo = Callable[[], object]
"""Takes away what keeps the stack where it is."""


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
