"""Requests, workers, watches and neighbours that cross each other's path: what must come of it, and what must not."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
import structlog

from fakes.opencode import FakeOpenCode
from opencode_lifecycle.lifecycle.control_plane import ControlPlane, Neighbours, Parameters
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import RuntimeNotReady, StackHeld, UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.model.states import Desired, Health, Phase, Reason
from opencode_lifecycle.model.view import EnsureRequest
from opencode_lifecycle.ports.stores import StackQuery
from world import ADA, BACKEND, OPERATOR, World

ASKED = {"by": BACKEND, "if_match": None}
UNCHANGED = EnsureRequest()
DOWN = UpstreamUnavailable("nomad", "call", "connection refused")


def of(world: World):
    return world.plane.provisioning


def milliseconds(number: int) -> timedelta:
    return timedelta(milliseconds=number)


class StuckNomad:
    """The Nomad that a replica sees whose stream and listings hang after the first: it lives on what it saw once."""

    def __init__(self, real) -> None:
        self._real = real
        self._listings = 0

    def __getattr__(self, name: str):
        return getattr(self._real, name)

    async def list_all(self, deadline):
        self._listings += 1
        if self._listings > 1:
            async with deadline.enforce():
                await asyncio.Event().wait()
        return await self._real.list_all(deadline)

    async def follow(self, index: int):
        await asyncio.Event().wait()
        yield index


# --- waiting is waiting


async def test_a_sealed_vault_is_asked_with_growing_pauses(world: World):
    world.vault.sealed = True
    await world.ensure(wait=None)
    await world.until(lambda: world.stack().status.attempts >= 3)

    assert world.vault.faults.calls["ensure"] <= world.stack().status.attempts + 1


async def test_a_deletion_that_waits_for_consul_asks_once_a_second(world: World):
    await world.ensure()
    await of(world).delete(ADA, delete_workspace=False, **ASKED)
    await world.until(lambda: world.consul.faults.calls["instances"] >= 3)

    assert world.stack().status.phase is Phase.DELETING
    assert world.store.statements < 200


async def test_what_no_look_puts_right_in_memory_is_acted_on_twice_at_most(world: World):
    await world.ensure()
    await world.finished(await of(world).stop(ADA, hold=False, **ASKED))
    await world.until(lambda: getattr(world.plane.fleet.get(ADA).secret, "user_id", None) == ADA)
    stops = world.nomad.faults.calls["deregister"]
    seen = world.plane.fleet.latest(world.job_id())
    runs = replace(seen.job, stopped=False, modify_index=10**6)

    world.plane.fleet.see(world.job_id(), replace(seen, job=runs, index=10**6))
    await world.until(lambda: world.nomad.faults.calls["deregister"] >= stops + 2)
    for other in ("bob", "cyd"):
        await world.ensure(other)

    assert world.nomad.faults.calls["deregister"] == stops + 2


# --- stop, start and what lies between


async def test_a_stop_that_never_reached_nomad_is_forgotten_by_an_ensure(world: World):
    await world.ensure()
    runs = world.live_allocations()[0].id
    world.nomad.faults.fail_next("deregister", DOWN, times=None)
    await of(world).stop(ADA, hold=False, **ASKED)
    await world.phase(Phase.STOPPING)
    ensured = await world.ensure(wait=None)
    world.nomad.faults.heal()

    assert not ensured.ready
    await world.phase(Phase.RUNNING)
    assert world.live_allocations()[0].id == runs


async def test_a_worker_whose_claim_lapsed_does_nothing_to_what_was_started_since(tmp_path):
    world = World(tmp_path, claim_lifetime=milliseconds(300))
    async with world.running():
        await world.ensure()
        hold = world.nomad.faults.hold_next("deregister")
        await of(world).stop(ADA, hold=False, **ASKED)
        await hold.reached.wait()
        ensured = await world.ensure(wait=1)
        hold.release()
        await world.phase(Phase.RUNNING)

        assert (await world.ensure()).ready
        assert len(world.live_allocations()) == 1
        assert ensured.view.stack.intent.desired == "running"


async def test_a_hold_is_not_lifted_by_a_recreate(world: World):
    await world.ensure()
    await world.finished(await of(world).stop(ADA, by=OPERATOR, hold=True, if_match=None))

    with pytest.raises(StackHeld):
        await of(world).recreate(ADA, **ASKED)


# --- passwords


async def test_a_rotation_whose_reply_was_lost_is_found_done(world: World):
    await world.ensure()
    world.vault.fail_next("rotate", UpstreamUnavailable("vault", "rotate", "reset"), after_commit=True)

    done = await world.finished(await of(world).rotate_password(ADA, **ASKED))

    assert done.state is OperationState.SUCCEEDED
    assert world.stack().status.runtime.secret_version == 2


async def test_a_password_that_an_administrator_put_is_taken_as_the_new_one(world: World):
    await world.ensure()
    world.vault.put(world.job_id(), {"password": "put-by-hand-0123456789", "env": {}})

    done = await world.finished(await of(world).rotate_password(ADA, **ASKED))

    assert done.state is OperationState.SUCCEEDED
    credentials = await of(world).credentials(ADA, by=BACKEND, wrap_seconds=None)
    assert credentials.password.reveal() == "put-by-hand-0123456789"


async def test_a_secret_that_is_gone_is_made_anew_by_a_rotation(world: World):
    await world.ensure()
    world.vault.delete_latest(world.job_id())

    done = await world.finished(await of(world).rotate_password(ADA, **ASKED))

    assert done.state is OperationState.SUCCEEDED
    assert (await world.ensure()).ready


async def test_a_rotation_of_a_stopped_stack_writes_the_new_password(world: World):
    await world.ensure()
    await world.finished(await of(world).stop(ADA, hold=False, **ASKED))

    done = await world.finished(await of(world).rotate_password(ADA, **ASKED))

    assert done.state is OperationState.SUCCEEDED
    assert world.stack().status.phase is Phase.STOPPED
    assert world.stack().status.secret_version == 2


# --- refusals


async def test_what_was_learnt_before_a_refusal_is_kept(world: World):
    world.nomad.faults.fail_next("register", UpstreamRejected("nomad", "register", "no"))
    await world.ensure()
    await world.until(lambda: world.stack().status.reason is Reason.JOB_REJECTED)

    assert world.stack().status.workspace is not None
    deleted = await world.finished(await of(world).delete(ADA, delete_workspace=False, **ASKED))
    assert deleted.receipt["workspace"] == "kept"
    assert len(await world.store.kept_workspaces()) == 1


async def test_a_refused_label_leaves_the_runtime_running(world: World):
    await world.ensure()
    world.nomad.faults.fail_next("register", UpstreamRejected("nomad", "register", "no"))

    await world.ensure(labels={"team": "blue"}, wait=None)
    await world.until(lambda: world.stack().status.reason is Reason.JOB_REJECTED)

    assert world.stack().status.phase is Phase.RUNNING
    assert len(world.live_allocations()) == 1


async def test_an_open_server_stays_stopped_although_the_stop_failed_at_first(world: World):
    world.server_changes = {"password": ""}
    world.nomad.faults.fail_next("deregister", DOWN)

    await world.ensure()
    await world.until(lambda: not world.live_allocations())

    assert world.stack().status.reason is Reason.OPEN_WITHOUT_PASSWORD
    assert len(world.nomad.allocations[world.job_id()]) == 1


async def test_a_second_ensure_of_a_foreign_job_ends_as_the_first(world: World):
    world.nomad.plant_job(world.job_id(), managed_by="somebody-else")
    await world.ensure()

    answer = await world.ensure()

    operation = await of(world).operation(answer.operation)
    assert (await world.finished(operation)).state is OperationState.FAILED


async def test_a_volume_that_vanished_is_not_replaced_by_an_empty_one(world: World):
    await world.ensure()
    await world.finished(await of(world).stop(ADA, hold=False, **ASKED))
    world.nomad.workspaces.lose(world.job_id())

    answer = await world.ensure()

    assert answer.view.stack.status.reason is Reason.WORKSPACE_UNAVAILABLE
    assert world.live_allocations() == []


# --- proofs and probes


async def test_a_task_that_restarted_is_not_proven_by_what_it_showed_before(world: World):
    await world.ensure()
    address = world.stack().status.runtime.address
    world.prober.withdraw(address)

    world.nomad.restart_task(world.job_id())
    await world.phase(Phase.STARTING)

    with pytest.raises(RuntimeNotReady):
        await of(world).address(ADA, "internal")
    password = str(world.vault.stored(world.job_id(), 1)["password"])
    world.prober.serve(address, FakeOpenCode(password=password))
    assert (await world.phase(Phase.RUNNING)).status.runtime.restarts == 1


async def test_what_was_heard_of_an_open_server_is_not_held_against_the_next(world: World):
    await world.ensure()
    world.prober.serve(world.stack().status.runtime.address, FakeOpenCode(password=""))
    await world.until(lambda: world.stack().status.reason is Reason.OPEN_WITHOUT_PASSWORD)
    await world.until(lambda: not world.live_allocations())

    done = await world.finished(await of(world).recover(ADA, **ASKED))

    assert done.state is OperationState.SUCCEEDED
    assert world.stack().status.health is Health.HEALTHY


async def test_a_runtime_that_cannot_be_proven_while_consul_is_away_is_not_stopped(tmp_path):
    world = World(
        tmp_path, limits=Limits(start=milliseconds(300), stop=timedelta(seconds=5), poll=milliseconds(50))
    )
    async with world.running():
        world.consul.leaderless = True
        await world.ensure(wait=1)

        assert world.stack().status.phase is Phase.STARTING
        assert world.stack().status.reason is Reason.CONSUL_UNAVAILABLE
        assert len(world.live_allocations()) == 1
        world.consul.leaderless = False
        await world.phase(Phase.RUNNING)


# --- deletions


async def test_a_deletion_never_takes_absent_from_memory(tmp_path):
    world = World(tmp_path, resync_interval=timedelta(seconds=10))
    world.nomad.autorun = False
    world.nomad.faults.fail_next("follow", DOWN, times=None)
    async with world.running():
        hold = world.nomad.faults.hold_next("register", after_commit=True)
        await world.ensure(wait=None)
        await hold.reached.wait()

        done = await world.finished(await of(world).delete(ADA, delete_workspace=False, **ASKED))

        assert done.receipt["job"] == "purged"
        assert world.job_id() not in world.nomad.jobs


async def test_a_replica_that_sees_nothing_new_does_not_orphan_a_job_that_another_registered(tmp_path):
    world = World(tmp_path, shares_database=True)
    world.nomad.autorun = False
    async with world.running():
        neighbours = Neighbours(
            store=world.store,
            orchestrator=StuckNomad(world.nomad),
            workspaces=world.nomad.workspaces,
            live_files=world.nomad.live_files,
            cluster_mark=world.nomad.cluster_mark,
            passwords=world.vault,
            catalog=world.consul,
            prober=world.prober,
            events=world.prober,
        )
        other = ControlPlane(neighbours, Parameters(**world.parameters))
        other.dispatcher._workers = 0
        async with other.running(world.content):
            await world.ensure(wait=None)
            await world.phase(Phase.STARTING)
            await world.until(lambda: other.fleet.get(ADA) is not None)
            world.plane.dispatcher._workers = 0
            other.dispatcher._workers = 64

            done = await world.finished(await other.provisioning.delete(ADA, delete_workspace=False, **ASKED))

            assert done.receipt["job"] == "purged"
            assert world.job_id() not in world.nomad.jobs


async def test_a_replica_that_starts_leaves_the_claims_of_another_alone(tmp_path):
    world = World(tmp_path, shares_database=True)
    async with world.running():
        world.nomad.autorun = False
        hold = world.nomad.faults.hold_next("register")
        await world.ensure(wait=None)
        await hold.reached.wait()

        await world.another_plane()._begin(world.content)

        now = utc_now()
        lapses_at = now + timedelta(minutes=1)
        assert not await world.store.claim(limit=5, now=now, lapses_at=lapses_at, hinted=[ADA])
        hold.release()


@pytest.fixture
async def cut_off(tmp_path):
    """A replica that runs ada's stack and hears no more of what the other one writes, which has just stopped it."""
    world = World(tmp_path, shares_database=True)
    async with world.running():
        await world.ensure()
        await world.until(lambda: of(world).hot(ADA, UNCHANGED) is not None)
        other = world.another_plane()
        await other._begin(world.content)
        world.plane.dispatcher._workers = 0

        async def fail() -> None:
            raise UpstreamUnavailable("database", "read", "connection refused")

        world.plane._changes.catch_up = fail
        await other.provisioning.stop(ADA, hold=False, **ASKED)
        await world.until(world.plane._changes.is_behind)
        yield world


async def test_memory_that_may_lack_what_another_replica_wrote_answers_no_ensure(cut_off: World):
    assert of(cut_off).hot(ADA, UNCHANGED) is None


async def test_memory_that_may_lack_what_another_replica_wrote_is_not_shown_where_the_row_can_be_read(
    cut_off: World,
):
    assert (await of(cut_off).inspect(ADA)).stack.intent.desired is Desired.STOPPED


async def test_what_is_remembered_is_shown_while_the_database_is_away(cut_off: World, monkeypatch):
    async def away(_: object) -> None:
        raise UpstreamUnavailable("database", "read", "connection refused")

    monkeypatch.setattr(cut_off.plane.provisioning._inspection._stacks, "get", away)

    assert (await of(cut_off).inspect(ADA)).stack.user_id == ADA


async def test_an_ensure_in_the_last_moment_of_a_deletion_is_not_held_up(world: World):
    await world.ensure()
    allocation = world.live_allocations()[0]
    hold = world.nomad.live_files.faults.hold_next("clear")
    deletion = await of(world).delete(ADA, delete_workspace=False, **ASKED)
    world.consul.forget(world.job_id(), allocation.id)
    await hold.reached.wait()
    waiting = asyncio.create_task(world.ensure())
    await world.until(lambda: world.stack().intent.successor is not None)
    hold.release()

    assert (await waiting).ready
    assert (await world.finished(deletion)).receipt["workspace"] == "kept"


async def test_a_stop_withdraws_what_was_to_follow_a_deletion_and_nothing_else(world: World):
    await world.ensure()
    allocation = world.live_allocations()[0]
    world.nomad.autostop = False
    deletion = await of(world).delete(ADA, delete_workspace=False, **ASKED)
    await world.phase(Phase.DELETING)
    await world.ensure(wait=None)

    stop = await of(world).stop(ADA, hold=False, **ASKED)
    again = await of(world).delete(ADA, delete_workspace=False, **ASKED)
    world.nomad.end_allocation(world.job_id())
    world.consul.forget(world.job_id(), allocation.id)
    await world.gone()

    assert again.id == deletion.id
    assert (await of(world).operation(stop.id)).state is OperationState.SUCCEEDED
    assert (await of(world).operation(deletion.id)).receipt is not None


async def test_a_deletion_waits_for_an_allocation_whose_job_was_purged_outside(world: World):
    await world.ensure()
    job_id = world.job_id()
    allocation = world.live_allocations()[0]
    del world.nomad.jobs[job_id]
    world.consul.forget(job_id, allocation.id)
    await of(world).delete(ADA, delete_workspace=False, **ASKED)
    await world.until(lambda: "waiting for allocation" in world.stack().status.message)

    assert job_id in world.vault.job_ids
    world.nomad.end_allocation(job_id)
    await world.gone()


async def test_a_list_does_not_bring_back_a_stack_that_was_deleted_while_it_was_read(world: World):
    await world.ensure()
    read = world.stack()
    allocation = world.live_allocations()[0]
    deletion = await of(world).delete(ADA, delete_workspace=True, **ASKED)
    world.consul.forget(world.job_id(), allocation.id)
    await world.finished(deletion)
    await world.gone()

    world.plane.fleet.put(read)

    assert world.plane.fleet.get(ADA) is None
    assert (await of(world).find(StackQuery())).items == []


# --- labels


async def test_a_label_does_not_withdraw_the_address_while_nomad_takes_it_in(world: World):
    await world.ensure()
    phases = set()
    world.plane.fleet.on_change, told = (
        lambda known: (phases.add(known.stack.status.phase), told(known)),
        world.plane.fleet.on_change,
    )
    await world.ensure(labels={"team": "blue"})

    assert phases == {Phase.RUNNING}


# --- the process itself


async def test_a_worker_that_cannot_claim_does_not_stop_the_others_for_ever(world: World, monkeypatch):
    real = world.store.claim
    failures = iter([ValueError("a row of a newer version")])

    async def claim(**arguments):
        for failure in failures:
            raise failure
        return await real(**arguments)

    monkeypatch.setattr(world.store, "claim", claim)

    assert (await world.ensure()).ready


async def test_one_stack_that_cannot_be_judged_does_not_blind_the_watch(world: World, monkeypatch):
    real = world.plane.dispatcher.attend

    def attend(known):
        if known.stack.user_id == "broken":
            raise RuntimeError("a defect")
        real(known)

    monkeypatch.setattr(world.plane.dispatcher, "attend", attend)

    # Drawing a traceback with all that it knows, again and again, takes longer than a runtime takes to start.
    with structlog.testing.capture_logs() as lines:
        await world.ensure("broken", wait=None)
        is_ready = (await world.ensure("ada")).ready

    assert is_ready
    assert {line["job_id"] for line in lines if line["event"] == "cannot judge a stack"} == {
        world.job_id("broken")
    }


async def test_an_older_answer_about_tokens_does_not_bring_back_a_revoked_one(world: World, monkeypatch):
    token, secret = await world.plane.access.issue("backend", Role.BACKEND, None, by=OPERATOR)
    real, late = world.store.active_tokens, asyncio.Event()
    answers = iter([True])

    async def active_tokens():
        found = await real()
        for _ in answers:
            await late.wait()
        return found

    monkeypatch.setattr(world.store, "active_tokens", active_tokens)
    older = asyncio.create_task(world.plane.access.refresh())
    await asyncio.sleep(0)
    revoked = asyncio.create_task(world.plane.access.revoke(token.id, by=OPERATOR))
    await world.until(lambda: older.get_coro().cr_await is not None)
    late.set()
    await asyncio.gather(older, revoked)

    assert world.plane.access.authenticate(secret) is None


async def test_requests_that_find_a_stack_unseen_share_one_look(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
    world.nomad.faults.fail_next("list_all", DOWN, times=None)

    async with world.running():
        before = world.nomad.faults.calls["observe"]
        answers = await asyncio.gather(*(world.ensure(wait=None) for _ in range(50)))

        assert all(answer.ready for answer in answers)
        assert world.nomad.faults.calls["observe"] - before <= 2
        assert world.plane.fleet.get(UserId("ada")).silent_probes == 0


async def test_a_deletion_that_comes_between_a_start_and_its_secret_leaves_no_secret_behind(world: World):
    await world.ensure()
    world.consul.forget(world.job_id(), world.live_allocations()[0].id)
    save, deletions = world.store.save, []

    async def delete_before_the_start_is_saved(claimed, progress):
        if progress.status.phase is Phase.PENDING and not deletions:
            deletions.append(await of(world).delete(ADA, delete_workspace=True, **ASKED))
        return await save(claimed, progress)

    world.store.save = delete_before_the_start_is_saved
    await of(world).recreate(ADA, **ASKED)
    await world.until(lambda: bool(deletions))

    receipt = (await world.finished(deletions[0])).receipt

    assert receipt["secret"] == "destroyed"
    assert world.job_id() not in world.vault.job_ids
    assert world.job_id() not in world.nomad.live_files.pointers


async def test_an_ensure_after_a_deletion_whose_reply_was_lost_is_not_answered_from_memory(world: World):
    await world.ensure()
    decide = world.store.decide

    async def lose_the_reply(user_id, decision):
        await decide(user_id, decision)
        world.store.decide = decide
        raise UpstreamUnavailable("database", "decide", "the connection broke")

    world.store.decide = lose_the_reply
    with pytest.raises(UpstreamUnavailable):
        await of(world).delete(ADA, delete_workspace=False, **ASKED)

    answer = await world.ensure(wait=None)

    assert not answer.ready
    assert world.stack().intent.successor is not None
