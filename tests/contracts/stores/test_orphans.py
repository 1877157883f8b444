"""Orphans: what full comparisons find, counted by several replicas, and claimed by whoever sees to one."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import event

from database_examples import ADA, LATER, MUCH_LATER, NOW, a_stack, due_at, put, take
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.model.errors import ClaimLost, OrphanNotFound
from opencode_lifecycle.model.identifiers import JobId, OrphanId, job_id_of
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind

ADAS_JOB = job_id_of("main", ADA)


def an_orphan(name: str = ADAS_JOB, **changes) -> Orphan:
    find = Find(
        kind=OrphanKind.JOB,
        job_id=JobId(name),
        reference=name,
        installation="main",
        user_id=ADA,
        details={"stopped": False},
    )
    values = {"find": find, "proven": True, "first_seen_at": NOW, "last_seen_at": LATER, "confirmations": 1}
    return Orphan(**{**values, **changes})


async def known(database) -> dict[OrphanId, Orphan]:
    return {orphan.id: orphan for orphan in (await database.find_orphans(limit=None)).items}


async def find(database, *orphans: Orphan, earlier=None):
    """Take in a comparison that began when *earlier* was known; by default that is what is known now."""
    before = await known(database) if earlier is None else {orphan.id: orphan for orphan in earlier}
    return await database.put_orphans(orphans, earlier=before, now=NOW)


def again(orphan: Orphan) -> Orphan:
    return replace(orphan, confirmations=orphan.confirmations + 1, last_seen_at=MUCH_LATER)


async def claim(database, orphan: Orphan, *, now=NOW, lapses_at=LATER):
    return await database.claim_orphan(orphan.id, now=now, lapses_at=lapses_at)


async def test_an_orphan_comes_back_as_it_was_put(database):
    orphan = an_orphan()

    assert await find(database, orphan) == [orphan]

    assert await database.get_orphan(orphan.id) == orphan


async def test_an_orphan_that_is_found_again_is_replaced(database):
    orphan = an_orphan()
    await find(database, orphan)

    assert await find(database, again(orphan)) == [again(orphan)]

    assert await known(database) == {orphan.id: again(orphan)}


async def test_what_a_comparison_did_not_find_again_is_no_orphan_any_more(database):
    await find(database, an_orphan("oc-a"), an_orphan("oc-b"))

    await find(database, an_orphan("oc-b"))

    assert [each.find.job_id for each in (await known(database)).values()] == ["oc-b"]


async def test_a_comparison_that_finds_what_was_known_asks_nothing_of_the_database(database):
    await find(database, an_orphan())
    there = await known(database)
    before = database.statements

    await database.put_orphans(list(there.values()), earlier=there, now=NOW)

    assert database.statements == before


@pytest.mark.databases
async def test_only_the_rows_that_differ_are_written(database):
    written = []
    many = [an_orphan(f"oc-{number:02}") for number in range(20)]
    await find(database, *many)
    there = await known(database)

    @event.listens_for(database._writing.engine, "before_cursor_execute")
    def note(*about):
        statement, parameters, executemany = about[2], about[3], about[5]
        if " orphans" in statement and not statement.startswith("SELECT"):
            written.append((statement.split()[0], len(parameters) if executemany else 1))

    await database.put_orphans([again(many[0]), *many[2:], an_orphan("oc-new")], earlier=there, now=NOW)

    assert sorted(written) == [("DELETE", 1), ("INSERT", 1), ("UPDATE", 1)]
    assert len(await known(database)) == 20


async def test_two_comparisons_at_once_are_one_confirmation(database):
    orphan = an_orphan()
    await find(database, orphan)

    first = await find(database, again(orphan), earlier=[orphan])
    second = await find(database, again(replace(orphan, last_seen_at=NOW)), earlier=[orphan])

    assert (await known(database))[orphan.id].confirmations == 2
    assert first == second == [again(orphan)]


async def test_a_comparison_that_saw_less_takes_no_confirmation_that_came_meanwhile(database):
    orphan = an_orphan()
    await find(database, orphan)
    await find(database, again(orphan), earlier=[orphan])

    await find(database, earlier=[orphan])

    assert await known(database) == {orphan.id: again(orphan)}


async def test_what_was_seen_to_meanwhile_is_not_brought_back(database):
    orphan = an_orphan()
    await find(database, orphan)
    await database.release_orphan(await claim(database, orphan), gone=True)

    assert await find(database, again(orphan), earlier=[orphan]) == []

    assert await known(database) == {}


async def test_what_two_replicas_find_first_at_once_is_found_once(database):
    await find(database, an_orphan(), earlier=[])

    found = await find(database, an_orphan(first_seen_at=LATER), earlier=[])

    assert found == [an_orphan()]
    assert list((await known(database)).values()) == [an_orphan()]


async def test_many_comparisons_of_two_replicas_at_once_lose_and_double_nothing(database, database_url):
    other = Database(url=database_url)
    await other.open()
    orphans = [an_orphan(f"oc-{number}") for number in range(10)]
    await find(database, *orphans)

    for _ in range(10):
        before = await known(database)
        found = [again(orphan) for orphan in before.values()]
        await asyncio.gather(
            *(store.put_orphans(found, earlier=before, now=NOW) for store in (database, other) * 2)
        )
    await other.close()

    assert [each.confirmations for each in (await known(database)).values()] == [11] * 10


async def test_two_things_of_one_name_are_two_orphans(database):
    job = an_orphan()
    secret = replace(job, find=replace(job.find, kind=OrphanKind.SECRET))

    await find(database, job, secret)

    assert len(await known(database)) == 2


async def test_orphans_come_in_pages_or_all_at_once(database):
    await find(database, *(an_orphan(f"oc-{number}") for number in range(5)))

    first = await database.find_orphans(limit=3)
    second = await database.find_orphans(after=OrphanId(first.next_cursor), limit=3)

    assert len({each.id for each in (*first.items, *second.items)}) == 5
    assert len(await known(database)) == 5


async def test_an_orphan_that_was_seen_to_is_forgotten(database):
    orphan = an_orphan()
    await find(database, orphan)
    claimed = await claim(database, orphan)
    assert claimed.orphan == orphan

    await database.release_orphan(claimed, gone=True)

    assert await database.get_orphan(orphan.id) is None


async def test_an_orphan_that_is_not_gone_yet_can_be_claimed_again(database):
    orphan = an_orphan()
    await find(database, orphan)

    await database.release_orphan(await claim(database, orphan), gone=False)

    assert (await claim(database, orphan)).orphan == orphan


async def test_an_orphan_that_is_not_there_cannot_be_claimed(database):
    with pytest.raises(OrphanNotFound):
        await claim(database, an_orphan())


async def test_one_alone_sees_to_all_that_bears_a_name(database):
    job = an_orphan()
    secret = replace(job, find=replace(job.find, kind=OrphanKind.SECRET))
    await find(database, job, secret, an_orphan("oc-other"))
    await claim(database, job)

    for orphan in (job, secret):
        with pytest.raises(ClaimLost):
            await claim(database, orphan)
    await claim(database, an_orphan("oc-other"))


async def test_a_claim_on_an_orphan_lapses(database):
    orphan = an_orphan()
    await find(database, orphan)
    lapsed = await claim(database, orphan, lapses_at=LATER)

    await claim(database, orphan, now=LATER, lapses_at=MUCH_LATER)

    await database.release_orphan(lapsed, gone=True)
    assert await database.get_orphan(orphan.id) == orphan
    with pytest.raises(ClaimLost):
        await claim(database, orphan, now=LATER)


async def test_what_is_claimed_is_left_alone_by_comparisons(database):
    orphan = an_orphan()
    await find(database, orphan)
    await claim(database, orphan)

    await find(database)

    assert await known(database) == {orphan.id: orphan}


async def test_an_orphan_that_a_row_explains_by_now_is_none(database):
    orphan = an_orphan()
    await find(database, orphan)
    await put(database, ADA)

    with pytest.raises(OrphanNotFound):
        await claim(database, orphan)

    assert await known(database) == {}


@pytest.mark.parametrize("gone", [True, False])
async def test_nobody_works_on_a_stack_whose_name_is_being_seen_to(database, gone):
    orphan = an_orphan()
    await find(database, orphan)
    claimed = await claim(database, orphan)

    await put(database, ADA)

    assert await due_at(database, NOW) == []
    await database.release_orphan(claimed, gone=gone)
    assert await due_at(database, NOW) == [ADA]


async def test_a_stack_whose_name_somebody_died_seeing_to_is_worked_on_when_the_claim_lapses(database):
    orphan = an_orphan()
    await find(database, orphan)
    claimed = await claim(database, orphan, lapses_at=LATER)
    await put(database, ADA)
    assert await due_at(database, LATER - timedelta(microseconds=1)) == []

    worker = await take(database, ADA, now=LATER)

    await database.release_orphan(claimed, gone=True)
    await database.renew_claim(worker, lapses_at=MUCH_LATER)


async def test_other_stacks_are_worked_on_while_an_orphan_is_seen_to(database):
    await find(database, an_orphan())
    await claim(database, an_orphan())

    await put(database, a_stack("bob"))

    assert await due_at(database, NOW) == ["bob"]


async def test_a_process_that_is_alone_ends_the_claims_on_orphans_too(database):
    orphan = an_orphan()
    await find(database, orphan)
    await claim(database, orphan)
    await put(database, ADA)

    await database.void_claims()

    assert await due_at(database, NOW) == [ADA]
