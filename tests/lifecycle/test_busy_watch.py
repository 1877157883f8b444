"""Runtimes whose migration waits for their agent are listened to, and what they tell is known at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from database_examples import RUNTIME, a_stack
from fakes.consul import FakeConsul
from fakes.faults import Hold
from fakes.opencode import FakeOpenCode, FakeProber
from fakes.vault import FakeVault
from opencode_lifecycle.lifecycle.background import keep_going
from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.lifecycle.observing import busy_watch
from opencode_lifecycle.lifecycle.observing.busy_watch import BusyWatch
from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.observing.recent_passwords import RecentPasswords
from opencode_lifecycle.lifecycle.observing.vouching import Vouching
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.identifiers import AllocationId, UserId
from opencode_lifecycle.model.stack import Address, Stack
from opencode_lifecycle.model.states import MigrationState, Phase
from opencode_lifecycle.ports.prober import Activity
from opencode_lifecycle.ports.runtime_events import EventKind
from opencode_lifecycle.telemetry import FleetCollector
from world import World

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ADA, BOB = UserId("ada"), UserId("bob")
DRAINING, QUEUED = MigrationState.DRAINING, MigrationState.QUEUED


class SlowProber(FakeProber):
    """One whose answers can be held back after what they say was read."""

    answers: Hold | None = None

    async def activity(self, **asked: object) -> Activity | None:
        activity = await super().activity(**asked)
        hold, self.answers = self.answers, None
        if hold is not None:
            await hold.wait()
        return activity


class Rig:
    """A watch over fakes. `idle` are the users that were seen to have finished, in order."""

    def __init__(self, most: int = 200) -> None:
        self.prober, self.vault, self.consul = SlowProber(), FakeVault(), FakeConsul()
        self.fleet = Fleet(now=lambda: datetime.now(UTC), max_age=timedelta(seconds=30))
        self.idle: list[UserId] = []
        self.watch = BusyWatch(
            fleet=self.fleet,
            events=self.prober,
            vouching=Vouching(
                fleet=self.fleet,
                prober=self.prober,
                passwords=RecentPasswords(self.vault),
                catalog=self.consul,
            ),
            now=lambda: datetime.now(UTC),
            random=Random(0),
            timeout=timedelta(seconds=5),
            most=most,
        )
        self.fleet.on_change = self.watch.consider
        self.fleet.on_removal = self.watch.forget
        self.fleet.on_idle = lambda known: self.idle.append(known.stack.user_id)
        self._seq = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Rig"]:
        going = keep_going("watch", self.watch.round, backoff=Backoff(first=1, most=1), random=Random(0))
        task = asyncio.create_task(going)
        yield self
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await self.watch.close()
        assert not any(server.listeners for server in self.prober.servers.values())

    def given(
        self,
        user_id: UserId = ADA,
        *,
        state: MigrationState = DRAINING,
        busy: bool = False,
        since: datetime = NOW,
        **changes: object,
    ) -> FakeOpenCode:
        """Have a runtime that runs as one that is waited for, and is known to Consul."""
        number = 24000 + len(self.prober.servers)
        runtime = replace(
            RUNTIME,
            allocation_id=AllocationId(f"of-{user_id}-{number}"),
            address=Address(host="127.0.0.1", port=number),
            secret_version=1,
        )
        stack = self.put(user_id, state=state, since=since, runtime=runtime, **changes)
        self.vault.put(stack.job_id, {"password": f"of-{user_id}", "env": {}})
        self.consul.register(stack.job_id, runtime.allocation_id, runtime.address)
        return self.prober.serve(runtime.address, FakeOpenCode(password=f"of-{user_id}", busy=busy))

    def put(
        self,
        user_id: UserId = ADA,
        *,
        state: MigrationState = DRAINING,
        since: datetime = NOW,
        **changes: object,
    ) -> Stack:
        """Write the row of a user anew."""
        known = self.fleet.get(user_id)
        stack = known.stack if known is not None else a_stack(user_id)
        self._seq += 1
        values = {"phase": Phase.RUNNING, "migration_state": state, **changes}
        stack = replace(stack, status=replace(stack.status, **values), updated_at=since, change_seq=self._seq)
        self.fleet.put(stack)
        return stack

    def known(self, user_id: UserId = ADA) -> Known:
        known = self.fleet.get(user_id)
        assert known is not None
        return known

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not is_so():  # noqa: ASYNC110 - what is waited for is any condition of a test
                await asyncio.sleep(0.005)

    async def until_listened_to(self, server: FakeOpenCode, looks: int = 1) -> None:
        await self.until(lambda: bool(server.listeners) and self.prober.faults.calls["activity"] >= looks)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Shorten the pauses. None of them decides about what follows."""
    monkeypatch.setattr(busy_watch, "SETTLING", 0.005)
    monkeypatch.setattr(busy_watch, "BETWEEN_LOOKS", 0.005)
    monkeypatch.setattr(busy_watch, "LAG", 0.02)
    monkeypatch.setattr(busy_watch, "PAUSES", Backoff(first=0.01, most=0.02))


@pytest.fixture
async def rig():
    async with Rig().running() as rig:
        yield rig


@pytest.mark.parametrize("state", [QUEUED, DRAINING])
async def test_a_runtime_that_is_waited_for_is_listened_to_and_looked_at_once(rig, state):
    server = rig.given(state=state)

    await rig.until(lambda: rig.idle == [ADA])

    assert len(server.listeners) == rig.watch.streams == rig.watch.waiting == 1
    assert rig.known().activity == Activity(busy=False, changed_at=None)


@pytest.mark.parametrize("state", [each for each in MigrationState if each not in {QUEUED, DRAINING}])
async def test_nobody_else_is_listened_to(rig, state):
    other = rig.given(BOB, state=state)
    await rig.until_listened_to(rig.given(ADA))

    assert other.listeners == []
    assert other.tried == []


async def test_that_an_agent_has_finished_is_known_at_once(rig):
    server = rig.given(busy=True)
    await rig.until(lambda: rig.known().activity is not None)
    assert rig.idle == []

    server.end_work()

    await rig.until(lambda: rig.idle == [ADA])
    assert not rig.known().activity.busy


async def test_that_an_agent_begins_to_work_is_known_without_a_look(rig):
    server = rig.given()
    await rig.until(lambda: rig.idle == [ADA])
    looks = rig.prober.faults.calls["activity"]

    server.begin_work()

    await rig.until(lambda: rig.known().activity.busy)
    assert rig.prober.faults.calls["activity"] == looks
    assert rig.known().busy_at is not None


async def test_whoever_finishes_again_and_again_is_told_each_time(rig):
    server = rig.given()
    for turn in range(1, 4):
        await rig.until(lambda turn=turn: len(rig.idle) == turn)
        server.begin_work()
        await rig.until(lambda: rig.known().activity.busy)
        server.end_work()

    await rig.until(lambda: rig.idle == [ADA] * 4)


async def test_a_look_that_is_older_than_what_was_told_since_is_not_believed(rig):
    """The look reads that nothing works; a session begins before its answer is there."""
    finished: list[tuple[UserId, bool]] = []
    rig.fleet.on_idle = lambda known: finished.append((known.stack.user_id, server.busy))
    hold = rig.prober.answers = Hold()
    server = rig.given()
    await hold.reached.wait()

    server.begin_work()
    await rig.until(lambda: rig.known().activity is not None)
    hold.release()
    rig.given(BOB)
    await rig.until(lambda: bool(finished))
    assert rig.known().activity.busy
    server.end_work()

    await rig.until(lambda: len(finished) == 2)
    assert finished == [(BOB, True), (ADA, False)]


async def test_what_a_look_shows_late_is_looked_at_once_more(rig):
    """A session tells that it rests, and its status says for a moment longer that it works."""
    server = rig.given(busy=True)
    await rig.until_listened_to(server, looks=2)
    hold = rig.prober.answers = Hold()
    server.tell(EventKind.CHANGED)
    await hold.reached.wait()
    server.busy = False
    hold.release()

    await rig.until(lambda: rig.idle == [ADA])


async def test_much_that_ends_at_once_is_one_look(rig):
    server = rig.given(busy=True)
    await rig.until_listened_to(server, looks=2)
    looks = rig.prober.faults.calls["activity"]
    server.busy = False

    for _ in range(100):
        server.tell(EventKind.CHANGED)

    await rig.until(lambda: rig.idle == [ADA])
    assert rig.prober.faults.calls["activity"] <= looks + 2


async def test_after_a_stream_has_ended_it_is_opened_anew_and_what_happened_meanwhile_is_found(rig):
    server = rig.given(busy=True)
    await rig.until_listened_to(server)

    server.busy = False  # in the gap: nobody is told
    server.hang_up()

    await rig.until(lambda: rig.idle == [ADA])
    await rig.until(lambda: rig.watch.streams == 1)


async def test_a_runtime_that_cannot_be_listened_to_is_tried_again(rig):
    rig.prober.faults.fail_next("follow", UpstreamUnavailable("opencode", "follow"), times=3)

    rig.given()

    await rig.until(lambda: rig.idle == [ADA])
    assert rig.prober.faults.calls["follow"] == 4


async def test_what_cannot_be_seen_takes_nothing_back_of_what_was_seen(rig):
    server = rig.given(busy=True)
    await rig.until_listened_to(server, looks=2)
    seen = rig.known().activity
    hold = rig.prober.hold_next("activity", after_commit=True)
    server.password = "another"
    server.tell(EventKind.CHANGED)
    await hold.reached.wait()
    hold.release()
    await rig.until(lambda: rig.prober.faults.calls["activity"] >= 4)

    assert rig.known().activity == seen
    assert rig.idle == []


@pytest.mark.parametrize(
    "changes",
    [
        {"state": MigrationState.REPLACING},
        {"state": MigrationState.CURRENT},
        {"phase": Phase.STOPPING},
        {"runtime": None},
    ],
    ids=str,
)
async def test_a_runtime_that_is_waited_for_no_longer_is_not_listened_to(rig, changes):
    server = rig.given()
    await rig.until_listened_to(server)

    rig.put(**changes)

    await rig.until(lambda: not server.listeners)
    assert (rig.watch.streams, rig.watch.waiting) == (0, 0)


async def test_a_stack_that_is_removed_is_not_listened_to(rig):
    server = rig.given()
    await rig.until_listened_to(server)

    rig.fleet.remove(ADA)

    await rig.until(lambda: not server.listeners)


async def test_another_run_of_the_runtime_is_listened_to_in_its_place(rig):
    old = rig.given()
    await rig.until_listened_to(old)

    new = rig.given(busy=True)

    await rig.until(lambda: bool(new.listeners) and not old.listeners)
    assert rig.watch.streams == 1


async def test_a_change_of_the_row_alone_keeps_the_stream(rig):
    server = rig.given()
    await rig.until_listened_to(server)
    [listener] = server.listeners

    rig.put(message="waits until it is idle: image changed")
    await rig.until_listened_to(rig.given(BOB))

    assert server.listeners == [listener]


async def test_of_too_many_those_that_have_waited_longest_are_listened_to():
    async with Rig(most=2).running() as rig:
        users = [UserId(f"u{number}") for number in range(5)]
        ages = [3, 1, 5, 2, 4]
        servers = {
            user: rig.given(user, since=NOW - timedelta(minutes=age))
            for user, age in zip(users, ages, strict=True)
        }
        await rig.until(lambda: rig.watch.streams == 2)
        assert {user for user in users if servers[user].listeners} == {"u2", "u4"}

        rig.put(users[2], state=MigrationState.CURRENT)

        await rig.until(lambda: bool(servers[users[0]].listeners))
        assert {user for user in users if servers[user].listeners} == {"u0", "u4"}
        assert (rig.watch.streams, rig.watch.waiting) == (2, 4)


async def test_no_password_is_sent_where_consul_does_not_name_the_allocation(rig):
    server = rig.given()
    stack = rig.known().stack
    rig.consul.forget(stack.job_id, stack.status.runtime.allocation_id)

    await rig.until(lambda: rig.prober.faults.calls["follow"] > 2)

    assert server.tried == []
    assert rig.watch.streams == 0


async def test_no_password_is_sent_to_an_address_in_doubt(rig):
    rig.fleet.on_change = None
    server = rig.given()
    known = rig.known()
    rig.fleet.doubt(ADA, known.stack.status.runtime.address, "it is listed twice")
    rig.watch.consider(known)

    await rig.until(lambda: rig.prober.faults.calls["follow"] > 2)

    assert server.tried == []


# In the whole


@pytest.fixture
async def world(tmp_path):
    """One in which a runtime that is waited for is looked at again only after an hour, and nothing else is learnt of it."""
    limits = Limits(
        start=timedelta(seconds=60),
        stop=timedelta(seconds=60),
        poll=timedelta(milliseconds=50),
        idle_after=timedelta(0),
        idle_poll=timedelta(hours=1),
    )
    world = World(tmp_path, limits=limits, secret_sweep_interval=timedelta(hours=1))
    async with world.running():
        yield world


async def until_waited_for(world: World) -> FakeOpenCode:
    """Make ada's busy runtime stale, and return its server when it is listened to."""
    world.server_changes = {"busy": True}
    await world.ensure()
    world.server_changes = {}
    await world.ensure(wait=None, environment={"LANG": "C"})
    await world.until(lambda: world.plane.busy_watch.streams == 1)
    await world.until(lambda: world.stack().status.migration_state is DRAINING)
    (server,) = world.prober.servers.values()
    return server


async def test_a_runtime_that_is_waited_for_moves_when_its_agent_has_finished_and_not_at_the_next_look(world):
    server = await until_waited_for(world)
    before = world.live_allocations()[0].id

    server.end_work()

    await world.until(lambda: [each.id for each in world.live_allocations()] not in ([before], []))
    await world.phase(Phase.RUNNING)
    await world.until(lambda: world.stack().status.migration_state is MigrationState.CURRENT)
    assert world.plane.busy_watch.streams == 0


async def test_a_lease_keeps_a_runtime_whose_agent_has_finished(world):
    server = await until_waited_for(world)
    before = world.live_allocations()[0].id
    await world.plane.leases.extend(ADA, timedelta(seconds=60))

    server.end_work()
    await world.until(lambda: "a backend is at work with it" in world.stack().status.message)

    assert [each.id for each in world.live_allocations()] == [before]


async def test_how_many_are_listened_to_and_waited_for_is_in_the_metrics(world):
    await until_waited_for(world)

    families = {family.name: family for family in FleetCollector(world.plane).collect()}

    for name in ("opencode_lifecycle_event_streams", "opencode_lifecycle_waiting_until_idle"):
        assert [sample.value for sample in families[name].samples] == [1]


async def test_when_the_service_ends_nobody_is_listened_to_any_more(tmp_path):
    world = World(tmp_path)
    async with world.running():
        server = await until_waited_for(world)
        assert server.listeners

    assert not server.listeners
