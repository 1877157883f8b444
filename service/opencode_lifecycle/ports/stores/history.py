"""What happened: operations, events, and the snapshots of the data of stacks."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from opencode_lifecycle.model.identifiers import (
    OperationId,
    UserId,
)
from opencode_lifecycle.model.operation import Event, Operation
from opencode_lifecycle.model.snapshot import Snapshot, SnapshotsSeen
from opencode_lifecycle.model.view import Page


class SnapshotStore(Protocol):
    async def put_snapshots(
        self,
        user_id: UserId,
        found: Sequence[Snapshot],
        *,
        observed_at: datetime,
        news: Callable[[Sequence[Snapshot]], Event | None],
    ) -> None:
        """
        Remember *found*, with different ids, in place of what is known; not where that was seen later.

        *news* is asked which event comes of what was known, oldest first; it is written in the same transaction, so that
        what is news to several is told once.

        They are forgotten with the workspace. Of a stack that is gone nothing is remembered.
        """
        ...

    async def snapshots_of(self, user_id: UserId) -> SnapshotsSeen:
        """Return what is remembered, oldest first."""
        ...


class OperationStore(Protocol):
    async def get_operation(self, operation_id: OperationId) -> Operation | None: ...

    async def prune_operations(self, finished_before: datetime) -> int: ...


class EventStore(Protocol):
    async def append(self, events: Sequence[Event]) -> None: ...

    async def find_events(self, *, user_id: UserId | None, after: str | None, limit: int) -> Page[Event]:
        """Return events in the order they happened; *after* and `next_cursor` are event ids."""
        ...

    async def latest_events(self, user_id: UserId, kind: str, *, limit: int) -> Sequence[Event]:
        """Return the latest events of that kind that the user has, the latest first."""
        ...

    async def prune_events(self, before: datetime) -> int:
        """Forget events that happened before that, a part at a time, and return how many there were."""
        ...
