"""What becomes of one stack, from the first ensure to the receipt of its deletion."""

import asyncio
from datetime import timedelta

import pytest

from fakes.opencode import FakeOpenCode
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.errors import (
    RuntimeNotReady,
    StackHeld,
    StackNotFound,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.observation import TaskTrouble
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import Desired, Health, Phase, Reason
from world import ADA, BACKEND, OPERATOR, World, content


async def test_an_ensure_brings_a_runtime_whose_address_is_proven(world: World):
    answer = await world.ensure()

    assert answer.ready
    runtime = answer.view.stack.status.runtime
    assert runtime is not None
    assert runtime.address == world.live_allocations()[0].address
    assert runtime.opencode_version == "1.18.34"
    assert answer.view.stack.status.health is Health.HEALTHY


async def test_an_ensure_of_what_runs_changes_nothing_and_asks_nobody(world: World):
    await world.ensure()
    statements, version = world.store.statements, world.nomad.jobs[world.job_id()].seen.version
    world.vault.fail_next("read", UpstreamUnavailable("vault", "read"), times=None)

    answer = await world.ensure(wait=None)

    assert answer.ready
    assert world.store.statements == statements
    assert world.nomad.jobs[world.job_id()].seen.version == version


async def test_a_thousand_ensures_at_once_make_one_job_one_password_and_one_row(world: World):
    answers = await asyncio.gather(*(world.ensure() for _ in range(1000)))

    assert all(answer.ready for answer in answers)
    assert world.nomad.jobs[world.job_id()].seen.version == 0
    assert await world.vault.latest_version(world.job_id(), _deadline()) == 1
    assert len(await world.store.changes_since(0, limit=10)) == 1


async def test_a_second_user_gets_a_runtime_and_a_password_of_their_own(world: World):
    await asyncio.gather(world.ensure("ada"), world.ensure("Ada"), world.ensure("ada1"))

    jobs = {world.job_id(user) for user in ("ada", "Ada", "ada1")}
    assert len(jobs) == 3
    passwords = {world.vault.stored(job, 1)["password"] for job in jobs}
    assert len(passwords) == 3


async def test_a_stopped_stack_keeps_its_workspace_and_starts_on_it_again(world: World):
    await world.ensure()
    workspace = world.stack().status.workspace

    done = await world.finished(
        await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None)
    )
    assert done.state is OperationState.SUCCEEDED
    assert world.live_allocations() == []
    assert world.stack().status.phase is Phase.STOPPED

    answer = await world.ensure()
    assert answer.ready
    assert answer.view.stack.status.workspace == workspace


@pytest.mark.parametrize("stopped_before", [False, True])
async def test_a_held_stack_says_so_and_what_ends_it_until_it_is_started(
    world: World, *, stopped_before: bool
):
    await world.ensure()
    if stopped_before:
        await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))
        assert world.stack().status.message == ""
    await world.finished(await world.plane.provisioning.stop(ADA, by=OPERATOR, hold=True, if_match=None))

    message = (await world.plane.provisioning.inspect(ADA)).stack.status.message
    assert message == "an operator holds it: no ensure starts it, until a start or a recover does"

    await world.finished(await world.plane.provisioning.recover(ADA, by=OPERATOR, if_match=None))
    assert (await world.ensure()).view.stack.status.message == ""


async def test_a_held_stack_refuses_an_ensure_until_it_is_started(world: World):
    await world.ensure()
    await world.finished(await world.plane.provisioning.stop(ADA, by=OPERATOR, hold=True, if_match=None))

    with pytest.raises(StackHeld):
        await world.ensure()
    await world.finished(await world.plane.provisioning.start(ADA, by=OPERATOR, if_match=None))

    assert (await world.ensure()).ready


async def test_a_recreate_ends_the_old_allocation_before_a_new_one_is_asked_for(world: World):
    await world.ensure()
    old = world.live_allocations()[0]
    world.nomad.autostop = False

    operation = await world.plane.provisioning.recreate(ADA, by=BACKEND, if_match=None)
    await world.phase(Phase.STOPPING)
    assert [a.id for a in world.live_allocations()] == [old.id]
    world.nomad.end_allocation(world.job_id())

    done = await world.finished(operation)
    assert done.state is OperationState.SUCCEEDED
    assert [a.id for a in world.live_allocations()] != [old.id]
    assert world.stack().status.runtime.allocation_id == world.live_allocations()[0].id


async def test_a_rotated_password_is_a_new_version_that_the_new_runtime_takes(world: World):
    await world.ensure()
    before = world.vault.stored(world.job_id(), 1)["password"]

    operation = await world.plane.provisioning.rotate_password(ADA, by=BACKEND, if_match=None)

    assert (await world.finished(operation)).state is OperationState.SUCCEEDED
    credentials = await world.plane.provisioning.credentials(ADA, by=BACKEND, wrap_seconds=None)
    assert credentials.secret_version == 2
    assert credentials.password.reveal() != before


async def test_a_deletion_leaves_nothing_and_ends_with_a_receipt(world: World):
    await world.ensure()
    job_id, allocation = world.job_id(), world.live_allocations()[0]

    operation = await world.plane.provisioning.delete(ADA, by=BACKEND, delete_workspace=True, if_match=None)
    await world.until(lambda: world.stack().status.phase is Phase.DELETING)
    world.consul.forget(job_id, allocation.id)

    done = await world.finished(operation)
    assert done.state is OperationState.SUCCEEDED
    assert done.receipt is not None
    assert done.receipt["workspace"] == "deleted"
    assert job_id not in world.nomad.jobs
    assert job_id not in world.vault.job_ids
    await world.gone()
    with pytest.raises(StackNotFound):
        await world.plane.provisioning.inspect(ADA)


@pytest.mark.parametrize("trouble", ["denied", "leaderless"])
async def test_a_deletion_waits_for_consul_no_longer_than_for_a_stop_and_says_so(tmp_path, trouble):
    limits = Limits(start=timedelta(seconds=60), stop=timedelta(seconds=0.3), poll=timedelta(milliseconds=50))
    world = World(tmp_path, limits=limits)
    async with world.running():
        await world.ensure()
        setattr(world.consul, trouble, True)

        operation = await world.plane.provisioning.delete(
            ADA, by=BACKEND, delete_workspace=False, if_match=None
        )

        receipt = (await world.finished(operation)).receipt
        assert receipt["service"] == "not seen gone: Consul could not be asked"
        assert receipt["secret"] == "destroyed"
        await world.gone()


async def test_a_deletion_waits_for_a_consul_that_is_away_and_comes_back(world: World):
    await world.ensure()
    world.consul.leaderless = True
    operation = await world.plane.provisioning.delete(ADA, by=BACKEND, delete_workspace=False, if_match=None)
    await world.until(lambda: world.stack().status.reason is Reason.CONSUL_UNAVAILABLE)
    assert world.job_id() in world.vault.job_ids

    world.consul.leaderless = False
    for allocation_id in list(world.consul._services.get(world.job_id(), {})):
        world.consul.forget(world.job_id(), allocation_id)

    assert (await world.finished(operation)).receipt["service"] == "deregistered"


async def _delete(world: World, *, workspace: bool):
    allocations = list(world.nomad.allocations.get(world.job_id(), []))
    operation = await world.plane.provisioning.delete(
        ADA, by=BACKEND, delete_workspace=workspace, if_match=None
    )
    for allocation in allocations:
        world.consul.forget(world.job_id(), allocation.id)
    return await world.finished(operation)


async def test_a_kept_workspace_is_taken_up_by_the_next_stack_of_the_user(world: World):
    await world.ensure()
    workspace = world.stack().status.workspace
    receipt = (await _delete(world, workspace=False)).receipt
    assert receipt["workspace"] == "kept"
    await world.gone()

    await world.ensure()

    assert world.stack().status.workspace == workspace
    assert await world.store.kept_workspaces() == []


async def test_a_kept_workspace_can_be_deleted_afterwards(world: World):
    await world.ensure()
    await _delete(world, workspace=False)
    await world.gone()

    receipt = (await _delete(world, workspace=True)).receipt

    assert receipt["workspace"] == "deleted"
    assert await world.nomad.workspaces.find(world.job_id(), _deadline()) is None
    with pytest.raises(StackNotFound):
        await world.plane.provisioning.delete(ADA, by=BACKEND, delete_workspace=True, if_match=None)


async def test_an_ensure_during_a_deletion_runs_after_it(world: World):
    await world.ensure()
    allocation = world.live_allocations()[0]
    world.nomad.autostop = False
    deletion = await world.plane.provisioning.delete(ADA, by=BACKEND, delete_workspace=False, if_match=None)
    await world.phase(Phase.DELETING)

    answer = await world.ensure(wait=None)
    assert not answer.ready
    assert answer.view.stack.intent.desired is Desired.DELETED
    world.nomad.end_allocation(world.job_id())
    world.consul.forget(world.job_id(), allocation.id)

    assert (await world.finished(deletion)).state is OperationState.SUCCEEDED
    stack = await world.phase(Phase.RUNNING)
    assert stack.intent.desired is Desired.RUNNING


async def test_labels_change_in_place_without_a_new_allocation(world: World):
    await world.ensure()
    before = world.live_allocations()[0].id

    answer = await world.ensure(labels={"team": "blue"})

    assert answer.ready
    assert world.live_allocations()[0].id == before
    assert answer.view.staleness == ()


async def test_a_changed_environment_is_reported_stale_and_does_not_restart_a_running_agent(world: World):
    await world.ensure()
    before = world.live_allocations()[0].id

    answer = await world.ensure(environment={"EDITOR": "vim"})

    assert answer.ready
    assert [item.facet for item in answer.view.staleness] == ["environment"]
    assert world.live_allocations()[0].id == before


async def test_a_stack_that_is_not_running_starts_on_the_current_release(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
        await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))
    world.content = content(opencode_version="1.18.35")

    async with world.running():
        await world.ensure()

        assert world.stack().status.runtime.opencode_version == "1.18.35"


async def test_a_runtime_without_a_password_is_stopped_and_never_published(world: World):
    world.server_changes = {"password": ""}

    answer = await world.ensure()

    assert not answer.ready
    assert answer.view.stack.status.reason is Reason.OPEN_WITHOUT_PASSWORD
    await world.until(lambda: not world.live_allocations())
    with pytest.raises(RuntimeNotReady):
        await world.plane.provisioning.address(ADA, "internal")


async def test_a_runtime_of_the_wrong_version_fails_and_says_which_it_is(world: World):
    world.server_changes = {"version": "1.18.20"}

    answer = await world.ensure()

    assert answer.view.stack.status.reason is Reason.WRONG_VERSION
    assert "1.18.20" in answer.view.stack.status.message


async def test_no_capacity_is_said_with_the_schedulers_own_account(world: World):
    world.nomad.refuse_placement("1 node exhausted: memory")

    await world.ensure(wait=None)
    await world.until(lambda: world.stack().status.reason is Reason.NO_CAPACITY)

    assert "memory" in world.stack().status.message
    world.nomad.allow_placement()
    assert (await world.ensure()).ready


async def test_a_driver_that_cannot_start_the_task_is_named(world: World):
    world.nomad.autorun = False
    await world.ensure(wait=None)
    await world.until(lambda: bool(world.live_allocations()))

    world.nomad.trouble_allocation(world.job_id(), TaskTrouble.DRIVER, "no such file: opencode")
    await world.until(lambda: world.stack().status.reason is Reason.DRIVER_FAILED)

    assert "opencode" in world.stack().status.message


async def test_a_version_that_is_older_than_the_data_fails_at_once_and_is_not_tried_again(world: World):
    world.nomad.autorun = False
    await world.ensure(wait=None)
    await world.until(lambda: bool(world.live_allocations()))

    world.nomad.trouble_allocation(world.job_id(), TaskTrouble.DATA_NEWER, "Exit Code: 65")

    await world.until(lambda: world.stack().status.phase is Phase.FAILED and not world.live_allocations())
    assert world.stack().status.reason is Reason.DATA_NEWER
    assert "65" in world.stack().status.message
    registered = world.nomad.faults.calls["register"]
    await world.plane.oversight.reconcile(dry_run=False, by=BACKEND)
    assert world.nomad.faults.calls["register"] == registered


async def test_a_runtime_that_is_not_healthy_in_time_fails_and_is_stopped(tmp_path):
    world = World(
        tmp_path,
        limits=Limits(
            start=timedelta(milliseconds=300), stop=timedelta(seconds=5), poll=timedelta(milliseconds=50)
        ),
    )
    world.server_changes = {"healthy": False}
    async with world.running():
        answer = await world.ensure()

        assert answer.view.stack.status.phase is Phase.FAILED
        assert answer.view.stack.status.reason is Reason.NEVER_HEALTHY
        await world.until(lambda: not world.live_allocations())


async def test_a_foreign_job_under_our_name_is_left_alone(world: World):
    world.nomad.plant_job(world.job_id(), managed_by="somebody-else")

    answer = await world.ensure()

    assert answer.view.stack.status.reason is Reason.FOREIGN_JOB
    assert not world.nomad.jobs[world.job_id()].seen.stopped


async def test_a_runtime_that_ended_by_itself_is_proven_anew(world: World):
    await world.ensure()
    first = world.live_allocations()[0].id

    world.nomad.fail_allocation(world.job_id(), TaskTrouble.OUT_OF_MEMORY, "OOM killed")
    await world.until(lambda: world.stack().status.phase is not Phase.RUNNING)
    with pytest.raises(RuntimeNotReady):
        await world.plane.provisioning.address(ADA, "internal")
    world.nomad.run_allocation(world.job_id())

    stack = await world.phase(Phase.RUNNING)
    assert stack.status.runtime.allocation_id != first


async def test_a_runtime_that_loses_its_password_while_running_is_stopped(world: World):
    await world.ensure()
    address = world.stack().status.runtime.address

    world.prober.serve(address, FakeOpenCode(password=""))

    await world.until(lambda: world.stack().status.reason is Reason.OPEN_WITHOUT_PASSWORD)
    await world.until(lambda: not world.live_allocations())


async def test_a_failed_stack_is_tried_at_once_when_it_is_asked_for_again(world: World):
    world.server_changes = {"version": "1.18.20"}
    await world.ensure()
    world.server_changes = {}

    assert (await world.ensure()).ready


@pytest.mark.parametrize("method", ["render", "register"])
async def test_an_intent_survives_nomad_being_down(world: World, method: str):
    world.nomad.faults.fail_next(method, UpstreamUnavailable("nomad", method, "connection refused"), times=3)

    answer = await world.ensure()

    assert answer.ready


async def test_a_lost_reply_to_a_registration_makes_no_second_version(world: World):
    world.nomad.faults.fail_next(
        "register", UpstreamUnavailable("nomad", "register", "reset"), after_commit=True
    )

    assert (await world.ensure()).ready
    assert world.nomad.jobs[world.job_id()].seen.version == 0


async def test_a_lost_reply_to_a_password_makes_no_second_password(world: World):
    world.vault.fail_next("ensure", UpstreamUnavailable("vault", "ensure", "reset"), after_commit=True)

    assert (await world.ensure()).ready
    assert world.stack().status.secret_version == 1


async def test_vault_down_is_the_reason_while_it_lasts(world: World):
    world.vault.fail_next("ensure", UpstreamUnavailable("vault", "ensure", "sealed"), times=2)

    await world.ensure(wait=None)
    await world.until(lambda: world.stack().status.reason is Reason.VAULT_UNAVAILABLE)

    assert (await world.ensure()).ready


async def test_an_unknown_user_is_not_found(world: World):
    with pytest.raises(StackNotFound):
        await world.plane.provisioning.inspect(UserId("nobody"))


def _deadline():
    from opencode_lifecycle.model.deadline import Deadline  # noqa: PLC0415

    return Deadline.after(5, "a test")
