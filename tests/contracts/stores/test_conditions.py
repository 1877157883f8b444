"""What is remembered of the whole: standing conditions, and the mark of the cluster."""

from dataclasses import replace

from database_examples import LATER, NOW
from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.identifiers import ConditionId, EventId, UserId
from opencode_lifecycle.model.operation import Event

AN_EVENT = Event(
    id=EventId("evt_1"),
    user_id=UserId(""),
    kind="condition.cleared",
    actor="service",
    at=NOW,
    generation=0,
)


def a_condition(number: int = 1, **changes) -> Condition:
    values = {
        "id": ConditionId(f"cond_{number}"),
        "kind": ConditionKind.MASS_DISAPPEARANCE,
        "message": "many are gone",
        "details": {"missing": 7, "jobs": ["oc-a"]},
        "since": NOW,
    }
    return Condition(**{**values, **changes})


async def test_a_condition_comes_back_as_it_was_put(database):
    condition = a_condition(confirmed_at=LATER, confirmed_by="olga", cleared_at=LATER)

    await database.put_condition(condition)

    assert await database.get_condition(condition.id) == condition


async def test_a_condition_that_was_never_raised_is_not_found(database):
    assert await database.get_condition(ConditionId("cond_0")) is None


async def test_putting_a_condition_again_replaces_it(database):
    await database.put_condition(a_condition())
    confirmed = a_condition(confirmed_at=LATER, confirmed_by="olga")

    await database.put_condition(confirmed)

    assert (await database.find_conditions(standing=False)).items == [confirmed]


async def test_only_conditions_that_ended_before_are_pruned(database):
    old, young, standing = a_condition(1, cleared_at=NOW), a_condition(2, cleared_at=LATER), a_condition(3)
    for condition in (old, young, standing):
        await database.put_condition(condition)

    assert await database.prune_conditions(LATER) == 1

    assert (await database.find_conditions(standing=False)).items == [young, standing]


async def test_only_what_stands_is_listed_unless_everything_is_asked_for(database):
    await database.put_condition(a_condition(1, cleared_at=LATER))
    await database.put_condition(a_condition(2))

    standing = await database.find_conditions(standing=True)
    everything = await database.find_conditions(standing=False)

    assert [each.id for each in standing.items] == ["cond_2"]
    assert [each.id for each in everything.items] == ["cond_1", "cond_2"]


async def test_conditions_come_in_pages(database):
    for number in (1, 2, 3):
        await database.put_condition(a_condition(number))

    first = await database.find_conditions(standing=True, limit=2)
    second = await database.find_conditions(standing=True, after=ConditionId(first.next_cursor), limit=2)

    assert [each.id for each in (*first.items, *second.items)] == ["cond_1", "cond_2", "cond_3"]
    assert second.next_cursor is None


async def test_a_condition_is_put_together_with_its_event(database):
    event = Event(
        id=EventId("evt_1"),
        user_id=UserId(""),
        kind="condition.raised",
        actor="service",
        at=NOW,
        generation=0,
    )

    await database.put_condition(a_condition(), event)

    page = await database.find_events(user_id=None, after=None, limit=10)
    assert [each.kind for each in page.items] == ["condition.raised"]


async def test_each_installation_has_its_own_mark_and_keeps_the_last(database):
    assert await database.cluster_mark("main") is None

    await database.put_cluster_mark("main", "a")
    await database.put_cluster_mark("other", "b")
    await database.put_cluster_mark("main", "c")

    assert await database.cluster_mark("main") == "c"
    assert await database.cluster_mark("other") == "b"


async def test_a_condition_is_changed_from_what_it_is_by_then_together_with_its_event(database):
    await database.put_condition(a_condition(confirmed_at=LATER, confirmed_by="olga"))

    after = await database.change_condition(
        ConditionId("cond_1"), lambda there: replace(there, cleared_at=LATER), AN_EVENT
    )

    assert after == a_condition(confirmed_at=LATER, confirmed_by="olga", cleared_at=LATER)
    assert await database.get_condition(after.id) == after
    page = await database.find_events(user_id=None, after=None, limit=10)
    assert [each.kind for each in page.items] == ["condition.cleared"]


async def test_a_condition_that_is_left_as_it_is_has_no_event(database):
    await database.put_condition(a_condition())

    after = await database.change_condition(ConditionId("cond_1"), lambda there: there, AN_EVENT)

    assert after == a_condition()
    assert (await database.find_events(user_id=None, after=None, limit=10)).items == []


async def test_a_condition_that_was_never_raised_cannot_be_changed(database):
    assert await database.change_condition(ConditionId("cond_0"), lambda there: there, AN_EVENT) is None
