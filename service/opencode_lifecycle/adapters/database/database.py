"""All stores together, on one database."""

import asyncio

from sqlalchemy import select, true

from opencode_lifecycle.adapters.database.changes import Changes, Listener
from opencode_lifecycle.adapters.database.claims import ClaimRows
from opencode_lifecycle.adapters.database.conditions import ConditionRows
from opencode_lifecycle.adapters.database.engine import (
    PostgresqlReading,
    file_of,
    is_sqlite,
    make_private_file,
    parse_url,
    reading,
    writing,
)
from opencode_lifecycle.adapters.database.events import EventRows
from opencode_lifecycle.adapters.database.failures import translated
from opencode_lifecycle.adapters.database.groups import GroupRows
from opencode_lifecycle.adapters.database.idempotency import IdempotencyRows
from opencode_lifecycle.adapters.database.leases import LeaseRows
from opencode_lifecycle.adapters.database.operations import OperationRows
from opencode_lifecycle.adapters.database.orphans import OrphanRows
from opencode_lifecycle.adapters.database.releases import ReleaseRows
from opencode_lifecycle.adapters.database.rollouts import RolloutRows
from opencode_lifecycle.adapters.database.serving_lock import ServingLock
from opencode_lifecycle.adapters.database.snapshots import SnapshotRows
from opencode_lifecycle.adapters.database.stacks import StackRows
from opencode_lifecycle.adapters.database.tokens import TokenRows
from opencode_lifecycle.adapters.database.writer import Writer
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.deadline import Deadline

_PING = select(true())


class Database(
    StackRows,
    ClaimRows,
    LeaseRows,
    OperationRows,
    EventRows,
    TokenRows,
    ReleaseRows,
    GroupRows,
    SnapshotRows,
    IdempotencyRows,
    ConditionRows,
    OrphanRows,
    RolloutRows,
):
    """
    Implements every port of `ports.stores` on SQLite or PostgreSQL. Its schema must be current (see `schema`).

    With *exclusive* a SQLite file is refused while another process serves on it.
    """

    def __init__(self, *, url: str, exclusive: bool = False, clock: Clock = utc_now) -> None:
        self._url = parse_url(url)
        self._takes_turns = is_sqlite(self._url)
        self._lock = ServingLock(file_of(self._url)) if exclusive and self._takes_turns else None
        self._changes = Changes()
        self._reading = reading(self._url)
        self._writing = writing(self._url)
        self._writer = Writer(writing=self._writing, changes=self._changes, clock=clock)
        self._listener: Listener | None = None
        if isinstance(self._reading, PostgresqlReading):
            self._listener = Listener(engine=self._reading.asynchronous, changes=self._changes)

    @property
    def statements(self) -> int:
        """Statements executed since it was opened, to show what needs none."""
        return self._reads + self._writer.statements

    async def open(self) -> None:
        """Begin to serve. Raises `InvalidSettings` when another process serves on the same SQLite file."""
        if self._takes_turns:
            with translated("open"):
                await asyncio.to_thread(make_private_file, file_of(self._url))
        if self._lock is not None:
            with translated("open"):
                await asyncio.to_thread(self._lock.take)
        self._writer.start()
        if self._listener is not None:
            self._listener.start()

    async def close(self) -> None:
        """Commit what was handed over before, then let go of everything."""
        if self._listener is not None:
            await self._listener.stop()
        await self._writer.stop()
        await self._writing.close()
        await self._reading.close()
        if self._lock is not None:
            self._lock.give_back()

    async def ping(self, deadline: Deadline) -> None:
        """Return when the database answers, or raise `UpstreamUnavailable` or `DeadlineExceeded`."""
        async with deadline.enforce():
            await self._read("ping", _PING)

    async def wait_for_change(self, timeout: float, *, after: int | None = None) -> None:
        """
        Return at the next commit of any replica, or after *timeout* seconds.

        With *after* it returns at once when a change later than that one is known already.
        """
        await self._changes.wait(timeout, after=after)
