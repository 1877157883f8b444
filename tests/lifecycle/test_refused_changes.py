"""A change of a running runtime that is refused: the runtime runs on, and whoever asks has the change tried again."""

from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.errors import InvalidBody, UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.release import ResourceClass
from opencode_lifecycle.model.states import MigrationState, Phase, Reason, WhenStale
from world import ADA, BACKEND, OPERATOR, World, content

IDLE_AT_ONCE = Limits(
    start=timedelta(seconds=60),
    stop=timedelta(seconds=60),
    poll=timedelta(milliseconds=50),
    idle_after=timedelta(0),
    idle_poll=timedelta(milliseconds=20),
)
NO = UpstreamRejected("nomad", "register", "no")


async def refused(world: World) -> None:
    """Let Nomad refuse the labels of a runtime once."""
    await world.ensure()
    world.nomad.faults.fail_next("register", NO)
    await world.ensure(labels={"team": "blue"}, wait=None)
    await world.until(lambda: world.stack().is_settled and world.stack().status.reason is Reason.JOB_REJECTED)


async def test_recover_has_a_refused_change_tried_again(world):
    await refused(world)
    (before,) = world.live_allocations()

    operation = await world.plane.provisioning.recover(ADA, by=OPERATOR, if_match=None)

    assert (await world.finished(operation)).state is OperationState.SUCCEEDED
    status = world.stack().status
    assert status.migration_state is MigrationState.CURRENT
    assert (status.reason, status.message) == (None, "")
    assert [each.id for each in world.live_allocations()] == [before.id]


@pytest.mark.parametrize("wish", [{}, {"labels": {"team": "blue"}}])
async def test_an_ensure_answers_for_a_runtime_whose_change_was_refused(world, wish):
    await refused(world)
    tried = world.nomad.faults.calls["register"]

    answer = await world.ensure(**wish, wait=None)

    assert answer.ready  # the runtime that runs is as good as before
    assert [each.facet for each in answer.view.staleness] == [Facet.LABELS]
    assert answer.view.stack.status.migration_state is MigrationState.FAILED
    assert world.nomad.faults.calls["register"] == tried


# --- before anything is stopped


@pytest.fixture
async def swept(tmp_path):
    """Give a world with a runtime that may be interrupted, whose secret is looked at again and again."""
    world = World(tmp_path, limits=IDLE_AT_ONCE, secret_sweep_interval=timedelta(milliseconds=20))
    async with world.running():
        await world.ensure()
        yield world


async def test_a_version_of_the_secret_without_a_password_stops_nothing(swept):
    (before,) = swept.live_allocations()

    swept.vault.put(swept.job_id(), {"passwort": "a-typing-error"})
    await swept.until(lambda: swept.stack().status.reason is Reason.SECRET_MISSING)

    status = swept.stack().status
    assert (status.phase, status.migration_state) == (Phase.RUNNING, MigrationState.FAILED)
    assert "version 2 of its secret has no password" in status.message
    assert [each.id for each in swept.live_allocations()] == [before.id]


async def test_the_next_version_of_the_secret_is_taken_up_by_itself(swept):
    (before,) = swept.live_allocations()
    swept.vault.put(swept.job_id(), {"passwort": "a-typing-error"})
    await swept.until(lambda: swept.stack().status.reason is Reason.SECRET_MISSING)

    swept.vault.put(swept.job_id(), {"password": "right"})
    await swept.until(lambda: swept.stack().status.migration_state is MigrationState.CURRENT)

    status = swept.stack().status
    assert (status.runtime.secret_version, status.reason) == (3, None)
    assert [each.id for each in swept.live_allocations()] != [before.id]


async def test_a_recreate_with_a_secret_without_a_password_fails_and_leaves_what_runs(swept):
    (before,) = swept.live_allocations()
    swept.vault.put(swept.job_id(), {"passwort": "a-typing-error"})
    await swept.until(lambda: swept.stack().status.reason is Reason.SECRET_MISSING)

    operation = await swept.finished(await swept.plane.provisioning.recreate(ADA, by=OPERATOR, if_match=None))

    assert (operation.state, operation.reason) == (OperationState.FAILED, Reason.SECRET_MISSING)
    assert [each.id for each in swept.live_allocations()] == [before.id]


HUGE = {"huge": ResourceClass(cpu=800, memory=4096, memory_max=8192)}


@pytest.fixture(params=[WhenStale.NOW, WhenStale.IDLE])
async def eager(tmp_path, request):
    """One in which a runtime is replaced as soon as it is stale: it is always idle."""
    world = World(tmp_path, when_stale=request.param, limits=IDLE_AT_ONCE)
    async with world.running():
        yield world


async def test_nothing_is_stopped_for_a_change_while_vault_does_not_answer(eager):
    await eager.ensure()
    (before,) = eager.live_allocations()
    eager.vault.faults.fail_next("*", UpstreamUnavailable("vault", "read", "Vault is sealed"), times=None)

    await eager.ensure(resources="large", wait=None)
    await eager.until(lambda: eager.stack().status.attempts > 2)

    assert [each.id for each in eager.live_allocations()] == [before.id]
    eager.vault.faults.heal()
    await eager.until(lambda: eager.stack().is_settled)
    assert [each.id for each in eager.live_allocations()] != [before.id]


async def test_a_class_that_only_a_newer_release_has_is_refused_at_once(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
    world.content = content(resource_classes={**world.content.resource_classes, **HUGE})
    async with world.running():
        with pytest.raises(InvalidBody) as refusal:
            await world.ensure(resources="huge")

        assert "it has large, small" in refusal.value.faults[0].detail
        assert world.stack().intent.generation == 1


async def test_a_class_that_a_newer_release_dropped_is_good_for_a_runtime_of_the_older(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
    world.content = content(resource_classes={"small": world.content.resource_classes["small"]})
    async with world.running():
        await world.ensure(resources="large")

        assert world.stack().intent.resources == "large"


async def test_a_stopped_stack_may_have_a_class_of_the_newer_release_on_which_it_starts(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
        await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))
    world.content = content(resource_classes={**world.content.resource_classes, **HUGE})
    async with world.running():
        assert (await world.ensure(resources="huge")).ready


async def test_a_runtime_is_not_stopped_for_a_job_that_nomad_would_refuse(eager):
    await eager.ensure()
    (before,) = eager.live_allocations()
    eager.nomad.faults.fail_next(
        "validate", UpstreamRejected("nomad", "validate", "1 error occurred: no"), times=None
    )

    await eager.ensure(resources="large", wait=None)
    await eager.until(lambda: eager.stack().is_settled and eager.stack().is_refused)

    status = eager.stack().status
    assert (status.phase, status.reason) == (Phase.RUNNING, Reason.JOB_REJECTED)
    assert "1 error occurred: no" in status.message
    assert [each.id for each in eager.live_allocations()] == [before.id]
    assert eager.nomad.faults.calls["deregister"] == 0


async def test_a_runtime_is_not_stopped_for_a_job_that_cannot_be_rendered(eager):
    await eager.ensure()
    (before,) = eager.live_allocations()
    eager.nomad.faults.fail_next(
        "render", UpstreamRejected("nomad", "render", "no such function"), times=None
    )

    await eager.ensure(resources="large", wait=None)
    await eager.until(lambda: eager.stack().is_settled and eager.stack().is_refused)

    assert eager.stack().status.phase is Phase.RUNNING
    assert [each.id for each in eager.live_allocations()] == [before.id]


async def test_a_runtime_is_not_stopped_while_nomad_cannot_say_whether_it_would_take_the_job(eager):
    await eager.ensure()
    (before,) = eager.live_allocations()
    eager.nomad.faults.fail_next("validate", UpstreamUnavailable("nomad", "validate", "no leader"), times=3)

    await eager.ensure(resources="large", wait=None)
    await eager.until(lambda: eager.nomad.faults.calls["validate"] >= 2)
    assert [each.id for each in eager.live_allocations()] == [before.id]

    await eager.until(lambda: [each.id for each in eager.live_allocations()] not in [[before.id], []])


async def test_a_replacement_that_was_refused_is_made_when_it_is_asked_for_again(eager):
    await eager.ensure()
    (before,) = eager.live_allocations()
    eager.nomad.faults.fail_next("validate", UpstreamRejected("nomad", "validate", "no"))
    await eager.ensure(resources="large", wait=None)
    await eager.until(lambda: eager.stack().is_settled and eager.stack().is_refused)

    await eager.plane.provisioning.recover(ADA, by=OPERATOR, if_match=None)

    await eager.until(lambda: [each.id for each in eager.live_allocations()] not in [[before.id], []])
    await eager.until(lambda: eager.stack().status.migration_state is MigrationState.CURRENT)


async def test_a_recreate_does_not_stop_a_runtime_for_a_release_that_dropped_its_class(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure(resources="large")
    world.content = content(resource_classes={"small": world.content.resource_classes["small"]})
    async with world.running():
        (before,) = world.live_allocations()

        operation = await world.finished(
            await world.plane.provisioning.recreate(ADA, by=OPERATOR, if_match=None)
        )

        assert (operation.state, operation.reason) == (OperationState.FAILED, Reason.JOB_REJECTED)
        assert world.stack().status.phase is Phase.RUNNING
        assert [each.id for each in world.live_allocations()] == [before.id]


async def test_a_recreate_that_was_refused_is_not_tried_again_until_somebody_asks(world):
    await world.ensure()
    (before,) = world.live_allocations()
    world.nomad.faults.fail_next("validate", UpstreamRejected("nomad", "validate", "no"))
    await world.finished(await world.plane.provisioning.recreate(ADA, by=OPERATOR, if_match=None))
    tried = world.nomad.faults.calls["validate"]

    world.plane.dispatcher.hint(ADA)
    await world.until(lambda: not world.plane.dispatcher.at_work)
    await world.plane._nomad.list_once()
    await world.ensure("bob")
    assert world.nomad.faults.calls["validate"] == tried
    assert [each.id for each in world.live_allocations()] == [before.id]

    await world.finished(await world.plane.provisioning.recover(ADA, by=OPERATOR, if_match=None))
    assert [each.id for each in world.live_allocations()] != [before.id]


async def test_a_runtime_that_began_to_work_while_nomad_was_asked_is_not_stopped(tmp_path):
    """That it is idle is asked as the last act before the stop."""
    world = World(tmp_path, limits=IDLE_AT_ONCE)
    async with world.running():
        await world.ensure()
        (before,) = world.live_allocations()
        hold = world.nomad.faults.hold_next("validate")
        await world.ensure(resources="large", wait=None)
        await hold.reached.wait()
        (server,) = world.prober.servers.values()
        server.busy = True
        hold.release()

        await world.until(lambda: "waits until it is idle" in world.stack().status.message)
        assert [each.id for each in world.live_allocations()] == [before.id]
