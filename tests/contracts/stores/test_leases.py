"""How a work lease is kept, and how it and the commit of a stop exclude each other."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from database_examples import ADA, BOB, LATER, MUCH_LATER, NOW, a_stack, changing, due_at, progress, put, take
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.model.errors import Busy, ClaimLost, StackDraining, StackNotFound
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.operation import PhaseEntered
from opencode_lifecycle.model.states import Desired, Phase
from opencode_lifecycle.ports.stores import Progress

SOON = NOW + timedelta(seconds=60)


def running(user_id=ADA):
    stack = a_stack(user_id)
    return replace(stack, status=replace(stack.status, phase=Phase.RUNNING))


def stopping(claimed) -> Progress:
    """Save that the runtime is stopped, unless somebody is at work."""
    stop = progress(claimed, phase=Phase.STOPPING)
    return replace(stop, unless_busy_at=NOW, entered=PhaseEntered(phase=Phase.STOPPING, at=NOW))


async def test_a_lease_is_kept_with_the_stack(database):
    await put(database, running())

    leased = await database.extend_lease(ADA, SOON)

    assert leased.busy_until == SOON
    assert await database.get(ADA) == leased


async def test_a_lease_is_a_change_that_every_reader_of_the_sequence_learns_of(database):
    await put(database, running())
    before = await database.latest_change()

    leased = await database.extend_lease(ADA, SOON)

    [change] = await database.changes_since(before, limit=10)
    assert (change.user_id, change.stack, change.seq) == (ADA, leased, leased.change_seq)
    assert leased.change_seq == await database.latest_change() == before + 1


async def test_a_lease_wakes_whoever_waits_for_a_change(database):
    await put(database, running())
    seq = await database.latest_change()
    waiting = asyncio.create_task(database.wait_for_change(60, after=seq))
    await asyncio.sleep(0)

    await database.extend_lease(ADA, SOON)

    await waiting


async def test_a_lease_is_no_new_generation_nor_operation_nor_event_nor_update(database):
    stack = await put(database, running())
    operation = await database.get_operation(stack.intent.last_operation)
    events = await database.find_events(user_id=None, after=None, limit=99)

    leased = await database.extend_lease(ADA, SOON)

    assert replace(leased, busy_until=None) == stack
    assert await database.get_operation(stack.intent.last_operation) == operation
    assert await database.find_events(user_id=None, after=None, limit=99) == events


async def test_a_later_renewal_makes_a_lease_longer(database):
    await put(database, running())
    await database.extend_lease(ADA, LATER)

    assert (await database.extend_lease(ADA, MUCH_LATER)).busy_until == MUCH_LATER


@pytest.mark.parametrize("until", [SOON, MUCH_LATER])
async def test_a_renewal_never_shortens_a_lease_and_where_it_changes_nothing_it_is_no_change(database, until):
    await put(database, running())
    leased = await database.extend_lease(ADA, MUCH_LATER)

    assert await database.extend_lease(ADA, until) == leased
    assert await database.latest_change() == leased.change_seq


async def test_a_stack_that_is_not_there_has_no_lease(database):
    with pytest.raises(StackNotFound):
        await database.extend_lease(UserId("nobody"), SOON)


async def test_a_request_leaves_the_lease_as_it_is(database):
    await put(database, running())
    await database.extend_lease(ADA, SOON)

    await database.decide(ADA, changing())

    assert (await database.get(ADA)).busy_until == SOON


async def test_a_save_leaves_a_lease_as_it_is_that_came_after_the_claim(database):
    await put(database, running())
    claimed = await take(database)
    await database.extend_lease(ADA, SOON)

    saved = await database.save(claimed, progress(claimed, message="seen"))

    assert saved.busy_until == (await database.get(ADA)).busy_until == SOON


async def test_a_lease_does_not_make_a_stack_due_nor_take_a_claim_away(database):
    await put(database, running())
    claimed = await take(database)
    await database.save(claimed, progress(claimed, next_attempt_at=LATER))

    await database.extend_lease(ADA, SOON)

    assert await due_at(database, NOW) == []
    claimed = await take(database)
    await database.extend_lease(ADA, LATER)
    await database.save(claimed, progress(claimed, message="seen"))


# The race with a stop


async def test_a_lease_that_came_first_keeps_the_runtime_and_nothing_of_the_stop_is_written(database):
    stack = await put(database, running())
    claimed = await take(database)
    leased = await database.extend_lease(ADA, SOON)
    operation = await database.get_operation(stack.intent.last_operation)

    with pytest.raises(Busy):
        await database.save(claimed, stopping(claimed))

    assert await database.get(ADA) == leased
    assert await database.latest_change() == leased.change_seq
    assert await database.get_operation(stack.intent.last_operation) == operation


async def test_whoever_was_kept_from_a_stop_still_holds_the_claim(database):
    await put(database, running())
    claimed = await take(database)
    await database.extend_lease(ADA, SOON)
    with pytest.raises(Busy):
        await database.save(claimed, stopping(claimed))

    saved = await database.save(claimed, progress(claimed, message="waits until nobody is at work"))

    assert saved.status.message == "waits until nobody is at work"


async def test_a_stop_that_came_first_ends_the_leases(database):
    await put(database, running())
    claimed = await take(database)
    stopped = await database.save(claimed, stopping(claimed))

    with pytest.raises(StackDraining) as refused:
        await database.extend_lease(ADA, SOON)

    assert refused.value.retry_after > 0
    assert await database.get(ADA) == stopped
    assert await database.latest_change() == stopped.change_seq


@pytest.mark.parametrize("until", [NOW, NOW - timedelta(microseconds=1)], ids=["just now", "before"])
async def test_a_lease_that_has_lapsed_is_in_no_way(database, until):
    await put(database, running())
    claimed = await take(database)
    await database.extend_lease(ADA, until)

    assert (await database.save(claimed, stopping(claimed))).status.phase is Phase.STOPPING


async def test_a_stop_by_force_asks_for_no_lease(database):
    await put(database, running())
    claimed = await take(database)
    await database.extend_lease(ADA, SOON)

    forced = replace(stopping(claimed), unless_busy_at=None)

    assert (await database.save(claimed, forced)).status.phase is Phase.STOPPING


async def test_a_lost_claim_counts_before_a_lease(database):
    await put(database, running())
    lost = await take(database, now=NOW)
    await take(database, now=lost.lapses_at)
    await database.extend_lease(ADA, SOON)

    with pytest.raises(ClaimLost):
        await database.save(lost, stopping(lost))


async def test_a_stop_that_was_asked_for_ends_the_leases_before_anybody_works_on_it(database):
    await put(database, running())
    await database.decide(ADA, changing(desired=Desired.STOPPED))

    with pytest.raises(StackDraining):
        await database.extend_lease(ADA, SOON)


async def test_what_is_kept_from_a_stop_spoils_nothing_that_is_committed_with_it(database):
    await put(database, running(ADA))
    await put(database, running(BOB))
    kept, good = await take(database, ADA), await take(database, BOB)
    await database.extend_lease(ADA, SOON)

    answers = await asyncio.gather(
        database.save(kept, stopping(kept)),
        database.save(good, stopping(good)),
        database.extend_lease(ADA, LATER),
        database.extend_lease(BOB, LATER),
        return_exceptions=True,
    )

    assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [Busy, StackDraining]
    assert (await database.get(ADA)).busy_until == LATER
    assert (await database.get(BOB)).status.phase is Phase.STOPPING


async def race(one, other, users):
    """Let each stop meet the lease of its user, begun in either order, and return who was refused what."""

    async def stop(user_id, claimed):
        try:
            await one.save(claimed, stopping(claimed))
        except Busy:
            return "busy"
        return "stopped"

    async def lease(user_id):
        try:
            await other.extend_lease(user_id, SOON)
        except StackDraining:
            return "draining"
        return "leased"

    claims = {user_id: await take(one, user_id) for user_id in users}
    racing = []
    for number, user_id in enumerate(users):
        pair = [stop(user_id, claims[user_id]), lease(user_id)]
        racing += pair if number % 2 else [pair[1], pair[0]]
    answers = await asyncio.gather(*racing)
    return [frozenset(answers[first : first + 2]) for first in range(0, len(answers), 2)]


POSSIBLE = {frozenset({"busy", "leased"}), frozenset({"stopped", "draining"})}


async def test_of_a_stop_and_a_lease_at_once_exactly_one_is_refused(database):
    users = [UserId(f"u{number:02}") for number in range(40)]
    for user_id in users:
        await put(database, running(user_id))

    outcomes = await race(database, database, users)

    assert set(outcomes) == POSSIBLE


async def test_of_a_stop_and_a_lease_at_once_through_two_replicas_exactly_one_is_refused(
    database, database_url
):
    other = Database(url=database_url)
    await other.open()
    users = [UserId(f"u{number:02}") for number in range(40)]
    for user_id in users:
        await put(database, running(user_id))

    outcomes = await race(database, other, users)
    await other.close()

    assert set(outcomes) <= POSSIBLE
    for user_id, outcome in zip(users, outcomes, strict=True):
        stack = await database.get(user_id)
        is_stopping = stack.status.phase is Phase.STOPPING
        assert is_stopping == ("stopped" in outcome)
        assert (stack.busy_until is None) == is_stopping
