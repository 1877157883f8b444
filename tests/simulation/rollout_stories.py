"""Faults that befall rollouts, told in virtual time: whoever drives dies, or is overtaken; whoever is moved is at work."""

import asyncio
from datetime import timedelta

from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.group import GroupWish
from opencode_lifecycle.model.identifiers import ReleaseId, UserId, job_id_of
from opencode_lifecycle.model.migration import AtDeadline
from opencode_lifecycle.model.rollout import MemberState, Rollout, RolloutReason, RolloutState
from opencode_lifecycle.model.rollout_specification import Amount, Gate, RolloutSpecification
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.model.view import UNCHANGED
from opencode_lifecycle.ports.stores import Claimed, Progress
from simulation.fleets import GROUP
from simulation.schedule import Schedule
from simulation.telling import Scenario, hold
from world import OPERATOR

_SERVED = 20.0
"""Seconds in which somebody who asks for a stack has a runtime, whatever a rollout does."""


def _last(schedule: Schedule) -> Rollout:
    return next(reversed(schedule.cluster.store.rollouts.values()))


def _state_of(schedule: Schedule, user: UserId) -> MemberState:
    return schedule.cluster.store.rollout_stacks[_last(schedule).id][user].state


async def _ended(schedule: Schedule) -> Rollout:
    await schedule.fleet.ended(within=900)
    return _last(schedule)


def _releases(schedule: Schedule) -> set[ReleaseId | None]:
    return {row.stack.status.release for row in schedule.cluster.store.rows.values()}


def _allocations(schedule: Schedule) -> dict[UserId, int]:
    """Count the allocations that each stack has had."""
    nomad = schedule.cluster.nomad
    return {user: len(nomad.allocations[job_id_of("main", user)]) for user in schedule.users}


async def _begun(schedule: Schedule, kind: str = "restart", **strategy: object) -> RolloutSpecification:
    """Have a fleet run, and a rollout of a new release begin."""
    fleet = schedule.fleet
    await fleet.gather()
    await fleet.make(kind)
    specification = fleet.to_last(**strategy)
    hold(await fleet.roll(specification) is not None, "a rollout in peace is refused")
    return specification


async def _sometime(schedule: Schedule) -> None:
    """Wait for some moment of a rollout."""
    await asyncio.sleep(
        schedule.random.choice((0.0, 0.005, 0.015, 0.05, 0.5, 1.0, 15.0, 20.05, 21.0, 26.0, 45.0))
    )


def _holds_all_moved(schedule: Schedule, rollout: Rollout, fault: str) -> None:
    hold(rollout.state is RolloutState.SUCCEEDED, f"{fault}: the rollout is {rollout.state}")
    hold(_releases(schedule) == {rollout.release}, f"{fault}: somebody was forgotten")
    counts = set(_allocations(schedule).values())
    hold(counts == {2}, f"{fault}: stacks have had {sorted(counts)} allocations, not 2 each")


async def _killed_mid_wave(schedule: Schedule) -> None:
    await _begun(schedule)
    for _ in range(schedule.random.randint(1, 3)):
        await _sometime(schedule)
        schedule.kill(schedule.replicas[0].life)
        await _is_back(schedule)
    _holds_all_moved(schedule, await _ended(schedule), "R1")


async def _is_back(schedule: Schedule) -> None:
    while schedule.plane is None:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.5)


async def _two_that_meet(schedule: Schedule) -> None:
    await _begun(schedule)
    fleet = schedule.fleet
    first = _last(schedule)
    await fleet.make(schedule.random.choice(("restart", "reload", "live")))
    specification = fleet.to_last()
    hold(await fleet.roll(specification) is None, "R2: two rollouts run at once")
    await _sometime(schedule)
    await fleet.steer("abort", first.id)
    async with asyncio.timeout(600):
        while await fleet.roll(specification) is None:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(1)
    rollout = await _ended(schedule)
    hold(rollout.state is RolloutState.SUCCEEDED, f"R2: the second rollout is {rollout.state}")
    hold(_releases(schedule) == {specification.release}, "R2: somebody is where nobody wants them to be")


async def _people_meddle(schedule: Schedule) -> None:
    await _begun(schedule, max_in_flight=schedule.random.randint(1, 3))
    for _ in range(schedule.random.randint(1, 3)):
        await _sometime(schedule)
        user = schedule.random.choice(schedule.users)
        await schedule.ask(user, schedule.random.choice(("stop", "recreate", "delete", "rotate", "ensure")))
        await asyncio.sleep(schedule.random.choice((0.0, 0.2, 5.0)))
        if schedule.random.random() < 0.7:
            await schedule.ask(user, "ensure")
            await _served(schedule, user, "R3")
    rollout = await _ended(schedule)
    hold(rollout.state is RolloutState.SUCCEEDED, f"R3: the rollout is {rollout.state}")


async def _served(schedule: Schedule, user: UserId, fault: str) -> None:
    """Hold that who has asked has a runtime soon."""
    until = schedule.loop.time() + _SERVED
    while True:
        row = schedule.cluster.store.rows.get(user)
        if row is not None and row.stack.status.phase is Phase.RUNNING:
            return
        hold(schedule.loop.time() < until, f"{fault}: {user} asks, and waits behind a rollout")
        await asyncio.sleep(0.5)


async def _replies_get_lost(schedule: Schedule) -> None:
    store, random = schedule.cluster.store, schedule.random
    await _begun(schedule)
    for _ in range(3):
        await _sometime(schedule)
        method = random.choice(("decide", "save_rollout", "use_release", "claim_rollout", "save"))
        store.faults.fail_next(
            method,
            UpstreamUnavailable("database", method),
            after_commit=random.random() < 0.7,
            times=random.randint(1, 3),
        )
    rollout = await _ended(schedule)
    store.faults.heal()
    _holds_all_moved(schedule, rollout, "R4")


def _driver(schedule: Schedule) -> int:
    """Return the life that drives the rollout; 0 where none does."""
    claim = schedule.cluster.store.rollout_claim
    return schedule.watcher.holder_of(claim[1]) if claim is not None else 0


async def _the_driver_dies(schedule: Schedule) -> None:
    await _begun(schedule)
    for _ in range(schedule.random.randint(1, 2)):
        await _sometime(schedule)
        life = _driver(schedule)
        if life and life not in schedule.cluster.dead:
            schedule.kill(life)
    _holds_all_moved(schedule, await _ended(schedule), "R5")


async def _the_driver_is_frozen(schedule: Schedule) -> None:
    random, cluster = schedule.random, schedule.cluster
    await _begun(schedule)
    cluster.trouble.slow = random.choice((0.0, 0.5))
    await _sometime(schedule)
    if life := _driver(schedule):
        cluster.say(f"life {life}, which drives, is frozen")
        cluster.freeze(life, random.choice((3.0, 61.0, 75.0, 100.0)))
    others = [each for each in schedule.replicas if each.life != cluster.frozen and each.plane is not None]
    await asyncio.sleep(random.choice((0.0, 5.0, 65.0)))
    how = random.choice(("pause", "abort", "rollback", ""))
    rollout = _last(schedule)
    if how and others and rollout.is_active:
        plane = others[0].plane

        async def steer() -> None:
            await getattr(plane.rollouts, how)(rollout.id, by=OPERATOR)

        cluster.say(how)
        await asyncio.gather(steer(), return_exceptions=True)
    await asyncio.sleep(110)
    cluster.trouble.slow = 0.0
    rollout = await _ended(schedule)
    hold(rollout.state is not RolloutState.FAILED, f"R6: the rollout is {rollout.state}, {rollout.reason}")


async def _an_agent_at_work(schedule: Schedule) -> None:
    random, fleet, cluster = schedule.random, schedule.fleet, schedule.cluster
    policy = random.choice(tuple(AtDeadline))
    await fleet.gather()
    await fleet.make(random.choice(("restart", "reload")))
    user = random.choice(schedule.users)
    place = fleet.agents.place_of(user)
    assert place is not None, "it runs"
    is_leased = random.random() < 0.5
    if is_leased:
        await fleet.agents.lease(user)
    fleet.agents.begin_at(place, is_told=random.random() < 0.5)
    began = schedule.loop.time()
    await fleet.roll(fleet.to_last(at_deadline=policy, deadline=timedelta(seconds=90)))
    while schedule.loop.time() < began + 60:
        await asyncio.sleep(20)
        if is_leased:
            await fleet.agents.lease(user)
    hold(place in cluster.at_work_since, "R7: an agent at work is cut off")
    others = [each for each in schedule.users if each != user]
    hold(
        all(_state_of(schedule, each) is MemberState.MIGRATED for each in others),
        "R7: others wait for an agent at work",
    )
    rollout = await _ended(schedule)
    expected = {
        AtDeadline.SKIP: MemberState.SKIPPED,
        AtDeadline.HOLD: MemberState.HELD,
        AtDeadline.FORCE: MemberState.MIGRATED,
    }
    hold(rollout.state is RolloutState.SUCCEEDED, f"R7: the rollout is {rollout.state}")
    hold(
        _state_of(schedule, user) is expected[policy],
        f"R7: at the deadline it is {_state_of(schedule, user)}",
    )


async def _an_agent_that_begins_unheard(schedule: Schedule) -> None:
    """Begin a turn of which no stream tells, while its stack waits to have been quiet for long enough."""
    random, fleet, cluster = schedule.random, schedule.fleet, schedule.cluster
    await _begun(schedule, random.choice(("restart", "reload")), max_in_flight=3)
    await asyncio.sleep(random.choice((1.0, 10.0, 15.0, 17.5)))
    user = random.choice(schedule.users)
    place = fleet.agents.place_of(user)
    assert place is not None, "nobody was stopped yet"
    fleet.agents.begin_at(place, is_told=False)
    cluster.say(f"{user}: an agent works, unheard")
    await asyncio.sleep(40)
    hold(place in cluster.at_work_since, "R14: an agent at work is cut off")
    rollout = await _ended(schedule)
    hold(rollout.state is RolloutState.SUCCEEDED, f"R14: the rollout is {rollout.state}")


async def _a_lease_in_the_last_moment(schedule: Schedule) -> None:
    """Take a lease after the last look at the runtime, while its stop is on the way to the database."""
    cluster, random, fleet = schedule.cluster, schedule.random, schedule.fleet
    await fleet.gather()
    await fleet.make(random.choice(("restart", "reload")))
    save, taken = cluster.store.save, set[UserId]()

    async def saved(claimed: Claimed, progress: Progress) -> Stack:
        user = claimed.stack.user_id
        if progress.unless_busy_at is not None and user not in taken and random.random() < 0.5:
            taken.add(user)
            schedule.begin(_leasing(schedule, user))
            await asyncio.sleep(random.choice((0.0, 0.01, 0.5)))
        return await save(claimed, progress)

    cluster.store.save = saved
    cluster.trouble.slow = random.choice((0.0, 0.6))
    await fleet.roll(fleet.to_last(max_in_flight=3))
    await asyncio.sleep(90)
    cluster.trouble.slow = 0.0
    rollout = await _ended(schedule)
    hold(rollout.state is RolloutState.SUCCEEDED, f"R8: the rollout is {rollout.state}")


async def _leasing(schedule: Schedule, user: UserId) -> None:
    await schedule.fleet.agents.lease(user)


async def _a_bad_release(schedule: Schedule) -> None:
    kind = schedule.random.choice(("dud", "mute", "bad config"))
    gate = Gate(prompt="Say hello." if kind == "mute" else None)
    await schedule.fleet.gather()
    before = schedule.cluster.store._current
    await schedule.fleet.make(kind)
    await schedule.fleet.roll(schedule.fleet.to_last(gate=gate))
    if schedule.random.random() < 0.5:
        await _sometime(schedule)
        schedule.kill(schedule.replicas[0].life)
    rollout = await _ended(schedule)
    hold(rollout.state is RolloutState.FAILED, f"R9: a rollout of what is bad is {rollout.state}")
    hold(rollout.reason is RolloutReason.CANARY_FAILED, f"R9: it failed for {rollout.reason}")
    hold(schedule.cluster.store._current == before, "R9: what is bad became the target")
    await schedule.rest()
    hold(_releases(schedule) == {before}, "R9: somebody was left on what is bad")
    counts = sorted(_allocations(schedule).values())
    hold(counts[:3] == [1, 1, 1], f"R9: more than the canary was touched: {counts}")


async def _back_at_any_moment(schedule: Schedule) -> None:
    await _begun(schedule, schedule.random.choice(("restart", "reload", "live", "version")))
    target = _last(schedule).target_before
    await _sometime(schedule)
    if schedule.random.random() < 0.4:
        await schedule.fleet.steer("pause")
        await _sometime(schedule)
    await schedule.fleet.steer("rollback")
    if schedule.random.random() < 0.4:
        await _sometime(schedule)
        schedule.kill(schedule.replicas[0].life)
    rollout = await _ended(schedule)
    hold(rollout.state is RolloutState.ROLLED_BACK, f"R10: the rollout is {rollout.state}")
    await schedule.rest()
    hold(_releases(schedule) == {target}, "R10: somebody was not taken back")


async def _asleep(schedule: Schedule) -> None:
    fleet, schedule_users = schedule.fleet, schedule.users
    await fleet.gather()
    awake, asleep = schedule_users[2], schedule_users[3]
    wish = GroupWish(names=frozenset({"idle_stop_after"}), idle_stop_after=timedelta(seconds=40))
    await fleet.call("let the group sleep", lambda plane: plane.groups.put(GROUP, wish, by=OPERATOR))
    for _ in range(6):
        hold(await fleet.agents.lease(awake), "R11: what is leased cannot be leased any more")
        await asyncio.sleep(20)
    rows = schedule.cluster.store.rows
    hold(rows[awake].stack.status.phase is Phase.RUNNING, "R11: what is leased falls asleep")
    hold(rows[asleep].stack.status.phase is Phase.STOPPED, "R11: what nobody uses does not fall asleep")
    await schedule.ask(asleep, "ensure")
    await _served(schedule, asleep, "R11")
    hold(schedule.plane.provisioning.hot(asleep, UNCHANGED) is not None, "R11: it is awake, and not ready")


async def _paused(schedule: Schedule) -> None:
    await _begun(schedule, max_in_flight=1)
    await _sometime(schedule)
    if not _last(schedule).is_active:
        return
    await schedule.fleet.steer("pause")
    waiting = [user for user in schedule.users if _state_of(schedule, user) is MemberState.WAITING]
    ids = _allocations(schedule)
    await asyncio.sleep(schedule.random.choice((60.0, 200.0)))
    ordered = [user for user in waiting if _state_of(schedule, user) is not MemberState.WAITING]
    moved = [user for user in waiting if _allocations(schedule)[user] != ids[user]]
    late = [user for user in moved if user in ordered]
    hold(len(late) <= 1, f"R12: {late} are moved while the rollout is paused")
    await schedule.fleet.steer("resume")
    _holds_all_moved(schedule, await _ended(schedule), "R12")


async def _a_neighbour_is_away(schedule: Schedule) -> None:
    trouble, random = schedule.cluster.trouble, schedule.random
    await _begun(schedule, gate=Gate(failure_budget=Amount(percent=100)))
    await _sometime(schedule)
    trouble.send_away(random.choice(("vault", "consul", "nomad")), schedule.loop.time())
    await asyncio.sleep(random.choice((20.0, 90.0)))
    trouble.away.clear()
    rollout = await _ended(schedule)
    hold(rollout.state is RolloutState.SUCCEEDED, f"R13: the rollout is {rollout.state}, {rollout.reason}")


SCENARIOS = (
    Scenario(
        "R1",
        "killed mid-wave, again and again: everybody is rolled once",
        _killed_mid_wave,
        has_rollouts=True,
    ),
    Scenario("R2", "two rollouts that meet never own one stack at once", _two_that_meet, has_rollouts=True),
    Scenario(
        "R3",
        "who is deleted, stopped or recreated in a wave is served, and the rollout ends",
        _people_meddle,
        has_rollouts=True,
    ),
    Scenario(
        "R4",
        "a reply of any write that is lost: everybody is rolled once",
        _replies_get_lost,
        has_rollouts=True,
    ),
    Scenario(
        "R5",
        "whoever drives dies: the other replica goes on, and rolls nobody twice",
        _the_driver_dies,
        2,
        True,
    ),
    Scenario(
        "R6",
        "whoever drives is frozen for longer than its claim, and does no harm",
        _the_driver_is_frozen,
        2,
        True,
    ),
    Scenario(
        "R7",
        "an agent at work is waited for until the deadline; others are not kept",
        _an_agent_at_work,
        has_rollouts=True,
    ),
    Scenario(
        "R8",
        "of a stop and a lease that come at once, one is told",
        _a_lease_in_the_last_moment,
        has_rollouts=True,
    ),
    Scenario("R9", "a bad release stops at its canary, and is taken back", _a_bad_release, has_rollouts=True),
    Scenario(
        "R10", "taken back at any moment, everything is as before", _back_at_any_moment, has_rollouts=True
    ),
    Scenario(
        "R11",
        "what nobody uses falls asleep, what is leased does not; an ensure wakes it",
        _asleep,
        has_rollouts=True,
    ),
    Scenario("R12", "while it is paused nobody else is moved", _paused, has_rollouts=True),
    Scenario(
        "R14",
        "an agent of which no stream tells is seen by the last look",
        _an_agent_that_begins_unheard,
        has_rollouts=True,
    ),
    Scenario(
        "R13", "a neighbour that is away is no failure of a release", _a_neighbour_is_away, has_rollouts=True
    ),
)
