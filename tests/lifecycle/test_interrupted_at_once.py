"""What waits for no agent: where `when_stale` is `now`, a runtime that is dead, and what a person or a backend asks for."""

from datetime import timedelta

import pytest

from fakes.opencode import FakeSession
from lifecycle.test_pins_and_groups import another_release, pin
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import StackDraining
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.states import MigrationState, Phase, Reason, WhenStale
from world import ADA, BACKEND, OPERATOR, World, ids, server_of

MINUTE = timedelta(seconds=60)
A_SECOND = timedelta(seconds=1)
ENVIRONMENT = {"LANG": "C"}
LIMITS = Limits(
    start=timedelta(seconds=60),
    stop=timedelta(seconds=60),
    poll=timedelta(milliseconds=20),
    idle_after=timedelta(minutes=5),
)


@pytest.fixture
async def world(tmp_path):
    world = World(
        tmp_path, limits=LIMITS, when_stale=WhenStale.NOW, liveness_interval=timedelta(milliseconds=20)
    )
    async with world.running():
        await world.ensure()
        yield world


async def replaced(world: World, before: list[AllocationId]) -> None:
    await world.until(lambda: ids(world) not in [before, []])
    await world.phase(Phase.RUNNING)


async def test_a_stale_runtime_at_work_is_replaced_at_once_and_its_turns_are_aborted_first(world):
    before, server = ids(world), server_of(world)
    server.sessions = [FakeSession(id="ses_1", changed_at=utc_now(), at_work=True)]

    await world.ensure(environment=ENVIRONMENT)

    await replaced(world, before)
    assert server.sessions[0].was_aborted


async def test_turns_are_aborted_before_a_runtime_of_another_version_is_stopped(world):
    before, server = ids(world), server_of(world)
    server.sessions = [FakeSession(id="ses_1", changed_at=utc_now(), at_work=True)]

    await pin(world, await another_release(world, opencode_version="1.18.35"))

    await replaced(world, before)
    assert server.sessions[0].was_aborted


async def test_a_lease_is_waited_for_and_what_is_stale_replaced_as_soon_as_it_ends(world):
    before = ids(world)
    until = await world.plane.leases.extend(ADA, A_SECOND)
    await world.ensure(environment=ENVIRONMENT, wait=None)
    await world.until(lambda: world.stack().status.migration_state is MigrationState.DRAINING)
    assert "until no backend is at work with it" in world.stack().status.message
    assert ids(world) == before

    await replaced(world, before)

    assert utc_now() >= until


async def test_a_lease_that_comes_before_the_stop_is_committed_keeps_the_runtime_and_its_turns(world):
    before, server = ids(world), server_of(world)
    server.sessions = [FakeSession(id="ses_1", changed_at=utc_now(), at_work=True)]
    checking = world.nomad.faults.hold_next("validate")
    await world.ensure(environment=ENVIRONMENT, wait=None)
    await checking.reached.wait()

    await world.store.extend_lease(ADA, utc_now() + MINUTE)
    checking.release()
    await world.until(lambda: "no backend is at work with it" in world.stack().status.message)

    assert (ids(world), server.sessions[0].was_aborted) == (before, False)


async def test_once_the_stop_is_committed_a_lease_is_refused_while_turns_are_aborted(world):
    before = ids(world)
    aborting = world.prober.hold_next("abort_turns")
    await world.ensure(environment=ENVIRONMENT, wait=None)
    await aborting.reached.wait()

    with pytest.raises(StackDraining):
        await world.plane.leases.extend(ADA, MINUTE)
    aborting.release()

    await replaced(world, before)


@pytest.mark.parametrize("what", ["recreate", "rotate_password"])
async def test_what_somebody_asks_for_waits_for_no_lease_and_aborts_what_is_at_work(world, what):
    before, server = ids(world), server_of(world)
    server.sessions = [FakeSession(id="ses_1", changed_at=utc_now(), at_work=True)]
    await world.plane.leases.extend(ADA, MINUTE)

    await world.finished(await getattr(world.plane.provisioning, what)(ADA, by=OPERATOR, if_match=None))

    assert ids(world) != before
    assert server.sessions[0].was_aborted


async def test_a_stop_waits_for_no_lease(world):
    await world.plane.leases.extend(ADA, MINUTE)

    await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))

    assert ids(world) == []


async def test_a_stop_aborts_what_is_at_work(world):
    server = server_of(world)
    server.sessions = [FakeSession(id="ses_1", changed_at=utc_now(), at_work=True)]

    await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))

    assert server.sessions[0].was_aborted


@pytest.mark.parametrize("workspace_deleted", [False, True])
async def test_a_deletion_aborts_what_is_at_work_where_its_workspace_is_kept(world, workspace_deleted):
    server = server_of(world)
    server.sessions = [FakeSession(id="ses_1", changed_at=utc_now(), at_work=True)]

    await world.plane.provisioning.delete(ADA, by=BACKEND, delete_workspace=workspace_deleted, if_match=None)

    await world.until(lambda: ids(world) == [])
    assert server.sessions[0].was_aborted is not workspace_deleted


async def test_a_runtime_that_answers_nothing_is_stopped_without_being_asked(world):
    server_of(world).hangs = True
    await world.until(lambda: world.plane.fleet.get(ADA).silent_probes > 0)
    aborting = world.prober.hold_next("abort_turns")

    await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))

    assert not aborting.reached.is_set()


async def test_a_lease_gives_a_silent_runtime_longer_and_does_not_keep_it_for_ever(world):
    before = ids(world)
    await world.plane.leases.extend(ADA, MINUTE)
    server_of(world).hangs = True

    await replaced(world, before)

    stopping = await world.store.latest_events(ADA, "phase.stopping", limit=1)
    assert [event.data["reason"] for event in stopping] == [Reason.UNRESPONSIVE]
    unanswered = int(stopping[0].data["message"].split()[2])
    assert unanswered >= LIMITS.wedged_probes * LIMITS.patience_when_busy
