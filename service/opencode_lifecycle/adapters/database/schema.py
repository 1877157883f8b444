"""
The schema of a database: which revision it has, and how it gets to the one this version needs.

These functions block, and for PostgreSQL run an event loop of their own. Call them from a thread when one is running already.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, column, create_engine, event, inspect, select, table, text
from sqlalchemy.pool import NullPool

from opencode_lifecycle.adapters.database.engine import (
    BUSY_TIMEOUT_SECONDS,
    file_of,
    is_sqlite,
    make_private_file,
    parse_url,
)
from opencode_lifecycle.adapters.database.failures import translated
from opencode_lifecycle.model.errors import InvalidSettings
from opencode_lifecycle.shipped import shipped

Result = TypeVar("Result")

_ADVISORY_LOCK: Final = 0x6F636C63
"""Any number will do, if all replicas use the same. Only PostgreSQL knows of it."""
_CONNECT_SECONDS: Final = 10
_REVISIONS: Final = table("alembic_version", column("version_num"))
"""Where Alembic writes down which revision a schema has."""


def upgrade(url: str, revision: str = "head") -> None:
    """
    Bring the schema to *revision*, all of it or nothing.

    Several processes may do this at once: one does the work, the others wait and find nothing left to do. Raises
    `InvalidSettings` when the schema is of a newer version of this service than this one.
    """

    def change(connection: Connection) -> None:
        if revision != "head" or _revision_of(connection) != head():
            _with_alembic("upgrade", connection, revision)

    _change(url, change)


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to *revision*, such as `base`. What only the newer one can hold is lost."""
    _change(url, lambda connection: _with_alembic("downgrade", connection, revision))


def current(url: str) -> str | None:
    """Return the revision of the schema, or None of an empty database."""
    parsed = parse_url(url)
    if is_sqlite(parsed) and not file_of(parsed).exists():
        return None
    return _run(parsed, _revision_of)


def head() -> str:
    """Return the revision that this version needs."""
    steps = shipped("migrations") / "versions"
    return max(step.name.partition("_")[0] for step in steps.glob("[0-9]*_*.py"))


def is_current(url: str) -> bool:
    return current(url) == head()


def _with_alembic(what: str, connection: Connection, revision: str) -> None:
    # Loading it takes a tenth of a start, and at most starts there is nothing to do.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(shipped("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        {"upgrade": command.upgrade, "downgrade": command.downgrade}[what](config, revision)
    except CommandError as error:
        raise InvalidSettings(
            [
                f"database_url: the schema is not one this version knows ({error}); was it upgraded by a newer one?"
            ]
        ) from None
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        if broken:
            raise RuntimeError(f"the migration left {len(broken)} rows that refer to nothing")


def _revision_of(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_REVISIONS.name):
        return None
    revision: str | None = connection.scalar(select(_REVISIONS.c.version_num))
    return revision


def _change(url: str, work: Callable[[Connection], None]) -> None:
    parsed = parse_url(url)

    def change(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        work(connection)

    with _alone(parsed):
        _run(parsed, change)


def _run(url: URL, work: Callable[[Connection], Result]) -> Result:
    """Run *work* in one transaction, in which SQLite too undoes changes of the schema."""
    with translated("migrate"):
        return _run_on_sqlite(url, work) if is_sqlite(url) else asyncio.run(_run_on_postgresql(url, work))


def _run_on_sqlite(url: URL, work: Callable[[Connection], Result]) -> Result:
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True)
    event.listen(engine, "connect", _leave_transactions_to_us)
    event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


async def _run_on_postgresql(url: URL, work: Callable[[Connection], Result]) -> Result:
    # Of no use on SQLite, where nobody shall wait for it to be loaded.
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

    timeout = {"timeout": _CONNECT_SECONDS}
    engine = create_async_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=timeout)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _leave_transactions_to_us(connection: Any, entry: object) -> None:
    """
    Prepare a connection for changes of the schema.

    Foreign keys stay off: SQLite changes a table by building another and dropping the first, which would take the rows
    that refer to it along. They are checked as a whole before the commit instead.
    """
    del entry
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    cursor.execute("PRAGMA foreign_keys = OFF")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _alone(url: URL) -> Iterator[None]:
    """
    Wait until no other process changes the schema of this SQLite file. PostgreSQL has a lock of its own for it.

    The write lock alone would do, but whoever waits for that gives up after the busy timeout.
    """
    if not is_sqlite(url):
        yield
        return
    with translated("migrate"):
        path = file_of(url)
        make_private_file(path)
        handle = _lock_file(path.with_name(f"{path.name}-migrating"))
    try:
        yield
    finally:
        os.close(handle)


def _lock_file(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle
