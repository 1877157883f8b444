"""What a neighbour that is away, slow or lying must not bring about."""

import sqlite3
from datetime import timedelta

import pytest

from lost_rows import first_sweep, lose_marked_row
from opencode_lifecycle.lifecycle.orphans.judgement import OrphanLimits
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamUnavailable
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.observation import ClientStatus
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import Phase, Reason
from world import ADA, BACKEND, OPERATOR, World

ASKED = {"by": BACKEND, "if_match": None}
DOWN = UpstreamUnavailable("nomad", "call", "connection refused")


def limits(**changes) -> Limits:
    values = {
        "start": timedelta(seconds=60),
        "stop": timedelta(seconds=60),
        "poll": timedelta(milliseconds=50),
    }
    return Limits(**{**values, **changes})


def a_world(path, **changes) -> World:
    return World(path, **{"liveness_interval": timedelta(milliseconds=20), **changes})


async def test_a_runtime_that_starts_while_nomad_is_away_is_not_stopped_for_it(tmp_path):
    world = a_world(
        tmp_path, limits=limits(start=timedelta(seconds=0.5)), observation_max_age=timedelta(seconds=0.3)
    )
    async with world.running():
        world.nomad.autorun = False
        await world.ensure(wait=None)
        await world.phase(Phase.STARTING)
        world.nomad.go_down()
        world.nomad.run_allocation(world.job_id())
        before = [each.id for each in world.live_allocations()]
        await world.until(lambda: world.stack().status.phase is Phase.FAILED)
        assert world.stack().status.reason is Reason.NOMAD_UNAVAILABLE
        world.nomad.autorun = True
        world.nomad.come_up()
        await world.phase(Phase.RUNNING)

        assert [each.id for each in world.live_allocations()] == before


async def test_a_running_runtime_that_restarted_its_task_before_nomad_went_away_is_not_stopped(tmp_path):
    world = a_world(
        tmp_path, limits=limits(start=timedelta(seconds=0.5)), observation_max_age=timedelta(seconds=0.3)
    )
    async with world.running():
        await world.ensure()
        before = [each.id for each in world.live_allocations()]
        hold = world.prober.hold_next("prove")
        world.nomad.restart_task(world.job_id())
        await hold.reached.wait()
        await world.phase(Phase.STARTING)
        world.nomad.go_down()
        await world.until(lambda: world.stack().status.phase is Phase.FAILED)
        hold.release()
        world.nomad.come_up()
        await world.phase(Phase.RUNNING)

        assert [each.id for each in world.live_allocations()] == before


async def test_a_runtime_that_runs_is_not_stopped_because_vault_is_sealed(tmp_path):
    """A stop that never reached Nomad is taken back while Vault is sealed."""
    world = a_world(tmp_path, limits=limits(start=timedelta(seconds=0.5)))
    async with world.running():
        await world.ensure()
        before = [each.id for each in world.live_allocations()]
        world.nomad.faults.fail_next("deregister", DOWN, times=None)
        await world.plane.provisioning.stop(ADA, hold=False, **ASKED)
        await world.phase(Phase.STOPPING)
        world.vault.sealed = True
        await world.ensure(wait=None)
        world.nomad.faults.heal()
        await somebody_elses_start_has_failed(world)

        assert [each.id for each in world.live_allocations()] == before
        world.vault.sealed = False
        await world.phase(Phase.RUNNING)
        assert [each.id for each in world.live_allocations()] == before


async def somebody_elses_start_has_failed(world: World) -> None:
    """Wait for what a start that needs Vault comes to, begun after everything before: the deadline of that has passed, too."""
    await world.ensure("bob", wait=None)
    await world.until(lambda: world.stack("bob").status.phase is Phase.FAILED)


async def test_an_adopted_runtime_is_not_stopped_because_vault_is_sealed(tmp_path):
    hasty = OrphanLimits(confirmations=1, grace=timedelta(0), apart=timedelta(0))
    world = a_world(tmp_path, limits=limits(start=timedelta(seconds=0.5)), orphan_limits=hasty)
    async with world.running():
        await first_sweep(world)
        await world.ensure()
        before = [each.id for each in world.live_allocations()]
        await lose_marked_row(world)
        hold = world.vault.hold_next("ensure")
        await world.plane._orphans.sweep_once()
        world.vault.sealed = True
        hold.release()
        await somebody_elses_start_has_failed(world)

        assert [each.id for each in world.live_allocations()] == before


async def test_a_runtime_on_a_node_that_is_disconnected_is_not_taken_for_a_wedge(tmp_path):
    world = a_world(tmp_path)
    async with world.running():
        await world.ensure()
        (allocation,) = world.live_allocations()
        world.nomad.autostop = False  # its client hears nothing
        world.nomad._update(allocation, world.job_id(), client_status=ClientStatus.UNKNOWN)
        server = world.prober.servers.pop((allocation.address.host, allocation.address.port))
        await world.until(
            lambda: (
                world.plane.fleet.get(ADA).silent_probes >= 8 or world.stack().status.phase is Phase.STOPPING
            )
        )
        await world.ensure("bob")

        assert world.stack().status.phase is not Phase.STOPPING
        assert not world.nomad.jobs[world.job_id()].seen.stopped
        del server


async def test_a_stop_has_not_ended_because_a_listing_lacks_the_job(tmp_path):
    world = a_world(tmp_path)
    async with world.running():
        await world.ensure()
        world.nomad.autostop = False
        operation = await world.plane.provisioning.stop(ADA, hold=False, **ASKED)
        await world.phase(Phase.STOPPING)
        await world.until(lambda: world.nomad.jobs[world.job_id()].seen.stopped)
        world.nomad.hide_from_listings(world.job_id())
        for _ in range(4):
            await world.plane._nomad.list_once()
        await world.ensure("bob")

        found = await world.plane.provisioning.operation(operation.id)
        assert world.live_allocations()
        assert found.state is not OperationState.SUCCEEDED


async def test_a_runtime_that_vanished_is_missing_also_while_vault_is_sealed(tmp_path):
    world = a_world(tmp_path)
    async with world.running():
        await world.ensure()
        world.vault.sealed = True
        world.nomad.purge_outside(world.job_id())
        await world.until(lambda: world.stack().status.reason is Reason.VAULT_UNAVAILABLE)

        view = await world.plane.provisioning.inspect(ADA)
        summary = await world.plane.oversight.staleness()
        assert {each.facet for each in view.staleness} == {count.facet for count in summary.facets}
        assert [each.facet for each in view.staleness] == [Facet.MISSING]


async def test_a_failed_stack_asks_a_nomad_that_is_away_with_growing_pauses(tmp_path):
    world = a_world(tmp_path, observation_max_age=timedelta(seconds=0.3))
    world.server_changes = {"version": "0.0.1"}
    async with world.running():
        hold = world.nomad.faults.hold_next("deregister")
        await world.ensure(wait=None)
        await hold.reached.wait()
        world.nomad.go_down()
        hold.release()

        await world.until(lambda: pause_of(world) > 1.0)


async def test_a_stopped_stack_whose_rotation_waits_for_vault_asks_with_growing_pauses(tmp_path):
    world = a_world(tmp_path)
    async with world.running():
        await world.ensure()
        await world.finished(await world.plane.provisioning.stop(ADA, hold=False, **ASKED))
        world.vault.sealed = True
        await world.plane.provisioning.rotate_password(ADA, by=OPERATOR, if_match=None)

        await world.until(lambda: pause_of(world) > 1.0)
        assert "vault" in world.stack().status.message

        world.vault.sealed = False
        await world.until(lambda: world.stack().status.rotation_done == world.stack().intent.rotation)
        await world.until(lambda: world.stack().status.message == "")


def pause_of(world: World) -> float:
    """Return in how many seconds the stack is due, 0 when nothing is planned."""
    with sqlite3.connect(world.path / "world.db") as database:
        ((pause,),) = database.execute(
            "SELECT (julianday(next_attempt_at) - julianday('now')) * 86400 FROM user_stacks"
        )
    return pause or 0.0


@pytest.mark.parametrize("asked", ["stop", "recreate"])
async def test_an_operation_fails_when_an_allocation_does_not_end_before_the_deadline(tmp_path, asked):
    world = a_world(tmp_path, limits=limits(stop=timedelta(seconds=0.3)))
    async with world.running():
        await world.ensure()
        world.nomad.autostop = False
        provisioning = world.plane.provisioning
        operation = (
            await provisioning.stop(ADA, hold=False, **ASKED)
            if asked == "stop"
            else await provisioning.recreate(ADA, **ASKED)
        )
        await world.until(lambda: "is its node reachable" in world.stack().status.message)
        await world.ensure("bob")

        failed = await provisioning.operation(operation.id)
        assert failed.state is OperationState.FAILED
        assert failed.reason is not None


async def test_a_deletion_that_nomad_refuses_to_finish_does_not_say_that_nomad_is_away(tmp_path):
    world = a_world(tmp_path)
    async with world.running():
        await world.ensure()
        world.nomad.edit_outside(world.job_id(), managed_by="somebody")
        for each in world.nomad.allocations[world.job_id()]:
            world.consul.forget(world.job_id(), each.id)
        await world.plane.provisioning.delete(ADA, delete_workspace=True, **ASKED)
        await world.until(lambda: world.nomad.workspaces.faults.calls["destroy"] >= 2)

        await world.until(lambda: world.stack().status.reason is Reason.JOB_REJECTED)


async def test_a_stack_that_fails_while_it_is_missing_stays_missing(tmp_path):
    world = a_world(tmp_path)
    async with world.running():
        await world.ensure()
        world.nomad.autorun = False
        world.nomad.refuse_placement("no node has the memory")
        world.nomad.purge_outside(world.job_id())
        await world.until(lambda: world.stack().status.reason is Reason.NO_CAPACITY)

        view = await world.plane.provisioning.inspect(ADA)
        assert [each.facet for each in view.staleness] == [Facet.MISSING]


async def test_a_call_that_gets_no_answer_is_laid_to_whom_it_asked(tmp_path):
    world = a_world(tmp_path)
    async with world.running():
        world.vault.faults.fail_next("ensure", DeadlineExceeded("make the secret"), times=None)
        await world.ensure(wait=None)

        await world.until(lambda: world.stack().status.reason is Reason.VAULT_UNAVAILABLE)


async def test_a_runtime_that_hangs_before_its_proof_is_not_waited_for_because_consul_was_away_once(tmp_path):
    """Its job is edited in place meanwhile, so that its proof is begun anew, which asks the runtime first."""
    world = a_world(tmp_path, limits=limits(start=timedelta(seconds=1)))
    async with world.running():
        world.consul.faults.fail_next(
            "instances", UpstreamUnavailable("consul", "instances", "refused"), times=None
        )
        await world.ensure(wait=None)
        await world.until(lambda: world.stack().status.reason is Reason.CONSUL_UNAVAILABLE)
        (allocation,) = world.live_allocations()
        world.prober.servers[allocation.address.host, allocation.address.port].hangs = True
        world.consul.faults.heal()
        world.nomad.change_outside(world.job_id(), labels={"by": "an operator"})
        stack = await world.phase(Phase.FAILED)

        assert stack.status.reason is Reason.NEVER_HEALTHY
