"""What is remembered of the whole: standing conditions, orphans, and the mark of the cluster."""

from dataclasses import replace
from datetime import timedelta

from database_examples import ADA, LATER, NOW
from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.identifiers import ConditionId, EventId, JobId, OrphanId, UserId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind


def a_condition(number: int = 1, **changes) -> Condition:
    values = {
        "id": ConditionId(f"cond_{number}"),
        "kind": ConditionKind.MASS_DISAPPEARANCE,
        "message": "many are gone",
        "details": {"missing": 7, "jobs": ["oc-a"]},
        "since": NOW,
    }
    return Condition(**{**values, **changes})


def an_orphan(name: str = "oc-ada", **changes) -> Orphan:
    find = Find(
        kind=OrphanKind.JOB,
        job_id=JobId(name),
        reference=name,
        installation="main",
        user_id=ADA,
        details={"stopped": False},
    )
    values = {"find": find, "proven": True, "first_seen_at": NOW, "last_seen_at": LATER, "confirmations": 2}
    return Orphan(**{**values, **changes})


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


async def test_an_orphan_comes_back_as_it_was_put(database):
    orphan = an_orphan()

    await database.put_orphans([orphan])

    assert await database.get_orphan(orphan.id) == orphan


async def test_what_a_comparison_did_not_find_again_is_no_orphan_any_more(database):
    await database.put_orphans([an_orphan("oc-a"), an_orphan("oc-b")])

    await database.put_orphans([an_orphan("oc-b")])

    assert [each.find.job_id for each in (await database.find_orphans()).items] == ["oc-b"]


async def test_a_comparison_that_finds_nothing_writes_nothing(database):
    before = database.statements

    await database.put_orphans([])

    assert database.statements == before + 1


async def test_two_things_of_one_name_are_two_orphans(database):
    job = an_orphan()
    secret = replace(job, find=replace(job.find, kind=OrphanKind.SECRET))

    await database.put_orphans([job, secret])

    assert len((await database.find_orphans()).items) == 2


async def test_orphans_come_in_pages_or_all_at_once(database):
    await database.put_orphans([an_orphan(f"oc-{number}") for number in range(5)])

    first = await database.find_orphans(limit=3)
    second = await database.find_orphans(after=OrphanId(first.next_cursor), limit=3)

    assert len({each.id for each in (*first.items, *second.items)}) == 5
    assert len((await database.find_orphans(limit=None)).items) == 5


async def test_an_orphan_that_was_seen_to_is_forgotten(database):
    orphan = an_orphan()
    await database.put_orphans([orphan])

    await database.remove_orphan(orphan.id)

    assert await database.get_orphan(orphan.id) is None


async def test_each_installation_has_its_own_mark_and_keeps_the_last(database):
    assert await database.cluster_mark("main") is None

    await database.put_cluster_mark("main", "a")
    await database.put_cluster_mark("other", "b")
    await database.put_cluster_mark("main", "c")

    assert await database.cluster_mark("main") == "c"
    assert await database.cluster_mark("other") == "b"


async def test_old_events_are_forgotten_and_newer_ones_kept(database):
    events = [
        Event(
            id=EventId(f"evt_{day}"),
            user_id=ADA,
            kind="k",
            actor="a",
            at=NOW + timedelta(days=day),
            generation=1,
        )
        for day in range(4)
    ]
    await database.append(events)

    assert await database.prune_events(NOW + timedelta(days=2)) == 2

    page = await database.find_events(user_id=None, after=None, limit=10)
    assert [each.id for each in page.items] == ["evt_2", "evt_3"]
