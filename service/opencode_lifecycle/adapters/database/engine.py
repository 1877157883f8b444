"""
How a database is opened: for reading without transactions, and for writing one transaction at a time.

SQLite is read through aiosqlite and written by one thread of ours. aiosqlite changes threads several times for each
statement, which costs about ten times the statement itself; a whole transaction handed to one thread changes twice.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from opencode_lifecycle.adapters.database.columns import json_text, json_value
from opencode_lifecycle.model.errors import InvalidSettings

Result = TypeVar("Result")

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
            return url.set(drivername="sqlite+aiosqlite")
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


def reading_engine(url: URL) -> AsyncEngine:
    """Open for single statements, each of which sees one committed state."""
    if is_sqlite(url):
        engine = create_async_engine(
            url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            hide_parameters=True,
            json_serializer=json_text,
            json_deserializer=json_value,
            pool_size=_READERS,
            max_overflow=0,
            pool_timeout=BUSY_TIMEOUT_SECONDS,
        )
        _prepare_sqlite(engine.sync_engine, "PRAGMA query_only = ON")
        return engine
    return _postgresql_engine(
        url, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True, pool_size=_READERS, max_overflow=4
    )


def _postgresql_engine(url: URL, **options: Any) -> AsyncEngine:
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
            url.set(drivername="sqlite+pysqlite"),
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


def writing(url: URL) -> Writing:
    return SqliteWriting(url) if is_sqlite(url) else PostgresqlWriting(url)
