"""Figures 8 and 9: the store with 100,000 stacks, on SQLite and on PostgreSQL: counting the stale, and pages of a list."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import asyncpg
from sqlalchemy import Connection, create_engine, func, insert, literal, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from bench.figures import Block, Figure, ratio_of, spread
from bench.replayed_fleet import stack_for_lists
from bench.rounds import alternate
from bench.show import say
from opencode_lifecycle.adapters.database import schema
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.adapters.database.stack_rows import values_of
from opencode_lifecycle.adapters.database.tables import user_stacks
from opencode_lifecycle.model.identifiers import JobId, UserId
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.stores import StackQuery
from postgresql_fixture import Postgresql, new_postgresql

STACKS: Final = 100_000
PAGE: Final = 100
STALE_OF: Final = 10
"""One in so many is stale, in one of eight ways."""
BLOCKS, SPARE = 5, 2
REPETITIONS_OF_COUNT, REPETITIONS_OF_PAGE = 15, 20
COUNT_BAR, PAGE_BAR = 1.5, 1.2
_BARE_COUNT: Final = (
    "SELECT stale, count(*) FROM user_stacks WHERE stale <> 0 GROUP BY stale "
    "UNION ALL SELECT 0, count(*) FROM user_stacks"
)
"""What any program must ask to know the same: the mask's groups from the index, and how many there are in all."""
_QUERIES: Final = {
    "all": (StackQuery(limit=PAGE), STACKS - PAGE - 1),
    "phase=running": (StackQuery(limit=PAGE, phase=Phase.RUNNING), STACKS - PAGE - 1),
    "stale=true": (StackQuery(limit=PAGE, stale=True), STACKS - STALE_OF * (PAGE + 1)),
}
"""Each with the number of the last stack before its last page."""


class _Store:
    """One database with its stacks, and the bare driver beside it."""

    def __init__(self, name: str, database: Database, bare: Callable[[], Awaitable[Sequence[Any]]]) -> None:
        self.name = name
        self.database = database
        self._bare = bare

    async def count_bare(self) -> float:
        return await _each(self._bare, REPETITIONS_OF_COUNT)

    async def count_ours(self) -> float:
        return await _each(self.database.staleness_summary, REPETITIONS_OF_COUNT)

    def page(self, query: StackQuery) -> Callable[[], Awaitable[float]]:
        async def run() -> float:
            return await _each(lambda: self.database.find(query), REPETITIONS_OF_PAGE)

        return run


async def _each(call: Callable[[], Awaitable[Any]], times: int) -> float:
    """Return milliseconds of one call, as the median of so many."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        await call()
        taken.append((time.perf_counter() - begun) * 1000)
    return median(taken)


async def measure(directory: Path) -> list[Figure]:
    place = directory / "lists"
    place.mkdir()
    figures = []
    async with _sqlite(place) as store:
        figures += await _figures(store)
    async with _postgresql() as store:
        figures += await _figures(store)
    return figures


async def _figures(store: _Store) -> list[Figure]:
    say(f"lists: {STACKS} stacks on {store.name}")
    return [await _staleness(store), await _pages(store)]


# --- databases


@asynccontextmanager
async def _sqlite(place: Path) -> AsyncIterator[_Store]:
    url = f"sqlite:///{place / 'lists.db'}"
    await _fill(url)
    database = Database(url=url)
    await database.open()
    connection = sqlite3.connect(place / "lists.db")

    async def bare() -> Sequence[Any]:
        return connection.execute(_BARE_COUNT).fetchall()

    try:
        yield _Store("SQLite", database, bare)
    finally:
        connection.close()
        await database.close()


@asynccontextmanager
async def _postgresql() -> AsyncIterator[_Store]:
    server: Postgresql = new_postgresql()
    try:
        server.start()
        server.execute("CREATE DATABASE lists")
        url = server.url("lists")
        await _fill(url)
        database = Database(url=url)
        await database.open()
        connection = await asyncpg.connect(host=str(server.directory), user="opencode", database="lists")

        async def bare() -> Sequence[Any]:
            found: Sequence[Any] = await connection.fetch(_BARE_COUNT)
            return found

        try:
            yield _Store("PostgreSQL", database, bare)
        finally:
            await connection.close()
            await database.close()
    finally:
        server.stop()
        server.remove()


async def _fill(url: str) -> None:
    """Write one row as the store does, and have the database make the others of it."""
    await asyncio.to_thread(schema.upgrade, url)
    if url.startswith("sqlite"):
        await asyncio.to_thread(_fill_sqlite, url)
        return
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(_put_rows)
    async with engine.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).run_sync(_tidy)
    await engine.dispose()


def _fill_sqlite(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        _put_rows(connection)
    with engine.connect() as connection:
        _tidy(connection.execution_options(isolation_level="AUTOCOMMIT"))
    engine.dispose()


def _put_rows(connection: Connection) -> None:
    release, like = stack_for_lists()
    stack = replace(like, user_id=UserId("specimen"), job_id=JobId("oc-specimen"))
    dialect = connection.dialect.name
    numbers = _numbers(dialect)
    own = {
        "user_id": literal("user-") + _padded(numbers.c.n, dialect) + literal("@example.org"),
        "job_id": literal("oc-user-") + _padded(numbers.c.n, dialect),
        "change_seq": numbers.c.n + 2,
        "stale": text(
            f"CASE WHEN n % {STALE_OF} = 0 THEN 1 << CAST(n / {STALE_OF} % 8 AS INTEGER) ELSE 0 END"
        ),
    }
    names = [column.name for column in user_stacks.columns]
    connection.execute(release)
    connection.execute(insert(user_stacks), values_of(stack))
    chosen = [own.get(name, user_stacks.c[name]) for name in names]
    source = (
        select(*chosen)
        .select_from(user_stacks.join(numbers, text("true")))
        .where(user_stacks.c.user_id == stack.user_id)
    )
    connection.execute(insert(user_stacks).from_select(names, source))
    connection.execute(user_stacks.delete().where(user_stacks.c.user_id == stack.user_id))


def _tidy(connection: Connection) -> None:
    connection.execute(text("VACUUM"))
    connection.execute(text("ANALYZE"))


def _numbers(dialect: str) -> Any:
    if dialect == "postgresql":
        return select(func.generate_series(0, STACKS - 1).label("n")).subquery("numbers")
    start = select(literal(0).label("n")).cte("numbers", recursive=True)
    return start.union_all(select(start.c.n + 1).where(start.c.n < STACKS - 1))


def _padded(number: Any, dialect: str) -> Any:
    if dialect == "postgresql":
        return func.to_char(number, "FM000000")
    return func.printf("%06d", number)


# --- figures


async def _staleness(store: _Store) -> Figure:
    blocks = await alternate(
        ours=store.count_ours, bare=store.count_bare, blocks=BLOCKS, spare=SPARE, unit="ms"
    )
    summary = await store.database.staleness_summary()
    assert (summary.stacks, summary.stale) == (STACKS, STACKS // STALE_OF), summary
    ratio = ratio_of(blocks)
    return Figure(
        name=f"staleness of {STACKS} stacks, {store.name}",
        value=round(ratio, 3),
        unit="x of the bare SQL",
        bar=f"<= {COUNT_BAR}",
        holds=ratio <= COUNT_BAR,
        details={
            **_arms(blocks, "ours", "bare"),
            "facets": {str(each.facet): each.stacks for each in summary.facets},
        },
    )


async def _pages(store: _Store) -> Figure:
    found: dict[str, Sequence[Block]] = {}
    for name, (first, before_last) in _QUERIES.items():
        last = replace(first, after=_user(before_last))
        page = await store.database.find(last)
        assert len(page.items) == PAGE, "the last page is as full as the first"
        assert page.next_cursor is None, "nothing comes after it"
        found[name] = await alternate(
            ours=store.page(last), bare=store.page(first), blocks=BLOCKS, spare=SPARE, unit=f"ms, {name}"
        )
    worst = max(found, key=lambda name: ratio_of(found[name]))
    ratio = ratio_of(found[worst])
    return Figure(
        name=f"last page of a list of {STACKS} stacks, {store.name}",
        value=round(ratio, 3),
        unit="x of the first",
        bar=f"<= {PAGE_BAR}",
        holds=ratio <= PAGE_BAR,
        details={
            "worst_of": worst,
            "by_query": {name: _arms(blocks, "last", "first") for name, blocks in found.items()},
            "stacks_on_a_page": PAGE,
        },
    )


def _user(number: int) -> UserId:
    return UserId(f"user-{number:06}@example.org")


def _arms(blocks: Sequence[Block], ours: str, bare: str) -> dict[str, Any]:
    return {
        "ratio": spread([block.ratio for block in blocks]),
        f"{ours}_ms": spread([each for block in blocks for each in block.ours], 2),
        f"{bare}_ms": spread([each for block in blocks for each in block.bare], 2),
        "noisy_blocks_kept": [block.noise for block in blocks if block.noise],
    }
