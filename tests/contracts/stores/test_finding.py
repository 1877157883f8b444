"""Lists of stacks, and the sequence of their changes."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from database_examples import (
    ADA,
    BOB,
    NOW,
    RELEASE,
    a_release,
    a_stack,
    changing,
    progress,
    put,
    take,
)
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.adapters.database.facet_mask import mask_of
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.staleness import StalenessSummary
from opencode_lifecycle.model.states import Health, MigrationState, Phase, Reason
from opencode_lifecycle.ports.stores import OperationOutcome, StackQuery

AWKWARD = sorted(["a", "A", "a.b", "a-b", "a_b", "aa", "a~", "B", "b", "Z", "a=", "a+", "a|", "0", "a:"])


async def found(database, **query):
    return [stack.user_id for stack in (await database.find(StackQuery(**query))).items]


async def remove(database, user_id=ADA, *, successor=None):
    claimed = await take(database, user_id)
    await database.finish_deletion(
        claimed,
        outcome=OperationOutcome(state=OperationState.SUCCEEDED),
        events=[],
        kept=None,
        successor=successor,
    )


async def changes(database, seq, *, limit=100):
    return [
        (change.user_id, change.stack is not None)
        for change in await database.changes_since(seq, limit=limit)
    ]


@pytest.mark.parametrize("size", [1, 2, 4, 15, 100])
async def test_pages_list_every_stack_once_in_the_bytewise_order_of_ids(database, size):
    for user_id in reversed(AWKWARD):
        await put(database, user_id)

    listed, after = [], None
    while True:
        page = await database.find(StackQuery(limit=size, after=after))
        listed += [stack.user_id for stack in page.items]
        if page.next_cursor is None:
            break
        after = UserId(page.next_cursor)

    assert listed == AWKWARD


async def test_a_page_goes_on_where_the_last_ended_though_stacks_came_and_went(database):
    for user_id in ["b", "d", "f"]:
        await put(database, user_id)
    page = await database.find(StackQuery(limit=2))
    await remove(database, "d")
    await put(database, "a")
    await put(database, "e")

    assert page.next_cursor == "d"
    assert await found(database, after=UserId(page.next_cursor)) == ["e", "f"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"phase": Phase.FAILED}, {"phase": Phase.FAILED}),
        ({"health": Health.DEGRADED}, {"health": Health.DEGRADED}),
        ({"migration_state": MigrationState.HELD}, {"migration_state": MigrationState.HELD}),
        ({"reason": Reason.NO_CAPACITY}, {"reason": Reason.NO_CAPACITY}),
        ({"release": "rel_two"}, {"release": "rel_two"}),
        ({"stale": True}, {"stale": frozenset({Facet.PROMPT})}),
        ({"stale": Facet.PROMPT}, {"stale": frozenset({Facet.IMAGE, Facet.PROMPT})}),
    ],
)
async def test_a_filter_finds_what_it_names_and_nothing_else(database, query, status):
    await database.add_release(a_release("rel_two"))
    await put(database, a_stack(ADA, status=Status(phase_since=NOW, **status)))
    await put(database, BOB)

    assert await found(database, **query) == [ADA]
    assert await found(database) == [ADA, BOB]


async def test_what_is_not_stale_can_be_asked_for(database):
    await put(database, a_stack(ADA, status=Status(phase_since=NOW, stale=frozenset({Facet.LABELS}))))
    await put(database, BOB)

    assert await found(database, stale=False) == [BOB]


async def test_the_stale_are_counted_by_facet_and_as_stacks(database):
    for user_id, stale in [("a", {Facet.IMAGE, Facet.PROMPT}), ("b", {Facet.IMAGE}), ("c", set())]:
        await put(database, a_stack(user_id, status=Status(phase_since=NOW, stale=frozenset(stale))))

    summary = await database.staleness_summary()

    assert (summary.stacks, summary.stale) == (3, 2)
    assert {count.facet: count.stacks for count in summary.facets} == {Facet.IMAGE: 2, Facet.PROMPT: 1}


async def test_edits_from_outside_are_counted_as_a_restart_when_taking_any_of_them_back_is_one(database):
    edited = frozenset({Facet.EDITED_OUTSIDE, Facet.PROMPT})
    in_place = Status(phase_since=NOW, stale=edited)
    await put(database, a_stack("a", status=in_place))
    before = (await database.staleness_summary()).facets
    await put(database, a_stack("b", status=replace(in_place, edits_restart=True)))

    after = (await database.staleness_summary()).facets

    assert {count.facet: count.restart for count in before} == dict.fromkeys(edited, False)
    assert {count.facet: count.restart for count in after} == {
        Facet.EDITED_OUTSIDE: True,
        Facet.PROMPT: False,
    }
    assert {count.facet: count.stacks for count in after} == dict.fromkeys(edited, 2)
    assert await found(database, stale=Facet.EDITED_OUTSIDE) == ["a", "b"]
    assert [stack.status.stale for stack in (await database.find(StackQuery())).items] == [edited, edited]


async def test_edits_that_are_no_reason_now_do_not_make_a_stack_stale(database):
    await put(database, a_stack("a", status=Status(phase_since=NOW, edits_restart=True)))

    assert await database.staleness_summary() == StalenessSummary(stacks=1, stale=0, facets=())
    assert await found(database, stale=False) == ["a"]


async def test_a_fleet_without_stale_stacks_is_counted_as_such(database):
    await put(database, "a")

    assert await database.staleness_summary() == StalenessSummary(stacks=1, stale=0, facets=())


def test_the_bits_of_facets_are_never_given_away_again():
    """The numbers are in databases."""
    assert {facet.value: mask_of([facet]) for facet in Facet} == {
        "image": 1,
        "opencode_version": 2,
        "template": 4,
        "environment": 8,
        "resources": 16,
        "secret_version": 32,
        "prompt": 64,
        "config": 128,
        "labels": 256,
        "endpoints": 512,
        "edited_outside": 1024,
        "missing": 2048,
    }


async def test_filters_are_joined_by_and_also_over_pages(database):
    for user_id, phase, stale, labels in [
        ("a", Phase.RUNNING, {Facet.IMAGE}, {"team": "x"}),
        ("b", Phase.RUNNING, {Facet.PROMPT}, {"team": "x"}),
        ("c", Phase.FAILED, {Facet.IMAGE}, {"team": "x"}),
        ("d", Phase.RUNNING, {Facet.IMAGE}, {"team": "y"}),
        ("e", Phase.RUNNING, {Facet.IMAGE, Facet.PROMPT}, {"team": "x"}),
    ]:
        status = Status(phase_since=NOW, phase=phase, stale=frozenset(stale))
        await put(database, a_stack(user_id, status=status, labels=labels))
    wanted = {"phase": Phase.RUNNING, "stale": Facet.IMAGE, "labels": {"team": "x"}}

    first = await database.find(StackQuery(**wanted, limit=1))
    second = await database.find(StackQuery(**wanted, limit=1, after=UserId(first.next_cursor or "")))

    assert [stack.user_id for page in (first, second) for stack in page.items] == ["a", "e"]
    assert second.next_cursor is None


async def test_groups_are_compared_exactly(database):
    for user_id, group in [("a", "team"), ("b", "team-b"), ("c", "TEAM")]:
        await put(database, a_stack(user_id, group=group))

    assert await found(database, group="team") == ["a"]


async def test_labels_are_matched_by_name_and_whole_value_and_joined_by_and(database):
    await put(database, a_stack("a", labels={"team": "x", "tier": "1"}))
    await put(database, a_stack("b", labels={"team": "x", "tier": "11"}))
    await put(database, a_stack("c", labels={"team": "X"}))
    await put(database, a_stack("d", labels={"team-x": "x", "tier": "1"}))
    await put(database, a_stack("e", labels={"note": 'it\'s "x" 100%'}))

    assert await found(database, labels={"team": "x"}) == ["a", "b"]
    assert await found(database, labels={"team": "x", "tier": "1"}) == ["a"]
    assert await found(database, labels={"team-x": "x"}) == ["d"]
    assert await found(database, labels={"note": 'it\'s "x" 100%'}) == ["e"]
    assert await found(database, labels={"none": "x"}) == []


async def test_changes_come_in_order_and_only_the_latest_of_each_stack(database):
    await put(database, ADA)
    await put(database, BOB)
    await database.decide(ADA, changing())

    assert await changes(database, 0) == [(BOB, True), (ADA, True)]
    assert await changes(database, 0, limit=1) == [(BOB, True)]


async def test_a_change_carries_the_stack_as_it_became(database):
    await put(database)
    start = await database.latest_change()
    claimed = await take(database)
    saved = await database.save(claimed, progress(claimed, phase=Phase.STARTING))

    [change] = await database.changes_since(start, limit=10)

    assert change.stack == saved
    assert change.seq == saved.change_seq == await database.latest_change()


async def test_a_removed_stack_is_a_change_without_a_stack(database):
    await put(database, ADA)
    start = await database.latest_change()
    await remove(database, ADA)

    assert await changes(database, start) == [(ADA, False)]


async def test_a_removal_is_forgotten_with_the_operations_of_its_time(database):
    await put(database, ADA)
    start = await database.latest_change()
    await remove(database, ADA)

    await database.prune_operations(datetime.max.replace(tzinfo=UTC))

    assert await changes(database, start) == []


async def test_a_stack_that_came_back_is_no_longer_removed(database):
    await put(database, ADA)
    start = await database.latest_change()
    await remove(database, ADA)
    await put(database, ADA)

    assert await changes(database, start) == [(ADA, True)]


async def test_a_successor_is_a_change_of_its_stack(database):
    await put(database, ADA)
    start = await database.latest_change()
    await remove(database, ADA, successor=a_stack(ADA))

    assert await changes(database, start) == [(ADA, True)]


async def test_whoever_follows_the_changes_misses_none_while_two_replicas_write(database, database_url):
    other = Database(url=database_url)
    await other.open()
    users = [f"u{number}" for number in range(120)]
    seen, seq = set(), 0

    async def write():
        await asyncio.gather(*(put([database, other][n % 2], user_id) for n, user_id in enumerate(users)))

    async def follow():
        nonlocal seq
        while len(seen) < len(users):
            for change in await database.changes_since(seq, limit=7):
                seen.add(change.user_id)
                seq = change.seq
            await database.wait_for_change(0.05, after=seq)

    async with asyncio.timeout(20):
        await asyncio.gather(write(), follow())
    await other.close()

    assert seen == set(users)


async def test_a_commit_of_this_process_ends_a_wait(database):
    waiting = asyncio.create_task(database.wait_for_change(20))
    await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await put(database)
        await waiting


async def test_a_change_that_is_known_already_is_not_waited_for(database):
    seq = await database.latest_change()
    await put(database)

    async with asyncio.timeout(5):
        await database.wait_for_change(20, after=seq)


async def test_a_wait_ends_when_nothing_happens(database):
    await database.wait_for_change(0.01, after=await database.latest_change())


async def test_quotas_can_be_counted_from_rows_alone(database):
    await put(database, a_stack(ADA, group="team"))
    await put(database, a_stack(BOB, group="team"))
    await remove(database, BOB)

    assert await found(database, group="team") == [ADA]


@pytest.mark.databases
async def test_a_stack_needs_a_release_that_exists(database):
    unknown = replace(a_stack(), intent=replace(a_stack().intent, wanted_release="rel_unknown"))

    with pytest.raises(UpstreamRejected):
        await put(database, unknown)

    assert (await database.get_release(RELEASE)) is not None
