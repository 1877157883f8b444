"""
OpenCode's database, read while nothing runs: what its migrations made of it, and what was written since a snapshot.

The agent can write it, so it is read only, and for no longer than an honest one needs.
"""

# ruff: noqa: PTH113

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any

MIGRATIONS = (("migration", "id"), ("__drizzle_migrations", "name"), ("__drizzle_migrations", "created_at"))
"""Tables in which OpenCode has kept its migrations, the newest first, and what tells them apart there."""
SECONDS_TO_READ = 5.0
"""How long the database may take to tell its migrations. An honest one answers at once."""
SECONDS_TO_COMPARE = 60.0
"""How long it may take to find what was written. Measured: 0.8 s for 226 MiB with 100,000 parts."""

NEEDED = ("session", "message", "part")
"""Without these nothing can be said of what a user has written."""
BY_ITSELF = frozenset(
    {
        "migration",
        "__drizzle_migrations",
        "data_migration",
        "event",
        "event_sequence",
        "project_directory",
    }
)
"""What OpenCode writes or resets as it starts and migrates. All that a user does stands in other tables as well."""
EMPTIED = frozenset({"session_message", "session_input", "session_context_epoch"})
"""What a migration may empty: of these only what is there now counts."""
COLUMNS_BY_ITSELF = {"project": frozenset({"time_updated", "time_initialized", "sandboxes"})}
ROWS_BY_ITSELF = frozenset({"project"})
"""Whoever opens a directory makes it a project, which is made anew as easily."""
OURS = "opencode-lifecycle: does it answer?"
"""The title of the session in which the gate of a rollout asks its prompt."""


def migrations_of(database: str) -> dict[str, Any] | None:
    """Return how many migrations *database* has seen and which was the last, or None where it cannot be told."""
    if not os.path.isfile(database):
        return None
    try:
        import sqlite3  # noqa: PLC0415 - not every image has it, and few starts need it
    except ImportError:
        return None
    until = time.monotonic() + SECONDS_TO_READ
    for table, name in MIGRATIONS:
        try:
            connection = sqlite3.connect(address_of(database), uri=True, timeout=SECONDS_TO_READ)
            try:
                connection.set_progress_handler(lambda: time.monotonic() > until, 100_000)
                count, last = connection.execute(f"SELECT count(*), max({name}) FROM {table}").fetchone()  # noqa: S608
            finally:
                connection.close()
        except sqlite3.Error:
            continue
        return {"count": count, "last": str(last)[:200]}
    return None


def written_since(database: str, before: str) -> dict[str, Any] | None:
    """
    Return how much was written to *database* since it was as in *before*; None where that cannot be told.

    Every row of every table is compared, in the columns that both have, but for what OpenCode writes by itself. That a
    session has a new title changes no time in it, so times alone tell nothing. A later migration that rewrites what a user
    has written counts as a write: it cannot be told from one, and nothing may be lost by taking it for none.
    """
    try:
        import sqlite3  # noqa: PLC0415
    except ImportError:
        return None
    until = time.monotonic() + SECONDS_TO_COMPARE
    try:
        connection = sqlite3.connect(address_of(database), uri=True, timeout=SECONDS_TO_READ)
        try:
            connection.set_progress_handler(lambda: time.monotonic() > until, 100_000)
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("ATTACH ? AS before", (address_of(before),))
            return Comparison(connection).written()
        finally:
            connection.close()
    except sqlite3.Error:
        return None


class Comparison:
    """The database as it is, `main`, and as it was, `before`, on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: set[tuple[object, object]] = set()
        """The session and message of each row that differs, the latter None for what belongs to no message."""
        self._others = 0
        self._since: list[int] = []

    def written(self) -> dict[str, Any] | None:
        tables = {name: self._tables(name) for name in ("main", "before")}
        if not all(table in found for table in NEEDED for found in tables.values()):
            return None
        ours = self._ours()
        for table, columns in tables["main"].items():
            was = tables["before"].get(table)
            if was is None:
                self._others += self._count(table)
            elif not self._compare(table, columns, was, ours):
                return None
        messages = {message for _, message in self._rows if message is not None}
        return {
            "sessions": len({session for session, _ in self._rows}),
            "messages": len(messages),
            "other": self._others,
            "since": text_of(min(self._since)) if self._since else None,
        }

    def _tables(self, schema: str) -> dict[str, dict[str, int]]:
        """Return the tables that count, each with its columns and their place in its primary key, 0 for none."""
        names = [
            str(name)
            for (name,) in self._connection.execute(
                f"SELECT name FROM {schema}.sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"  # noqa: S608
            )
        ]
        return {
            name: {
                str(column[1]): int(column[5])
                for column in self._connection.execute(f"PRAGMA {schema}.table_info({quoted(name)})")
            }
            for name in names
            if not name.startswith("sqlite_") and name not in BY_ITSELF
        }

    def _ours(self) -> set[object]:
        """Return the sessions that were opened since to see whether it answers."""
        query = "SELECT id FROM main.session WHERE title = ? AND id NOT IN (SELECT id FROM before.session)"
        return {session for (session,) in self._connection.execute(query, (OURS,))}

    def _count(self, table: str) -> int:
        return int(self._connection.execute(f"SELECT count(*) FROM main.{quoted(table)}").fetchone()[0])  # noqa: S608

    def _compare(self, table: str, columns: dict[str, int], was: dict[str, int], ours: set[object]) -> bool:
        """Take in the rows of *table* that differ; return whether that could be told."""
        keys = [name for name, place in columns.items() if place and was.get(name)]
        if not keys:
            return False
        common = [
            name for name in columns if name in was and name not in COLUMNS_BY_ITSELF.get(table, frozenset())
        ]
        for session, message, at in self._differing(table, keys, common):
            if session in ours:
                continue
            if session is None:
                self._others += 1
            else:
                self._rows.add((session, message))
            if isinstance(at, int) and 0 < at < 10**14:
                self._since.append(at)
        return True

    def _differing(
        self, table: str, keys: list[str], common: list[str]
    ) -> Iterator[tuple[object, object, object]]:
        """Yield the session, the message and the time of each row that is new, is another, or is gone."""
        name, key = quoted(table), " AND ".join(f"m.{quoted(each)} = b.{quoted(each)}" for each in keys)
        missing = f"{quoted(keys[0])} IS NULL"
        changed = " OR ".join(f"m.{quoted(each)} IS NOT b.{quoted(each)}" for each in common)
        where = [f"(b.{quoted(keys[0])} IS NOT NULL AND ({changed}))"]
        if table not in ROWS_BY_ITSELF:
            where.append(f"b.{missing}")
        created, at = ("m.time_created" if "time_created" in common else "NULL"), "NULL"
        if "time_updated" in common:
            at = "CASE WHEN m.time_updated IS NOT b.time_updated THEN m.time_updated END"
        at = f"CASE WHEN b.{missing} THEN {created} ELSE {at} END"
        yield from self._connection.execute(
            f"SELECT {whose(table, common, 'm')}, {at} FROM main.{name} m LEFT JOIN before.{name} b ON {key}"  # noqa: S608
            f" WHERE {' OR '.join(where)}"
        )
        if table not in EMPTIED:
            yield from self._connection.execute(
                f"SELECT {whose(table, common, 'b')}, NULL FROM before.{name} b LEFT JOIN main.{name} m ON {key}"  # noqa: S608
                f" WHERE m.{missing}"
            )


def whose(table: str, columns: list[str], row: str) -> str:
    """Return the columns that say which session and which message a row of *table* belongs to."""
    session = "id" if table == "session" else "session_id" if "session_id" in columns else ""
    message = "id" if table == "message" else "message_id" if "message_id" in columns else ""
    return ", ".join(f"{row}.{each}" if each else "NULL" for each in (session, message))


def address_of(database: str) -> str:
    path = database.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file:{path}?mode=ro"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def text_of(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(milliseconds // 1000))
