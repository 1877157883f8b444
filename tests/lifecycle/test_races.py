"""Replicas, workers and watches that cross each other's path: what must come of it, and what must not."""

import asyncio
from datetime import timedelta

import pytest
import structlog

from lifecycle.racing import ASKED, DOWN, UNCHANGED, StuckNomad, milliseconds, of
from opencode_lifecycle.lifecycle.control_plane import ControlPlane, Neighbours, Parameters
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.model.states import Desired, Phase
from world import ADA, OPERATOR, World


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

        await world.begin(world.another_plane())

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
        await world.begin(other)
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
