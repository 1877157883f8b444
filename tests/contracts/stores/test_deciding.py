"""What a decision about a stack writes, and what it leaves alone."""

import asyncio
from dataclasses import fields, replace
from datetime import timedelta

import pytest

from database_examples import (
    ADA,
    BOB,
    LATER,
    NOW,
    WORKSPACE,
    a_full_stack,
    a_stack,
    an_event,
    an_operation,
    changing,
    due_at,
    inserting,
    progress,
    put,
    take,
    with_operation,
)
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.model.errors import PreconditionFailed, UpstreamRejected
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.stack import KeptWorkspace, Successor
from opencode_lifecycle.model.states import Health, Phase
from opencode_lifecycle.ports.stores import Decision, OperationOutcome


async def test_a_stack_comes_back_as_it_was_stored(database):
    stack = await put(database, a_full_stack())

    assert await database.get(stack.user_id) == stack


def test_the_full_example_leaves_no_field_to_its_default():
    """A field that is forgotten in the row would come back as its default, which the test above then shows."""
    stack = a_full_stack()

    assert [
        field.name
        for part in (stack.intent, stack.status)
        for field in fields(part)
        if getattr(part, field.name) == field.default
    ] == ["successor"]


async def test_a_successor_is_part_of_the_intent(database):
    successor = Successor(
        group="g", resources="large", labels={"a": "b"}, environment={"X": "y"}, operation=an_operation().id
    )
    await put(database)

    await database.decide(ADA, changing(successor=successor))

    assert (await database.get(ADA)).intent.successor == successor


async def test_what_is_absent_is_none(database):
    assert await database.get(UserId("nobody")) is None


async def test_a_thousand_concurrent_decisions_make_one_row_and_one_operation(database):
    answers = await asyncio.gather(*(database.decide(ADA, inserting(a_stack())) for _ in range(1000)))

    inserted = [decision.operation for _, decision in answers if decision.operation is not None]
    assert len(inserted) == 1
    assert (await database.get(ADA)).intent.last_operation == inserted[0].id
    assert {situation.stack.intent.last_operation for situation, _ in answers if situation.stack} == {
        inserted[0].id
    }
    assert len((await database.find_events(user_id=ADA, after=None, limit=10)).items) == 1


async def test_two_replicas_that_decide_about_one_absent_user_make_one_row(database, database_url):
    other = Database(url=database_url)
    await other.open()

    answers = await asyncio.gather(
        *([database, other][number % 2].decide(ADA, inserting(a_stack())) for number in range(200))
    )
    await other.close()

    assert sum(decision.stack is not None for _, decision in answers) == 1


async def test_concurrent_decisions_each_see_the_one_before(database):
    await put(database)

    await asyncio.gather(*(database.decide(ADA, changing()) for _ in range(200)))

    assert (await database.get(ADA)).intent.generation == 201


async def test_a_decision_sees_the_stack_its_last_operation_and_the_kept_workspace(database):
    stack = await put(database)
    seen = []

    await database.decide(ADA, lambda situation: seen.append(situation) or Decision())

    assert seen[0].stack == stack
    assert seen[0].last_operation.id == stack.intent.last_operation
    assert seen[0].kept_workspace is None


async def test_an_empty_decision_writes_nothing(database):
    await database.decide(ADA, lambda _: Decision())

    assert await database.get(ADA) is None
    assert await database.latest_change() == 0


async def test_a_decision_without_a_stack_records_what_it_says_and_leaves_the_stack(database):
    stack = await put(database)
    operation = replace(an_operation(), state=OperationState.SUCCEEDED, finished_at=NOW)

    await database.decide(
        ADA, lambda _: Decision(operation=operation, supersede=False, events=[an_event(kind="stop")])
    )

    assert await database.get_operation(operation.id) == operation
    assert await database.get(ADA) == stack
    assert (await database.get_operation(stack.intent.last_operation)).state is OperationState.ACCEPTED
    assert (await database.find_events(user_id=ADA, after=None, limit=9)).items[-1].kind == "stop"


async def test_a_decision_may_only_wake(database):
    await put(database, wake=False)

    await database.decide(ADA, lambda _: Decision(wake=True))

    assert await due_at(database, NOW) == [ADA]


async def test_what_a_decision_raises_is_passed_on_and_nothing_is_written(database):
    await put(database)

    def refuse(situation):
        raise PreconditionFailed

    with pytest.raises(PreconditionFailed):
        await database.decide(ADA, refuse)


async def test_a_refusal_does_not_undo_the_decisions_that_are_committed_with_it(database):
    def refuse(situation):
        raise PreconditionFailed

    answers = await asyncio.gather(
        database.decide(ADA, inserting(a_stack(ADA))),
        database.decide(UserId("carol"), refuse),
        database.decide(BOB, inserting(a_stack(BOB))),
        return_exceptions=True,
    )

    assert isinstance(answers[1], PreconditionFailed)
    assert await database.get(ADA) is not None
    assert await database.get(BOB) is not None


@pytest.mark.databases
async def test_a_decision_that_cannot_be_written_spoils_no_other(database):
    twice = an_operation()

    def broken(situation):
        return Decision(stack=a_stack("carol"), operation=twice, events=[an_event("carol")])

    await database.decide(ADA, lambda _: Decision(stack=with_operation(a_stack(), twice), operation=twice))
    answers = await asyncio.gather(
        database.decide(BOB, inserting(a_stack(BOB))),
        database.decide(UserId("carol"), broken),
        database.decide(UserId("dan"), inserting(a_stack("dan"))),
        return_exceptions=True,
    )

    assert isinstance(answers[1], UpstreamRejected)
    assert await database.get(UserId("carol")) is None
    assert await database.get(BOB) is not None
    assert await database.get(UserId("dan")) is not None


@pytest.mark.databases
async def test_work_that_fails_half_way_through_is_undone_and_spoils_no_other(database):
    def broken(situation):
        return Decision(stack=a_stack("carol"), operation=replace(an_operation("carol"), kind=None))

    answers = await asyncio.gather(
        database.decide(ADA, inserting(a_stack(ADA))),
        database.decide(UserId("carol"), broken),
        database.decide(BOB, inserting(a_stack(BOB))),
        return_exceptions=True,
    )

    assert isinstance(answers[1], AttributeError)
    assert await database.get(UserId("carol")) is None
    assert await database.get(ADA) is not None
    assert await database.get(BOB) is not None


async def test_the_answer_of_a_decision_has_the_change_it_became(database):
    stack = await put(database)
    _, decision = await database.decide(ADA, changing())

    assert decision.stack.change_seq > stack.change_seq
    assert decision.stack.change_seq == (await database.get(ADA)).change_seq
    assert decision.stack.change_seq == await database.latest_change()


async def test_only_the_intent_is_written_of_a_stack_that_somebody_works_on(database):
    await put(database)
    claimed = await take(database)
    await database.save(
        claimed, replace(progress(claimed, phase=Phase.STARTING, health=Health.STARTING), keep_claim=True)
    )

    def decide(situation):
        forged = replace(situation.stack.status, phase=Phase.STOPPED, health=Health.UNKNOWN)
        return changing(group="team-b")(replace(situation, stack=replace(situation.stack, status=forged)))

    _, decision = await database.decide(ADA, decide)

    stored = await database.get(ADA)
    assert stored.intent.group == "team-b"
    assert (stored.status.phase, stored.status.health) == (Phase.STARTING, Health.STARTING)
    assert decision.stack == stored
    saved = await database.save(claimed, progress(claimed, phase=Phase.RUNNING))
    assert saved.intent.group == "team-b"


async def test_a_woken_stack_is_due_whatever_the_clock_says(database):
    await put(database, ADA, wake=True)

    assert await due_at(database, NOW - timedelta(days=9000)) == [ADA]


async def test_a_stack_that_is_not_woken_is_left_to_hints(database):
    await put(database, ADA, wake=False)

    assert await due_at(database, LATER + timedelta(days=9000)) == []


async def test_waking_forgets_failed_tries(database):
    await put(database)
    claimed = await take(database)
    await database.save(claimed, progress(claimed, attempts=5))

    _, decision = await database.decide(ADA, changing(wake=True))

    assert decision.stack.status.attempts == 0
    assert (await database.get(ADA)).status.attempts == 0


async def test_a_decision_that_does_not_wake_keeps_failed_tries_and_turn(database):
    await put(database)
    claimed = await take(database)
    await database.save(claimed, progress(claimed, attempts=5, next_attempt_at=LATER))

    await database.decide(ADA, changing(wake=False))

    assert (await database.get(ADA)).status.attempts == 5
    assert await due_at(database, LATER - timedelta(seconds=1)) == []


async def test_a_newer_operation_supersedes_every_unfinished_one_of_its_stack_alone(database):
    first = (await put(database, ADA)).intent.last_operation
    other = (await put(database, BOB)).intent.last_operation

    _, decision = await database.decide(ADA, changing())

    superseded = await database.get_operation(first)
    assert superseded.state is OperationState.SUPERSEDED
    assert superseded.finished_at == NOW
    assert (await database.get_operation(decision.operation.id)).state is OperationState.ACCEPTED
    assert (await database.get_operation(other)).state is OperationState.ACCEPTED


async def test_a_finished_operation_is_not_superseded(database):
    first = (await put(database)).intent.last_operation
    claimed = await take(database)
    outcome = OperationOutcome(state=OperationState.SUCCEEDED)
    await database.save(claimed, replace(progress(claimed, observed_generation=1), outcome=outcome))

    await database.decide(ADA, changing())

    assert (await database.get_operation(first)).state is OperationState.SUCCEEDED


async def test_a_kept_workspace_is_shown_to_the_next_decision_until_it_is_taken_up(database):
    await put(database)
    claimed = await take(database)
    kept = KeptWorkspace(user_id=ADA, job_id=claimed.stack.job_id, workspace=WORKSPACE, kept_at=NOW)
    await database.finish_deletion(
        claimed,
        outcome=OperationOutcome(state=OperationState.SUCCEEDED),
        events=[],
        kept=kept,
        successor=None,
    )
    assert await database.kept_workspaces() == [kept]

    situation, _ = await database.decide(ADA, lambda _: Decision(stack=a_stack(), forget_kept_workspace=True))

    assert situation.kept_workspace == kept
    assert await database.kept_workspaces() == []


async def test_ids_that_prefix_one_another_or_differ_in_case_are_different_stacks(database):
    ids = ["a", "A", "aa", "a.a", "a-", "a~"]
    for user_id in ids:
        await put(database, user_id)

    assert {user_id: (await database.get(UserId(user_id))).job_id for user_id in ids} == {
        user_id: a_stack(user_id).job_id for user_id in ids
    }
