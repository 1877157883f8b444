"""Snapshots of what runtimes keep, as they were last seen."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.events import append_events
from opencode_lifecycle.adapters.database.stack_statements import stack_row
from opencode_lifecycle.adapters.database.tables import snapshots
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.snapshot import Migrations, Snapshot, SnapshotFile, SnapshotsSeen

_OF: Final = select(snapshots).where(snapshots.c.user_id == bindparam("whose")).order_by(snapshots.c.id)
_FORGET: Final = delete(snapshots).where(snapshots.c.user_id == bindparam("whose"))
_INSERT: Final = insert(snapshots)


class SnapshotRows(Store):
    async def put_snapshots(
        self,
        user_id: UserId,
        found: Sequence[Snapshot],
        *,
        observed_at: datetime,
        news: Callable[[Sequence[Snapshot]], Event | None],
    ) -> None:
        def put(transaction: Transaction) -> None:
            # Locked, so that two replicas do not write the same snapshots at the same time.
            if stack_row(transaction, user_id) is None:
                return
            known = transaction.read(_OF, {"whose": user_id})
            if known and known[0]["observed_at"] > observed_at:
                return
            event = news(tuple(_snapshot_of(row) for row in known))
            append_events(transaction, [event] if event is not None else [])
            forget_snapshots(transaction, user_id)
            for snapshot in found:
                transaction.write(_INSERT, _values_of(user_id, snapshot, observed_at))

        await self._write("put snapshots", put)

    async def snapshots_of(self, user_id: UserId) -> SnapshotsSeen:
        rows = await self._read("read snapshots", _OF, {"whose": user_id})
        return SnapshotsSeen(
            snapshots=tuple(_snapshot_of(row) for row in rows),
            observed_at=rows[0]["observed_at"] if rows else None,
        )


def forget_snapshots(transaction: Transaction, user_id: UserId) -> None:
    """Forget what lay in a workspace that is no more."""
    transaction.write(_FORGET, {"whose": user_id})


def _values_of(user_id: UserId, snapshot: Snapshot, observed_at: datetime) -> dict[str, Any]:
    migrations = snapshot.migrations
    return {
        "user_id": user_id,
        "id": snapshot.id,
        "taken_at": snapshot.taken_at,
        "opencode_version": snapshot.opencode_version,
        "before_version": snapshot.before_version,
        "bytes": snapshot.bytes,
        "data": {
            "migrations": [migrations.count, migrations.last] if migrations is not None else None,
            "files": [[file.path, file.bytes, file.sha256] for file in snapshot.files],
        },
        "restored_at": snapshot.restored_at,
        "observed_at": observed_at,
    }


def _snapshot_of(row: Mapping[str, Any]) -> Snapshot:
    migrations = row["data"]["migrations"]
    return Snapshot(
        id=row["id"],
        taken_at=row["taken_at"],
        opencode_version=row["opencode_version"],
        before_version=row["before_version"],
        migrations=Migrations(count=migrations[0], last=migrations[1]) if migrations is not None else None,
        bytes=row["bytes"],
        files=tuple(
            SnapshotFile(path=path, bytes=size, sha256=digest) for path, size, digest in row["data"]["files"]
        ),
        restored_at=row["restored_at"],
    )
