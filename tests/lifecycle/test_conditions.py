"""Standing conditions: who raises, keeps, confirms and clears them, also where several do so at once."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fakes.opencode import FakeProber
from fakes.store import FakeStore
from opencode_lifecycle.lifecycle.braking.brake import secrets_missing, silence
from opencode_lifecycle.lifecycle.braking.conditions import LEASE, Conditions
from opencode_lifecycle.lifecycle.control_plane import ControlPlane, Parameters
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.identifiers import JobId, UserId
from world import OPERATOR, World

USERS = ("ada", "bob", "cyd", "dan")


@pytest.fixture
async def world(tmp_path):
    """One in which nothing is listed but when a test lists it."""
    world = World(tmp_path, resync_interval=timedelta(hours=1))
    async with world.running():
        await world.until(lambda: world.plane._orphans.pulse.age() is not None)
        await world.until(lambda: world.plane._nomad.stream_age() == 0.0)
        world.plane.conditions._on_confirmation = lambda condition: None
        yield world


async def a_disappearance(world: World):
    """Return the condition that four users raise who are not listed any more."""
    for user in USERS:
        await world.ensure(user)
    world.nomad.hide_from_listings()
    await world.plane._nomad.list_once()
    (condition,) = world.plane.conditions.standing()
    return condition


async def history(world: World) -> list[str]:
    events = (await world.plane.provisioning.events(UserId(""), None, 100)).items
    return [each.kind for each in events if each.kind.startswith("condition.")]


async def test_of_two_who_confirm_at_once_one_has_confirmed(world):
    condition = await a_disappearance(world)
    confirm = world.plane.oversight.confirm_condition

    first, second = await asyncio.gather(
        confirm(condition.id, by=OPERATOR), confirm(condition.id, by=OPERATOR)
    )

    assert first == second
    assert await history(world) == ["condition.raised", "condition.confirmed"]


async def test_what_was_cleared_while_it_was_confirmed_does_not_stand_again(world, monkeypatch):
    condition = await a_disappearance(world)
    change, reached, may_go_on = world.store.change_condition, asyncio.Event(), asyncio.Event()

    async def after_the_other(*args, **kwargs):
        monkeypatch.setattr(world.store, "change_condition", change)
        reached.set()
        await may_go_on.wait()
        return await change(*args, **kwargs)

    monkeypatch.setattr(world.store, "change_condition", after_the_other)
    confirming = asyncio.create_task(world.plane.conditions.confirm(condition.id, by=OPERATOR))
    await reached.wait()
    world.nomad.show_in_listings()
    listing = asyncio.create_task(world.plane._nomad.list_once())
    await world.until(lambda: world.plane.conditions.standing() == ())
    may_go_on.set()
    await asyncio.gather(confirming, listing)

    assert world.plane.conditions.standing() == ()
    assert not world.plane.fleet.frozen
    assert (await world.store.find_conditions(standing=True)).items == []


# --- what stands is told as it is now


async def test_a_condition_tells_how_many_are_missing_now(world):
    for user in USERS:
        await world.ensure(user)
    world.nomad.hide_from_listings(*(world.job_id(user) for user in USERS[:3]))
    await world.plane._nomad.list_once()
    world.nomad.hide_from_listings()
    await world.plane._nomad.list_once()

    (condition,) = world.plane.conditions.standing()
    assert condition.details["missing"] == 4
    assert "4 of 4" in condition.message
    assert (await world.store.find_conditions(standing=True)).items == [condition]
    assert await history(world) == ["condition.raised"]


# --- replicas, each with a memory of its own over one database


SILENCE = ConditionKind.MASS_SILENCE


def silent(count: int):
    return silence([JobId(f"oc-{number:03}") for number in range(count)], 100)


class Replicas:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.store = FakeStore(clock=self.clock)

    def clock(self) -> datetime:
        return self.now

    def replica(self, name: str | None) -> Conditions:
        """Return a process that has just started."""
        return Conditions(
            store=self.store,
            fleet=Fleet(now=self.clock, max_age=timedelta(seconds=30)),
            on_confirmation=lambda condition: None,
            now=self.clock,
            replica=name,
        )

    async def standing(self):
        return (await self.store.find_conditions(standing=True)).items


@pytest.fixture
async def replicas():
    made = Replicas()
    await made.store.open()
    yield made
    await made.store.close()


def freezes(conditions: Conditions) -> bool:
    return bool(conditions._fleet.frozen)


async def test_what_one_replica_suspects_is_not_cleared_by_one_that_does_not(replicas):
    cut_off, other = replicas.replica("a"), replicas.replica("b")
    await cut_off.report(SILENCE, silent(80))
    await other.load()

    await other.report(SILENCE, None)
    await cut_off.load()

    assert freezes(cut_off)
    assert freezes(other)
    assert len(await replicas.standing()) == 1


async def test_what_one_replica_raised_is_cleared_for_all_when_it_sees_that_all_is_well(replicas):
    cut_off, other = replicas.replica("a"), replicas.replica("b")
    await cut_off.report(SILENCE, silent(80))
    await other.load()

    await cut_off.report(SILENCE, None)
    await other.load()

    assert not freezes(cut_off)
    assert not freezes(other)
    assert await replicas.standing() == []


async def test_what_a_replica_raised_is_its_successors_to_clear_when_it_has_ended_in_order(replicas):
    before, after = replicas.replica("a"), replicas.replica("b")
    await before.report(SILENCE, silent(80))
    await before.hand_over()
    await after.load()
    assert freezes(after)

    await after.report(SILENCE, None)

    assert not freezes(after)
    assert await replicas.standing() == []


async def test_what_a_replica_raised_stands_on_while_its_successor_sees_the_same(replicas):
    before, after = replicas.replica("a"), replicas.replica("b")
    await before.report(SILENCE, silent(80))
    (raised,) = await replicas.standing()
    await before.hand_over()
    await after.load()

    await after.report(SILENCE, silent(80))

    (kept,) = await replicas.standing()
    assert (kept.id, kept.reported_by) == (raised.id, "b")


async def test_a_replica_that_ends_hands_over_nothing_that_another_raised(replicas):
    one, other = replicas.replica("a"), replicas.replica("b")
    await one.report(SILENCE, silent(80))
    await other.load()
    await other.hand_over()

    await replicas.replica("c").report(SILENCE, None)

    assert len(await replicas.standing()) == 1


async def test_two_replicas_that_suspect_the_same_raise_it_once(replicas):
    one, other = replicas.replica("a"), replicas.replica("b")
    await one.report(SILENCE, silent(80))
    await other.load()

    await other.report(SILENCE, silent(80))

    assert len(await replicas.standing()) == 1


async def test_what_the_other_cleared_stands_again_where_it_is_suspected_still(replicas):
    one, other = replicas.replica("a"), replicas.replica("b")
    await one.report(SILENCE, silent(80))
    await other.load()
    await other.report(SILENCE, silent(80))

    await one.report(SILENCE, None)
    await other.load()
    assert freezes(other)
    await other.report(SILENCE, silent(80))
    await one.load()

    assert freezes(one)
    assert len(await replicas.standing()) == 1


async def test_what_was_confirmed_stays_so_where_it_is_suspected_still(replicas):
    one, other = replicas.replica("a"), replicas.replica("b")
    await one.report(SILENCE, silent(80))
    await other.load()
    await other.report(SILENCE, silent(80))
    (condition,) = one.standing()
    await other.confirm(condition.id, by=OPERATOR)

    await one.report(SILENCE, None)
    await other.load()
    await other.report(SILENCE, silent(70))

    assert not freezes(other)
    assert [each.confirmed_by for each in await replicas.standing()] == ["operator"]


async def test_what_a_replica_raised_that_died_clears_by_itself(replicas):
    await replicas.replica("a").report(SILENCE, silent(80))
    other = replicas.replica("b")
    await other.load()

    replicas.now += LEASE
    await other.report(SILENCE, None)

    assert not freezes(other)
    assert await replicas.standing() == []


async def test_what_a_replica_goes_on_suspecting_does_not_lapse(replicas):
    one, other = replicas.replica("a"), replicas.replica("b")
    await one.report(SILENCE, silent(80))
    for _ in range(10):
        replicas.now += LEASE / 4
        # Whatever it reports shows that it lives, and it has not taken the other back.
        await one.report(ConditionKind.SECRETS_MISSING, None)
        await other.load()
        await other.report(SILENCE, None)

    assert freezes(other)
    assert len(await replicas.standing()) == 1


async def test_a_replica_freezes_by_what_it_suspects_although_its_claim_to_it_has_lapsed(replicas):
    """The database was away from it for longer than the lease, and the others saw that all was well."""
    cut_off, other = replicas.replica("a"), replicas.replica("b")
    await cut_off.report(SILENCE, silent(80))
    await other.load()
    replicas.now += LEASE
    await other.report(SILENCE, None)
    assert await replicas.standing() == []

    await cut_off.load()
    assert freezes(cut_off)
    await cut_off.report(SILENCE, silent(80))

    assert freezes(cut_off)
    assert len(await replicas.standing()) == 1


async def test_the_only_process_on_a_database_clears_at_once_what_an_earlier_life_raised(replicas):
    await replicas.replica(None).report(SILENCE, silent(80))
    next_life = replicas.replica(None)
    await next_life.load()
    assert freezes(next_life)

    await next_life.report(SILENCE, None)

    assert await replicas.standing() == []


async def test_what_grows_far_beyond_what_was_confirmed_stands_unconfirmed_again(replicas):
    one = replicas.replica(None)
    await one.report(SILENCE, silent(30))
    (condition,) = one.standing()
    await one.confirm(condition.id, by=OPERATOR)

    await one.report(SILENCE, silent(31))
    assert not freezes(one)
    await one.report(SILENCE, silent(60))

    assert freezes(one)
    (condition,) = await replicas.standing()
    assert (condition.confirmed_by, condition.details["silent"]) == (None, 60)
    assert [each.kind for each in replicas.store.events] == [
        "condition.raised",
        "condition.confirmed",
        "condition.grew",
    ]


async def test_a_confirmation_of_less_than_another_replica_suspects_does_not_let_it_go_on(replicas):
    one, other = replicas.replica("a"), replicas.replica("b")
    await one.report(SILENCE, silent(30))
    await other.load()
    await other.report(SILENCE, silent(80))
    (condition,) = one.standing()

    await one.confirm(condition.id, by=OPERATOR)
    await other.load()
    assert freezes(other)
    await other.report(SILENCE, silent(80))
    await one.load()

    assert freezes(one)
    assert freezes(other)


async def test_what_could_not_be_written_is_written_with_the_next_report(replicas):
    one = replicas.replica("a")
    away = UpstreamUnavailable("database", "put", "away")
    replicas.store.faults.fail_next("put_condition", away, times=3)
    await one.report(SILENCE, silent(30))
    await one.report(SILENCE, silent(40))
    assert freezes(one)
    assert await replicas.standing() == []

    await one.report(ConditionKind.SECRETS_MISSING, secrets_missing([], 100))
    await one.report(ConditionKind.SECRETS_MISSING, secrets_missing([], 100))

    assert [each.details["silent"] for each in await replicas.standing()] == [40]
    assert await replicas.standing() == list(one.standing())


# --- the same with whole control planes


class CutOffProber(FakeProber):
    """One that reaches no runtime while it is cut off."""

    def __init__(self, real: FakeProber) -> None:
        super().__init__()
        self._real = real
        self.is_cut_off = False

    async def _look(self, method, address, deadline):
        self.servers = {} if self.is_cut_off else self._real.servers
        return await super()._look(method, address, deadline)


@asynccontextmanager
async def two_replicas(path):
    """Yield a world with a control plane that sees everything, a second one, and the second one's prober."""
    world = World(
        path,
        shares_database=True,
        liveness_interval=timedelta(milliseconds=100),
        resync_interval=timedelta(milliseconds=50),
    )
    async with world.running():
        prober = CutOffProber(world.prober)
        neighbours = replace(world.plane._neighbours, prober=prober)
        other = ControlPlane(neighbours, Parameters(**world.parameters))
        async with other.running(world.content):
            yield world, other, prober


async def test_a_replica_that_is_cut_off_from_all_runtimes_replaces_none_of_them(tmp_path):
    """The other replica, which reaches them all, does not take its brake away."""
    async with two_replicas(tmp_path) as (world, other, prober):
        for user in USERS:
            await world.ensure(user)
        await world.until(lambda: all(other.fleet.get(user) for user in USERS))
        before = {user: [a.id for a in world.live_allocations(user)] for user in USERS}

        prober.is_cut_off = True
        await world.until(
            lambda: (
                all(other.fleet.get(user).silent_probes >= 12 for user in USERS)
                or any(world.nomad.jobs[world.job_id(user)].seen.version > 0 for user in USERS)
            )
        )

        assert {user: [a.id for a in world.live_allocations(user)] for user in USERS} == before
        prober.is_cut_off = False
        await world.until(lambda: not other.fleet.frozen and not world.plane.fleet.frozen)


async def test_a_cluster_that_was_confirmed_at_one_replica_is_ours_for_all(tmp_path):
    async with two_replicas(tmp_path) as (world, other, _):
        await world.ensure()
        world.nomad.cluster_mark.marks["main"] = "f" * 32  # set up anew by an installation of our name
        kind = ConditionKind.OTHER_CLUSTER
        await world.until(lambda: kind in world.plane.fleet.frozen and kind in other.fleet.frozen)
        (condition,) = [each for each in world.plane.conditions.standing() if each.kind is kind]

        await world.plane.oversight.confirm_condition(condition.id, by=OPERATOR)
        await world.until(lambda: not world.plane.fleet.frozen and not other.fleet.frozen)
        for _ in range(4):
            await world.plane._nomad.list_once()
            await other._nomad.list_once()

        assert not other.fleet.frozen
        assert not world.plane.fleet.frozen


async def test_a_control_plane_that_ends_in_order_answers_for_no_condition_any_more(tmp_path):
    # The one that stays would clear what it finds not to be so.
    world = World(tmp_path, shares_database=True, liveness_interval=timedelta(hours=1))
    async with world.running():
        other = world.another_plane()
        async with other.running(world.content):
            await other.conditions.report(SILENCE, silent(80))
            (standing,) = (await world.store.find_conditions(standing=True)).items
            assert standing.reported_until > utc_now()

        (standing,) = (await world.store.find_conditions(standing=True)).items
        assert standing.reported_until <= utc_now()
