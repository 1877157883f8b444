"""
The control plane ends at every point at which it talks to somebody, before and after the effect, and is started again.

What was asked for must come true every time, with one job, one password and one allocation.
"""

from collections.abc import Callable

import pytest

from fakes.faults import Faults
from opencode_lifecycle.model.errors import RuntimeNotReady
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import Phase
from world import ADA, BACKEND, World

_EFFECTS_OF_A_START: list[tuple[str, Callable[[World], Faults]]] = [
    ("ensure", lambda world: world.vault.faults),
    ("ensure", lambda world: world.nomad.workspaces.faults),
    ("publish", lambda world: world.nomad.live_files.faults),
    ("point", lambda world: world.nomad.live_files.faults),
    ("render", lambda world: world.nomad.faults),
    ("register", lambda world: world.nomad.faults),
    ("prove", lambda world: world.prober.faults),
    ("instances", lambda world: world.consul.faults),
]
_IDS = ["secret", "workspace", "bundle", "pointer", "render", "register", "proof", "catalogue"]


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("method", "faults"), _EFFECTS_OF_A_START, ids=_IDS)
async def test_a_start_that_dies_at_any_effect_is_finished_by_the_next_life(
    tmp_path, method, faults, after_commit
):
    world = World(tmp_path)
    async with world.running():
        hold = faults(world).hold_next(method, after_commit=after_commit)
        await world.ensure(wait=None)
        await hold.reached.wait()
    faults(world).heal()

    async with world.running():
        await world.phase(Phase.RUNNING)

        assert world.nomad.jobs[world.job_id()].seen.version == 0
        assert len(world.live_allocations()) == 1
        assert world.stack().status.secret_version == 1


_EFFECTS_OF_A_DELETION: list[tuple[str, Callable[[World], Faults]]] = [
    ("deregister", lambda world: world.nomad.faults),
    ("observe", lambda world: world.nomad.faults),
    ("instances", lambda world: world.consul.faults),
    ("destroy", lambda world: world.vault.faults),
    ("clear", lambda world: world.nomad.live_files.faults),
    ("destroy", lambda world: world.nomad.workspaces.faults),
]


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("method", "faults"),
    _EFFECTS_OF_A_DELETION,
    ids=["stop", "look", "catalogue", "secret", "pointer", "workspace"],
)
async def test_a_deletion_that_dies_at_any_effect_is_finished_by_the_next_life(
    tmp_path, method, faults, after_commit
):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
        allocation = world.live_allocations()[0]
        hold = faults(world).hold_next(method, after_commit=after_commit)
        operation = await world.plane.provisioning.delete(
            ADA, by=BACKEND, delete_workspace=True, if_match=None
        )
        world.consul.forget(world.job_id(), allocation.id)
        await hold.reached.wait()
    faults(world).heal()

    async with world.running():
        done = await world.finished(operation)

        assert done.state is OperationState.SUCCEEDED
        assert world.job_id() not in world.nomad.jobs
        assert world.job_id() not in world.vault.job_ids


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
async def test_a_recreate_that_dies_at_the_stop_makes_one_new_allocation(tmp_path, after_commit):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
        old = world.live_allocations()[0].id
        hold = world.nomad.faults.hold_next("deregister", after_commit=after_commit)
        operation = await world.plane.provisioning.recreate(ADA, by=BACKEND, if_match=None)
        await hold.reached.wait()
    world.nomad.faults.heal()

    async with world.running():
        done = await world.finished(operation)

        assert done.state is OperationState.SUCCEEDED
        assert len(world.nomad.allocations[world.job_id()]) == 2
        assert world.live_allocations()[0].id != old


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
async def test_a_recreate_that_dies_at_the_registration_makes_one_new_allocation(tmp_path, after_commit):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
        hold = world.nomad.faults.hold_next("register", after_commit=after_commit)
        operation = await world.plane.provisioning.recreate(ADA, by=BACKEND, if_match=None)
        await hold.reached.wait()
    world.nomad.faults.heal()

    async with world.running():
        await world.finished(operation)

        assert len(world.nomad.allocations[world.job_id()]) == 2
        assert len(world.live_allocations()) == 1


async def test_a_password_is_rotated_once_when_the_service_dies_after_writing_it(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
        hold = world.nomad.faults.hold_next("register", after_commit=False)
        operation = await world.plane.provisioning.rotate_password(ADA, by=BACKEND, if_match=None)
        await hold.reached.wait()
    world.nomad.faults.heal()

    async with world.running():
        await world.finished(operation)

        assert world.stack().status.secret_version == 2
        assert world.stack().status.runtime.secret_version == 2


async def test_a_restart_takes_up_what_runs_and_says_so_at_once(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
        allocation = world.live_allocations()[0].id

    async with world.running():
        answer = await world.ensure(wait=None)

        assert answer.ready
        assert [a.id for a in world.live_allocations()] == [allocation]


async def test_a_service_that_starts_without_nomad_keeps_what_it_is_asked_and_calls_nothing_stopped(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
    world.nomad.go_down()

    async with world.running():
        known = await world.ensure(wait=None)
        accepted = await world.ensure("grace", wait=None)

        assert not known.ready
        assert known.view.stack.status.phase is Phase.RUNNING
        assert not accepted.ready
        world.nomad.come_up()
        await world.phase(Phase.RUNNING, "grace")
        assert (await world.ensure()).ready


async def test_a_runtime_proven_in_an_earlier_life_must_answer_before_it_is_called_ready_again(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
        address = world.stack().status.runtime.address
    world.prober.withdraw(address)

    async with world.running():
        answer = await world.ensure(wait=None)

        assert answer.view.stack.status.phase is Phase.RUNNING
        assert not answer.ready
        with pytest.raises(RuntimeNotReady):
            await world.plane.provisioning.address(ADA, "internal")
