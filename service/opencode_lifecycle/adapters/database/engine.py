"""
How a database is opened: for reading without transactions, and for writing one transaction at a time.

SQLite is read by a few threads of ours, and written by one: what is handed to a thread, a statement or a whole
transaction, changes threads twice, which costs more than most statements themselves.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from sqlalchemy import (
    URL,
    CompoundSelect,
    Connection,
    CursorResult,
    Engine,
    Select,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.pool import ConnectionPoolEntry

from opencode_lifecycle.adapters.database.columns import json_text, json_value
from opencode_lifecycle.model.errors import InvalidSettings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Result = TypeVar("Result")
Query = Select[Any] | CompoundSelect[Any]
Values = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

BUSY_TIMEOUT_SECONDS: Final = 5
"""How long a statement waits for another process. The command line may write while we start or stop."""
COMMAND_TIMEOUT_SECONDS: Final = 10
_IDLE_IN_TRANSACTION: Final = "10s"
"""A replica that is frozen inside a transaction would keep every other from writing."""
_LOCK_TIMEOUT: Final = "8s"
_READERS: Final = 4
_TAKE_THE_LOCK: Final = "BEGIN IMMEDIATE"
"""SQLite's write lock: a transaction that reads first, and then writes, fails at once when another wrote in between."""


def parse_url(text: str) -> URL:
    """Read a database URL, choosing our driver for its system, or raise `InvalidSettings`."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise InvalidSettings(["database_url: cannot be read as a database URL"]) from None
    match url.get_backend_name():
        case "sqlite":
            if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
                raise InvalidSettings(["database_url: name a file; a database in memory remembers nothing"])
            return url.set(drivername="sqlite+pysqlite")
        case "postgresql" | "postgres":
            return url.set(drivername="postgresql+asyncpg")
        case other:
            raise InvalidSettings([f"database_url: {other} is neither sqlite nor postgresql"])


def is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def file_of(url: URL) -> Path:
    """Return the file of a SQLite database."""
    assert url.database is not None
    return Path(url.database).absolute()


def make_private_file(path: Path) -> None:
    """
    Create the database file so that nobody else can read it, unless it is there.

    SQLite gives its write-ahead log the mode of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


class Reading(Protocol):
    """Runs single statements, each of which sees one committed state."""

    engine: Engine

    async def rows(self, statement: Query, values: Values | None = None) -> Rows: ...

    async def close(self) -> None: ...


class SqliteReading:
    """A few threads: a statement changes threads once, and once again with its rows."""

    def __init__(self, url: URL) -> None:
        self.engine = create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            hide_parameters=True,
            json_serializer=json_text,
            json_deserializer=json_value,
            pool_size=_READERS,
            max_overflow=0,
            # Any of the threads may use any of them.
            connect_args={"check_same_thread": False},
        )
        _prepare_sqlite(self.engine, "PRAGMA query_only = ON")
        self._threads = ThreadPoolExecutor(max_workers=_READERS, thread_name_prefix="database-reader")
        self._free = asyncio.Semaphore(_READERS)
        """A thread is taken until its statement has ended, also where nobody waits for that any more."""

    async def rows(self, statement: Query, values: Values | None = None) -> Rows:
        try:
            async with asyncio.timeout(BUSY_TIMEOUT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise PoolExhausted from None
        loop = asyncio.get_running_loop()
        running = self._threads.submit(self._rows, statement, values)
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))
        return await asyncio.wrap_future(running)

    def _rows(self, statement: Query, values: Values | None) -> Rows:
        with self.engine.connect() as connection:
            return rows_of(connection.execute(statement, values))

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        self.engine.dispose()


class PostgresqlReading:
    def __init__(self, url: URL) -> None:
        self.asynchronous = _postgresql_engine(
            url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=_READERS,
            max_overflow=4,
        )
        self.engine = self.asynchronous.sync_engine

    async def rows(self, statement: Query, values: Values | None = None) -> Rows:
        async with self.asynchronous.connect() as connection:
            return rows_of(await connection.execute(statement, values))

    async def close(self) -> None:
        await self.asynchronous.dispose()


def rows_of(result: CursorResult[Any]) -> Rows:
    """
    Return all rows, each by the names of its columns.

    They are all fetched before one is looked at: a statement that stands still in the middle, for a row that cannot be
    read, would keep its connection at the state of that moment.
    """
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result.all()]


def _postgresql_engine(url: URL, **options: Any) -> "AsyncEngine":
    # It brings the whole of SQLAlchemy's ORM, which takes a fourteenth of a start on SQLite.
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

    return create_async_engine(
        url,
        hide_parameters=True,
        json_serializer=json_text,
        json_deserializer=json_value,
        pool_pre_ping=True,
        pool_timeout=COMMAND_TIMEOUT_SECONDS,
        connect_args={
            "timeout": COMMAND_TIMEOUT_SECONDS,
            "command_timeout": COMMAND_TIMEOUT_SECONDS,
            "server_settings": {
                "application_name": "opencode-lifecycle",
                "idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION,
                "lock_timeout": _LOCK_TIMEOUT,
                "TimeZone": "UTC",
            },
        },
        **options,
    )


def _prepare_sqlite(engine: Engine, *more: str) -> None:
    """Leave transactions to us, and make a committed write survive a power cut."""
    pragmas = (
        f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
        *more,
    )

    def prepare(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        del entry
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    event.listen(engine, "connect", prepare)


class Writing(Protocol):
    """Runs plain functions, each in one transaction that is committed when it returns and undone when it raises."""

    engine: Engine

    async def transact(self, work: Callable[[Connection], Result]) -> Result: ...

    async def close(self) -> None: ...


class SqliteWriting:
    """One connection on one thread, so that writers queue here in order and never poll for SQLite's lock."""

    def __init__(self, url: URL) -> None:
        self.engine = create_engine(
            url,
            hide_parameters=True,
            json_serializer=json_text,
            json_deserializer=json_value,
            pool_size=1,
            max_overflow=0,
        )
        _prepare_sqlite(self.engine)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database-writer")
        self._connection: Connection | None = None
        """Of the thread's own, since taking it from a pool and giving it back costs as much as a statement."""

    async def transact(self, work: Callable[[Connection], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[Connection], Result]) -> Result:
        connection = self._connection or self.engine.connect()
        self._connection = connection
        try:
            with connection.begin():
                # At once, and no listener of the engine's events, which would slow down every statement.
                connection.exec_driver_sql(_TAKE_THE_LOCK)
                return work(connection)
        except SQLAlchemyError:
            # Whatever state it is in, the next transaction begins on a new one.
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self.engine.dispose()

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)


class PostgresqlWriting:
    def __init__(self, url: URL) -> None:
        self._engine = _postgresql_engine(url, pool_size=2, max_overflow=2)
        self.engine = self._engine.sync_engine

    async def transact(self, work: Callable[[Connection], Result]) -> Result:
        async with self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        await self._engine.dispose()


def reading(url: URL) -> Reading:
    return SqliteReading(url) if is_sqlite(url) else PostgresqlReading(url)


def writing(url: URL) -> Writing:
    return SqliteWriting(url) if is_sqlite(url) else PostgresqlWriting(url)
