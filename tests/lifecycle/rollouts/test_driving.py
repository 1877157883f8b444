"""Who drives a rollout, and what becomes of that one when another does, or when somebody says otherwise meanwhile."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.lifecycle.rollouts import driver as driving
from opencode_lifecycle.lifecycle.rollouts.turns import Order
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import ClaimLost
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.rollout import PromptVerdict, Rollout, RolloutState
from opencode_lifecycle.model.rollout_specification import Amount, Gate, RolloutSpecification, Strategy
from opencode_lifecycle.ports.stores import Decision
from world import OPERATOR, World

USERS = ("ada", "bob", "cyd", "dan")
ALL_AT_ONCE = Strategy(canary=Amount(count=0), soak=timedelta(0), waves=(Amount(percent=100),))
ASKING = replace(ALL_AT_ONCE, gate=Gate(prompt="Say hello."))
CLAIM = timedelta(milliseconds=600)


@asynccontextmanager
async def a_world(path, **parameters):
    """Give a world in which four runtimes run, of which each may be interrupted."""
    limits = Limits(
        start=timedelta(seconds=5),
        stop=timedelta(seconds=60),
        poll=timedelta(milliseconds=50),
        idle_after=timedelta(0),
    )
    world = World(path, limits=limits, **parameters)
    async with world.running():
        for user in USERS:
            await world.ensure(user)
        yield world


@pytest.fixture
async def four(tmp_path):
    async with a_world(tmp_path) as world:
        yield world


@pytest.fixture
async def brief(tmp_path):
    """Give one in which claims are short."""
    async with a_world(tmp_path, claim_lifetime=CLAIM) as world:
        yield world


async def a_new_release(world) -> ReleaseId:
    content = replace(world.content, environment={"LANG": "C"})
    values = {field.name: getattr(content, field.name) for field in fields(content)}
    release = Release(id=content.id, number=0, created_at=utc_now(), **values)
    return (await world.store.add_release(release)).id


async def started(world, strategy=ALL_AT_ONCE) -> Rollout:
    specification = RolloutSpecification(release=await a_new_release(world), strategy=strategy)
    return await world.plane.rollouts.start(specification, by=OPERATOR)


async def ended(world, rollout: Rollout) -> None:
    async with asyncio.timeout(20):
        while True:
            if not (await world.plane.rollouts.get(rollout.id)).rollout.is_active:
                return
            await asyncio.sleep(0.02)


async def soaking(world, rollout: Rollout) -> None:
    """Wait until everybody was seen to, and nothing more is to be done for a while."""
    async with asyncio.timeout(20):
        while True:
            if (await world.plane.rollouts.get(rollout.id)).rollout.settled_at is not None:
                return
            await asyncio.sleep(0.02)


def ordered(world) -> list[str]:
    return [user for user in USERS if world.stack(user).intent.order is not None]


async def test_a_driver_that_was_overtaken_in_the_middle_of_a_turn_orders_nobody_else(four, monkeypatch):
    decide, decided = four.store.decide, []

    async def overtaken(user_id, decision, **under):
        if under and not decided:
            await four.store.void_claims()
            now = utc_now()
            assert await four.store.claim_rollout(now=now, lapses_at=now + timedelta(hours=1)) is not None
        decided.extend([user_id] if under else [])
        return await decide(user_id, decision, **under)

    monkeypatch.setattr(four.store, "decide", overtaken)
    await started(four)
    await four.until(lambda: bool(decided))
    await four.until(lambda: not four.plane._rollout_driver.is_driving)

    assert len(decided) == 1
    assert ordered(four) == []


async def test_nobody_else_is_ordered_once_another_replica_has_paused_the_rollout(four, monkeypatch):
    decide, decided, refused = four.store.decide, [], []

    async def pausing(user_id, decision, **under):
        if len(decided) == 1:
            await four.store.change_rollout(rollout.id, paused)
        decided.extend([user_id] if under else [])
        try:
            return await decide(user_id, decision, **under)
        except ClaimLost:
            refused.append(user_id)
            raise

    def paused(there: Rollout) -> Rollout:
        return replace(there, state=RolloutState.PAUSED)

    monkeypatch.setattr(four.store, "decide", pausing)
    rollout = await started(four)
    await four.until(lambda: bool(refused))

    assert ordered(four) == decided[:1]


async def test_a_claim_outlasts_a_prompt_that_takes_longer_to_answer(brief, monkeypatch):
    lapses, hold = [], brief.prober.faults.hold_next("prompt")
    save = brief.store.save_rollout

    async def noted(*args, lapses_at, **more):
        if hold.reached.is_set():
            lapses.append(lapses_at)
        return await save(*args, lapses_at=lapses_at, **more)

    monkeypatch.setattr(brief.store, "save_rollout", noted)
    rollout = await started(brief, ASKING)
    await hold.reached.wait()
    asked_at = utc_now()
    await brief.until(lambda: bool(lapses) and lapses[-1] > asked_at + 2 * CLAIM)
    hold.release()
    await ended(brief, rollout)
    assert {member.prompt for member in await brief.store.rollout_members(rollout.id)} == {
        PromptVerdict.ANSWERED
    }


@pytest.mark.parametrize("verb", ["rollback", "abort"])
async def test_whoever_takes_a_rollout_back_or_ends_it_waits_for_no_answer_to_a_prompt(four, verb):
    hold = four.prober.faults.hold_next("prompt")
    rollout = await started(four, ASKING)
    await hold.reached.wait()

    await getattr(four.plane.rollouts, verb)(rollout.id, by=OPERATOR)
    await ended(four, rollout)


async def test_a_driver_that_is_told_of_a_change_reads_it_before_it_takes_another_turn(four, monkeypatch):
    driver = four.plane._rollout_driver
    next_turn, seen = driver._next_turn, []

    def counted(rollout):
        seen.append(rollout.state)
        assert len(seen) <= 100, "it goes round and lets nobody else go on"
        return next_turn(rollout)

    # No period passes in which it would read the rollout anyway.
    monkeypatch.setattr(driving, "monotonic", lambda: 0.0)
    rollout = await started(four, replace(ALL_AT_ONCE, soak=timedelta(hours=1)))
    await soaking(four, rollout)
    monkeypatch.setattr(driver, "_next_turn", counted)

    await four.plane.rollouts.pause(rollout.id, by=OPERATOR)
    await four.until(lambda: RolloutState.PAUSED in seen)

    assert len(seen) < 20


async def test_what_a_turn_orders_and_what_becomes_of_it_are_gathered_unless_somebody_changes_the_rollout(
    four, monkeypatch
):
    driver = four.plane._rollout_driver
    next_turn, seen = driver._next_turn, []

    def counted(rollout):
        turn = next_turn(rollout)
        seen.append(rollout.state)
        if any(isinstance(action, Order) for action in turn.actions):
            seen.clear()
            monkeypatch.setattr(driving, "GATHERING", 3600)
        return turn

    monkeypatch.setattr(driver, "_next_turn", counted)
    monkeypatch.setattr(driver, "_pause_between", 0)
    rollout = await started(four)
    await four.until(lambda: all(four.stack(user).status.release == rollout.release for user in USERS))
    for _ in range(200):
        await asyncio.sleep(0)

    assert seen == []
    await four.plane.rollouts.pause(rollout.id, by=OPERATOR)
    await four.until(lambda: RolloutState.PAUSED in seen)


async def test_a_turn_that_moved_the_rollout_on_is_followed_by_the_next_at_once(four, monkeypatch):
    driver = four.plane._rollout_driver
    next_turn, after = driver._next_turn, []

    def counted(rollout):
        turn = next_turn(rollout)
        after.append(turn.rollout.wave != rollout.wave)
        if after[-1]:
            monkeypatch.setattr(driving, "GATHERING", 3600)
        return turn

    monkeypatch.setattr(driver, "_next_turn", counted)
    await started(four, ALL_AT_ONCE)

    await four.until(lambda: True in after and after[-1] is False)


async def test_orders_of_which_nothing_comes_are_not_tried_again_without_a_pause(four, monkeypatch):
    tried = []

    def refused(*_):
        tried.append(None)
        return lambda _: Decision()

    monkeypatch.setattr(driving, "decision_of", refused)
    monkeypatch.setattr(driving, "LOOKS_EVERY", 3600)
    monkeypatch.setattr(driving, "GATHERING", 0)
    monkeypatch.setattr(four.plane._rollout_driver, "_pause_between", 0)
    await started(four)
    await four.until(lambda: bool(tried))
    for _ in range(200):
        await asyncio.sleep(0)

    assert len(tried) <= 2 * len(USERS)


async def test_a_replica_that_was_told_and_does_not_drive_asks_for_the_claim_now_and_then(four, monkeypatch):
    asked = []

    async def another_has_it(**_):
        asked.append(None)

    monkeypatch.setattr(driving, "LOOKS_EVERY", 3600)
    monkeypatch.setattr(four.store, "claim_rollout", another_has_it)
    four.plane._rollout_driver.told()
    await four.until(lambda: bool(asked))
    for _ in range(200):
        await asyncio.sleep(0)

    assert len(asked) <= 2
