"""How work on stacks is claimed, saved under the claim, and given back."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from database_examples import (
    ADA,
    BOB,
    LATER,
    MUCH_LATER,
    NOW,
    RUNTIME,
    a_full_stack,
    an_event,
    changing,
    due_at,
    progress,
    put,
    take,
)
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.model.errors import ClaimLost
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.operation import OperationState, PhaseEntered
from opencode_lifecycle.model.states import Phase, Reason
from opencode_lifecycle.ports.stores import Decision, Due, OperationOutcome

SUCCEEDED = OperationOutcome(state=OperationState.SUCCEEDED)


async def claim(database, *, now=NOW, limit=10, hinted=()):
    claimed = await database.claim(limit=limit, now=now, lapses_at=now + timedelta(seconds=60), hinted=hinted)
    return [one.stack.user_id for one in claimed]


async def settle(database, user_id=ADA, *, next_attempt_at=None):
    """Insert a stack that is due at that time only."""
    await put(database, user_id)
    claimed = await take(database, user_id)
    await database.release_claim(claimed, next_attempt_at=next_attempt_at)


async def test_it_is_known_when_a_stack_is_due_and_until_when_it_is_claimed(database):
    await put(database)
    assert (await database.due(ADA)).at < NOW

    claimed = await take(database)
    assert (await database.due(ADA)).claimed_until == claimed.lapses_at

    await database.save(claimed, replace(progress(claimed), next_attempt_at=MUCH_LATER))
    assert await database.due(ADA) == Due(at=MUCH_LATER, claimed_until=None)


async def test_of_a_stack_that_is_not_there_nothing_is_due(database):
    assert await database.due(BOB) is None


async def test_the_most_neglected_stacks_are_claimed_first(database):
    for minutes, user_id in [(3, "c"), (1, "a"), (2, "b")]:
        await settle(database, user_id, next_attempt_at=NOW - timedelta(minutes=minutes))

    assert await claim(database, limit=2) == ["c", "b"]
    assert await claim(database, limit=2) == ["a"]


async def test_a_stack_is_not_claimed_before_it_is_due(database):
    await settle(database, next_attempt_at=LATER)

    assert await claim(database, now=LATER - timedelta(microseconds=1)) == []
    assert await claim(database, now=LATER) == [ADA]


async def test_a_hinted_stack_is_claimed_though_it_is_not_due_and_before_those_that_are(database):
    await settle(database, BOB, next_attempt_at=None)
    await put(database, ADA)

    assert await claim(database, hinted=[BOB], limit=1) == [BOB]


async def test_a_hinted_stack_that_is_due_too_is_claimed_once(database):
    await put(database, ADA)
    await put(database, BOB)

    assert await claim(database, hinted=[BOB, BOB, UserId("nobody")]) == [BOB, ADA]


async def test_many_hints_are_taken_up_to_the_limit(database):
    hints = [UserId(f"u{number:04}") for number in range(1200)]
    await asyncio.gather(*(put(database, user_id, wake=False) for user_id in hints[-30:]))

    assert len(await claim(database, hinted=hints, limit=20)) == 20
    assert len(await claim(database, hinted=hints, limit=20)) == 10


async def test_a_claimed_stack_is_left_out_even_when_hinted(database):
    await put(database)
    await take(database)

    assert await claim(database, hinted=[ADA]) == []


async def test_a_claim_that_lapsed_can_be_taken_by_another(database):
    await put(database)
    lost = await take(database, now=NOW)

    assert await claim(database, now=lost.lapses_at - timedelta(microseconds=1)) == []
    assert await claim(database, now=lost.lapses_at) == [ADA]


async def test_a_stack_claimed_on_a_hint_alone_is_due_again_when_its_worker_dies(database):
    await put(database, wake=False)
    lost = await take(database)

    assert await claim(database, now=lost.lapses_at) == [ADA]


async def test_every_claim_has_a_token_of_its_own(database):
    await put(database)
    first = await take(database, now=NOW)
    second = await take(database, now=first.lapses_at)

    assert first.token != second.token
    assert len(first.token) >= 16


async def test_concurrent_workers_never_claim_the_same_stack(database, database_url):
    for number in range(60):
        await put(database, f"u{number}")
    other = Database(url=database_url)
    await other.open()

    batches = await asyncio.gather(*(claim(one, limit=7) for one in [database, other] * 10))
    await other.close()

    claimed = [user_id for batch in batches for user_id in batch]
    assert len(claimed) == len(set(claimed)) == 60


async def test_a_save_writes_all_of_the_status_and_ends_the_claim(database):
    await put(database)
    claimed = await take(database)
    status = replace(a_full_stack().status, phase=Phase.STARTING)

    saved = await database.save(
        claimed,
        replace(progress(claimed, next_attempt_at=LATER), status=status, events=[an_event(kind="phase")]),
    )

    assert saved == await database.get(ADA)
    assert saved.status == status
    assert saved.change_seq == await database.latest_change()
    assert [event.kind for event in (await database.find_events(user_id=ADA, after=None, limit=9)).items] == [
        "ensure",
        "phase",
    ]
    assert await due_at(database, LATER) == [ADA]
    with pytest.raises(ClaimLost):
        await database.save(claimed, progress(claimed))


async def test_what_is_withdrawn_from_the_status_is_gone(database):
    await put(database, a_full_stack())
    claimed = await take(database, a_full_stack().user_id)
    withdrawn = replace(claimed.stack.status, runtime=None, workspace=None, facets=None, reason=None)

    saved = await database.save(claimed, replace(progress(claimed), status=withdrawn))

    assert (await database.get(saved.user_id)).status == withdrawn


async def test_an_address_can_be_withdrawn_alone(database):
    await put(database, a_full_stack())
    claimed = await take(database, a_full_stack().user_id)

    await database.save(claimed, progress(claimed, runtime=replace(RUNTIME, address=None)))

    assert (await database.get(claimed.stack.user_id)).status.runtime == replace(RUNTIME, address=None)


async def test_a_save_under_a_lost_claim_is_refused_and_writes_nothing(database):
    await put(database)
    stale = await take(database, now=NOW)
    await take(database, now=stale.lapses_at)
    before = await database.get(ADA)
    seq = await database.latest_change()

    with pytest.raises(ClaimLost):
        await database.save(
            stale,
            replace(
                progress(stale, phase=Phase.RUNNING, observed_generation=1),
                events=[an_event(kind="phase")],
                outcome=SUCCEEDED,
            ),
        )

    assert await database.get(ADA) == before
    assert await database.latest_change() == seq
    operation = await database.get_operation(before.intent.last_operation)
    assert operation.state is OperationState.ACCEPTED
    assert len((await database.find_events(user_id=ADA, after=None, limit=9)).items) == 1


async def test_a_lost_claim_spoils_no_save_that_is_committed_with_it(database):
    await put(database, ADA)
    await put(database, BOB)
    stale = await take(database, ADA, now=NOW)
    await take(database, ADA, now=stale.lapses_at)
    good = await take(database, BOB)

    answers = await asyncio.gather(
        database.save(stale, progress(stale, phase=Phase.RUNNING)),
        database.save(good, progress(good, phase=Phase.STARTING)),
        return_exceptions=True,
    )

    assert isinstance(answers[0], ClaimLost)
    assert (await database.get(BOB)).status.phase is Phase.STARTING


async def test_a_claim_that_is_kept_goes_on(database):
    await put(database)
    claimed = await take(database)

    await database.save(claimed, replace(progress(claimed, phase=Phase.STARTING), keep_claim=True))

    assert await claim(database, hinted=[ADA]) == []
    assert (
        await database.save(claimed, progress(claimed, phase=Phase.RUNNING))
    ).status.phase is Phase.RUNNING


async def test_a_kept_claim_whose_worker_dies_leaves_the_stack_due(database):
    await put(database, wake=False)
    claimed = await take(database)
    await database.save(claimed, replace(progress(claimed), keep_claim=True))

    assert await claim(database, now=claimed.lapses_at) == [ADA]


@pytest.mark.parametrize("said", [None, MUCH_LATER])
async def test_a_newer_generation_makes_the_stack_due_at_once_whatever_the_worker_says(database, said):
    await put(database)
    claimed = await take(database)
    await database.decide(ADA, changing(wake=False))

    await database.save(claimed, progress(claimed, next_attempt_at=said))

    assert await claim(database, now=NOW) == [ADA]


@pytest.mark.parametrize("said", [None, MUCH_LATER])
async def test_a_stack_that_was_woken_while_it_was_worked_on_is_due_at_once(database, said):
    await put(database)
    claimed = await take(database)
    await database.decide(ADA, lambda situation: Decision(stack=situation.stack, wake=True))

    saved = await database.save(claimed, progress(claimed, next_attempt_at=said, attempts=3))

    assert saved.status.attempts == 0
    assert await claim(database, now=NOW) == [ADA]


async def test_a_save_that_changes_nothing_is_no_change(database):
    await put(database)
    claimed = await take(database)
    before = await database.latest_change()

    saved = await database.save(claimed, progress(claimed, next_attempt_at=LATER))

    assert saved == claimed.stack
    assert await database.latest_change() == before
    assert await claim(database, now=LATER) == [ADA]


async def test_phases_are_appended_to_the_unfinished_operation(database):
    stack = await put(database)
    claimed = await take(database)
    entered = [PhaseEntered(phase=Phase.STARTING, at=NOW), PhaseEntered(phase=Phase.RUNNING, at=LATER)]
    for one in entered:
        await database.save(claimed, replace(progress(claimed), entered=one, keep_claim=True))

    operation = await database.get_operation(stack.intent.last_operation)
    assert list(operation.phases) == entered
    assert operation.state is OperationState.RUNNING
    assert operation.finished_at is None


@pytest.mark.databases
async def test_an_outcome_finishes_the_operation_it_answers(database):
    stack = await put(database)
    claimed = await take(database)
    outcome = OperationOutcome(
        state=OperationState.FAILED,
        reason=Reason.NO_CAPACITY,
        message="no node\0has room \ud800",
        receipt={"nodes": 3, "of": ["a", None]},
    )

    await database.save(claimed, replace(progress(claimed, observed_generation=1), outcome=outcome))

    operation = await database.get_operation(stack.intent.last_operation)
    assert (operation.state, operation.reason) == (OperationState.FAILED, Reason.NO_CAPACITY)
    assert operation.message == "no node\ufffdhas room ?"
    assert operation.receipt == {"nodes": 3, "of": ["a", None]}
    assert operation.finished_at is not None


async def test_an_outcome_of_older_work_leaves_a_newer_operation_unfinished(database):
    await put(database)
    claimed = await take(database)
    _, decision = await database.decide(ADA, changing())

    await database.save(claimed, replace(progress(claimed, observed_generation=1), outcome=SUCCEEDED))

    operation = await database.get_operation(decision.operation.id)
    assert operation.state is OperationState.ACCEPTED


async def test_a_finished_operation_is_not_touched_again(database):
    stack = await put(database)
    claimed = await take(database)
    entered = PhaseEntered(phase=Phase.RUNNING, at=NOW)
    done = replace(progress(claimed, observed_generation=1), outcome=SUCCEEDED, keep_claim=True)
    await database.save(claimed, done)
    finished = await database.get_operation(stack.intent.last_operation)

    again = OperationOutcome(state=OperationState.FAILED)
    await database.save(claimed, replace(done, outcome=again, entered=entered))

    assert await database.get_operation(stack.intent.last_operation) == finished


async def test_a_released_claim_changes_nothing_else(database):
    await put(database)
    claimed = await take(database)
    seq = await database.latest_change()

    await database.release_claim(claimed, next_attempt_at=LATER)

    assert await database.get(ADA) == claimed.stack
    assert await database.latest_change() == seq
    assert await claim(database, now=LATER - timedelta(seconds=1)) == []
    assert await claim(database, now=LATER) == [ADA]


async def test_releasing_a_lost_claim_is_no_error_and_leaves_the_new_one(database):
    await put(database)
    stale = await take(database, now=NOW)
    good = await take(database, now=stale.lapses_at)

    await database.release_claim(stale, next_attempt_at=None)

    await database.save(good, progress(good, phase=Phase.STARTING))


@pytest.mark.parametrize("how", [changing(wake=False), lambda s: Decision(stack=s.stack, wake=True)])
async def test_a_released_stack_that_was_asked_for_meanwhile_is_due_at_once(database, how):
    await put(database)
    claimed = await take(database)
    await database.decide(ADA, how)

    await database.release_claim(claimed, next_attempt_at=None)

    assert await claim(database, now=NOW) == [ADA]


async def test_a_renewed_claim_is_held_longer(database):
    await put(database, ADA)
    first = await take(database)
    renewed = await database.renew_claim(first, lapses_at=first.lapses_at + timedelta(seconds=60))

    assert await claim(database, now=first.lapses_at) == []
    assert await claim(database, now=renewed.lapses_at) == [ADA]


async def test_a_claim_that_another_took_cannot_be_renewed(database):
    await put(database, ADA)
    stale = await take(database)
    await take(database, now=stale.lapses_at)

    with pytest.raises(ClaimLost):
        await database.renew_claim(stale, lapses_at=MUCH_LATER)


async def test_claims_that_were_voided_leave_their_stacks_due(database):
    await put(database, ADA)
    stale = await take(database)
    await database.void_claims()

    assert await claim(database) == [ADA]
    with pytest.raises(ClaimLost):
        await database.save(stale, progress(stale))
