"""Operations and events: kept, listed in order, pruned."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from database_examples import ADA, BOB, NOW, an_event, an_operation, progress, put, take
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.identifiers import EventId, OperationId
from opencode_lifecycle.model.operation import OperationKind, OperationState, PhaseEntered
from opencode_lifecycle.model.states import Phase, Reason
from opencode_lifecycle.ports.stores import Decision, OperationOutcome


async def kinds(database, **query):
    page = await database.find_events(**{"user_id": None, "after": None, "limit": 100, **query})
    return [event.kind for event in page.items]


async def test_an_operation_comes_back_as_it_was_stored(database):
    operation = replace(
        an_operation(kind=OperationKind.DELETE),
        state=OperationState.FAILED,
        phases=(PhaseEntered(phase=Phase.DELETING, at=NOW),),
        reason=Reason.NOMAD_UNAVAILABLE,
        message="später",
        receipt={"job": None, "at": 1.5},
        finished_at=NOW,
    )

    await database.decide(ADA, lambda _: Decision(operation=operation))

    assert await database.get_operation(operation.id) == operation


async def test_an_unknown_operation_is_none(database):
    assert await database.get_operation(OperationId("op_none")) is None


async def test_the_latest_events_of_one_kind_of_one_user_come_the_latest_first(database):
    told = [replace(an_event(user), kind=kind) for user in (ADA, BOB) for kind in ("a", "b", "a", "a")]
    await database.append(told)

    assert await database.latest_events(ADA, "a", limit=2) == [told[3], told[2]]
    assert await database.latest_events(ADA, "none", limit=2) == []


async def test_only_operations_finished_before_are_pruned(database):
    old, young, unfinished = (an_operation("carol") for _ in range(3))
    for operation, finished_at in [(old, NOW), (young, NOW + timedelta(days=2)), (unfinished, None)]:
        state = OperationState.ACCEPTED if finished_at is None else OperationState.SUCCEEDED
        stored = replace(operation, state=state, finished_at=finished_at)
        await database.decide(ADA, lambda _, stored=stored: Decision(operation=stored))

    assert await database.prune_operations(NOW + timedelta(days=1)) == 1

    assert await database.get_operation(old.id) is None
    assert await database.get_operation(young.id) is not None
    assert await database.get_operation(unfinished.id) is not None


async def test_the_last_operation_of_a_stack_is_never_pruned(database):
    stack = await put(database)
    claimed = await take(database)
    outcome = OperationOutcome(state=OperationState.SUCCEEDED)
    await database.save(claimed, replace(progress(claimed, observed_generation=1), outcome=outcome))

    assert await database.prune_operations(datetime.max.replace(tzinfo=UTC)) == 0

    assert await database.get_operation(stack.intent.last_operation) is not None


async def test_an_event_comes_back_as_it_was_stored(database):
    event = an_event(
        kind="phase", before="pending", after={"phase": "running"}, n=1, none=None, text='"\\u0000 ü'
    )

    await database.append([event])

    assert (await database.find_events(user_id=ADA, after=None, limit=10)).items == [event]


@pytest.mark.databases
async def test_text_that_a_database_cannot_hold_is_replaced_in_events_too(database):
    await database.append([an_event(text="a\0b\ud800c")])

    [event] = (await database.find_events(user_id=ADA, after=None, limit=10)).items
    assert event.data == {"text": "a\ufffdb?c"}


async def test_events_are_listed_as_they_were_committed_whatever_their_ids_say(database):
    early, late = an_event(kind="early"), an_event(kind="late")
    await database.append([late])
    await database.append([early])

    assert await kinds(database) == ["late", "early"]
    assert await kinds(database, after=late.id) == ["early"]


async def test_pages_of_events_go_on_after_the_last(database):
    await database.append([an_event(kind=str(number)) for number in range(5)])

    first = await database.find_events(user_id=None, after=None, limit=2)
    second = await database.find_events(user_id=None, after=first.next_cursor, limit=2)
    third = await database.find_events(user_id=None, after=second.next_cursor, limit=2)

    assert [event.kind for page in (first, second, third) for event in page.items] == list("01234")
    assert third.next_cursor is None


async def test_events_of_one_user_are_of_that_user_alone(database):
    await database.append([an_event(ADA, kind="a"), an_event("ad", kind="b"), an_event("ADA", kind="c")])

    assert await kinds(database, user_id=ADA) == ["a"]
    assert await kinds(database, user_id=BOB) == []


async def test_a_reader_whose_last_event_is_not_kept_goes_on_near_it(database):
    await database.append([an_event(kind="before"), an_event(kind="after")])
    first, second = (await database.find_events(user_id=None, after=None, limit=9)).items

    assert await kinds(database, after=EventId(first.id + "0")) == ["after"]
    assert await kinds(database, after=EventId("evt_")) == ["before", "after"]
    assert await kinds(database, after=EventId(second.id + "0")) == []


@pytest.mark.databases
async def test_an_event_is_stored_once(database):
    event = an_event()
    await database.append([event])

    with pytest.raises(UpstreamRejected):
        await database.append([event])

    assert await kinds(database) == ["ensure"]


async def test_concurrent_events_are_all_kept(database):
    await asyncio.gather(*(database.append([an_event(kind=str(number))]) for number in range(100)))

    assert sorted(await kinds(database), key=int) == [str(number) for number in range(100)]


@pytest.mark.databases
async def test_times_keep_their_moment_and_come_back_in_utc(database):
    chatham = timezone(timedelta(hours=12, minutes=45))
    local = datetime(2026, 4, 5, 3, 30, 0, 1, tzinfo=chatham)
    await database.append([replace(an_event(), at=local)])

    [event] = (await database.find_events(user_id=ADA, after=None, limit=10)).items
    assert event.at == local
    assert event.at.tzinfo is UTC
    assert event.at.isoformat() == "2026-04-04T14:45:00.000001+00:00"


@pytest.mark.databases
async def test_a_time_without_a_zone_is_refused(database):
    with pytest.raises(UpstreamRejected):
        await database.append([replace(an_event(), at=datetime(2026, 1, 1))])  # noqa: DTZ001 - the defect

    assert await kinds(database) == []
