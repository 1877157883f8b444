"""
Every query of what grows with a fleet goes by an index.

What a database plans for the very statements that the stores send is looked at, over rows enough that it matters.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import event

from database_examples import ADA, LATER, NOW, a_stack, an_event, put
from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.errors import ClaimLost, OrphanNotFound
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import ConditionId, JobId, OrphanId, UserId
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.states import Health
from opencode_lifecycle.ports.stores import StackQuery

pytestmark = pytest.mark.databases

MANY = 120
"""Of which one in thirty is stale, unhealthy or claimed."""
STALE = "ix_user_stacks_user_id_stale"


def an_orphan(number: int) -> Orphan:
    name = f"oc-{number:03}"
    find = Find(
        kind=OrphanKind.JOB,
        job_id=JobId(name),
        reference=name,
        installation="main",
        user_id=UserId(name),
        details={},
    )
    return Orphan(find=find, proven=True, first_seen_at=NOW, last_seen_at=NOW, confirmations=1)


def a_condition(number: int) -> Condition:
    return Condition(
        id=ConditionId(f"cond_{number:03}"),
        kind=ConditionKind.MASS_SILENCE,
        message="",
        details={},
        since=NOW,
        cleared_at=None if number == 19 else LATER,
    )


def status_of(number: int) -> Status:
    if number % 30:
        return Status(phase_since=NOW, health=Health.HEALTHY)
    return Status(phase_since=NOW, health=Health.DEGRADED, stale=frozenset({Facet.IMAGE}))


@pytest.fixture
async def filled(database):
    stacks = [a_stack(f"u{number:03}", status=status_of(number)) for number in range(MANY)]
    await asyncio.gather(*(put(database, stack) for stack in stacks))
    orphans = [an_orphan(number) for number in range(MANY)]
    await database.put_orphans(orphans, earlier={}, now=NOW)
    for orphan in orphans[::30]:
        await database.claim_orphan(orphan.id, now=NOW, lapses_at=LATER)
    await asyncio.gather(*(database.put_condition(a_condition(number)) for number in range(20)))
    await database.append(
        [replace(an_event(), at=NOW + timedelta(minutes=number)) for number in range(2 * MANY)]
    )
    await analyze(database)
    return database


async def analyze(database) -> None:
    """Have the database count what it has."""
    await database._write("analyze", lambda transaction: transaction._connection.exec_driver_sql("ANALYZE"))


async def plans_of(database, ask: Callable[[], Awaitable[object]]) -> str:
    """Return how the database goes about each statement that *ask* sends."""
    plans = []

    def explain(connection, cursor, statement, parameters, context, executemany):  # noqa: PLR0917 - as it is called
        if statement.startswith(("EXPLAIN", "SET", "RESET")) or executemany:
            return
        if connection.dialect.name == "sqlite":
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in rows)
            return
        # A hundred rows lie on so few pages that reading and sorting all is cheapest. What counts is thousands.
        for way in ("seqscan", "bitmapscan", "sort"):
            connection.exec_driver_sql(f"SET enable_{way} = off")
        plans.extend(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))
        connection.exec_driver_sql("RESET ALL")

    engines = (database._reading.engine, database._writing.engine)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", explain)
    try:
        await ask()
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", explain)
    assert plans, "no statement was sent"
    return "\n".join(plans)


def reads_whole(plans: str, table: str) -> bool:
    """Whether any step reads all rows of *table*, by no index and in no order."""
    steps = [line.strip() for line in plans.splitlines()]
    return any(
        f"Seq Scan on {table}" in step or (step.startswith(f"SCAN {table}") and "INDEX" not in step)
        for step in steps
    )


def sorts(plans: str) -> bool:
    return "TEMP B-TREE FOR ORDER BY" in plans or "Sort" in plans


@pytest.mark.parametrize(
    "query",
    [
        {"stale": True},
        {"stale": Facet.IMAGE},
        {"stale": True, "after": UserId("u100")},
        {"stale": Facet.IMAGE, "after": UserId("u110")},
    ],
    ids=str,
)
async def test_pages_of_the_stale_are_read_off_their_index_in_order(filled, query):
    plans = await plans_of(filled, lambda: filled.find(StackQuery(**query)))

    assert STALE in plans
    assert not reads_whole(plans, "user_stacks")
    assert not sorts(plans)


async def test_the_stale_are_counted_without_a_look_at_their_rows(filled):
    plans = await plans_of(filled, filled.staleness_summary)

    assert f"COVERING INDEX {STALE}" in plans or f"Index Only Scan using {STALE}" in plans
    assert not reads_whole(plans, "user_stacks")


async def test_pages_of_one_health_are_read_off_its_index_in_order(filled):
    query = StackQuery(health=Health.DEGRADED, after=UserId("u100"))

    plans = await plans_of(filled, lambda: filled.find(query))

    assert "ix_user_stacks_health_user_id" in plans
    assert not sorts(plans)


async def test_events_that_are_old_are_found_by_their_age(filled):
    plans = await plans_of(filled, lambda: filled.prune_events(NOW + timedelta(minutes=20)))

    assert "ix_events_at" in plans
    assert not reads_whole(plans, "events")


async def test_the_latest_events_of_a_user_are_read_off_their_index_from_its_end(filled):
    plans = await plans_of(filled, lambda: filled.latest_events(UserId("bob"), "stack.ensure", limit=5))

    assert "ix_events_user_id_seq" in plans
    assert not sorts(plans)


async def ask_for_a_claimed_one(database) -> None:
    with pytest.raises(ClaimLost):
        await database.claim_orphan(an_orphan(0).id, now=NOW, lapses_at=LATER)


async def test_who_sees_to_a_name_is_found_by_the_index_of_the_claimed(filled):
    plans = await plans_of(filled, lambda: ask_for_a_claimed_one(filled))

    assert "ix_orphans_job_id" in plans
    assert "uq_user_stacks_job_id" in plans or "sqlite_autoindex_user_stacks" in plans
    assert not reads_whole(plans, "orphans")
    assert not reads_whole(plans, "user_stacks")


async def test_a_new_stack_finds_a_claim_on_its_name_by_the_index_of_the_claimed(filled):
    plans = await plans_of(filled, lambda: put(filled, ADA))

    assert plans.count("ix_orphans_job_id") >= 2
    assert not reads_whole(plans, "orphans")


async def ask_for_one_that_is_not_there(database) -> None:
    with pytest.raises(OrphanNotFound):
        await database.claim_orphan(OrphanId("orp_none"), now=NOW, lapses_at=LATER)


@pytest.mark.parametrize(
    ("table", "ask"),
    [
        ("orphans", lambda store: store.get_orphan(an_orphan(7).id)),
        ("orphans", ask_for_one_that_is_not_there),
        ("orphans", lambda store: store.find_orphans(after=an_orphan(7).id, limit=20)),
        ("conditions", lambda store: store.get_condition(ConditionId("cond_007"))),
        ("conditions", lambda store: store.put_condition(a_condition(7))),
        ("conditions", lambda store: store.find_conditions(standing=False, limit=20)),
        (
            "conditions",
            lambda store: store.find_conditions(standing=False, after=ConditionId("cond_007"), limit=20),
        ),
        ("installations", lambda store: store.cluster_mark("main")),
        ("removed_stacks", lambda store: store.deleted_at(ADA)),
    ],
)
async def test_what_is_asked_for_by_its_id_or_in_the_order_of_ids_is_read_off_the_primary_key(
    filled, table, ask
):
    plans = await plans_of(filled, lambda: ask(filled))

    assert f"pk_{table}" in plans or f"sqlite_autoindex_{table}_1" in plans
    assert not reads_whole(plans, table)
    assert not sorts(plans)
