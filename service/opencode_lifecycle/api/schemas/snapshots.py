"""Snapshots of what a runtime keeps."""

from collections.abc import Sequence
from datetime import datetime
from typing import Self

from opencode_lifecycle.api.schemas.shapes import Mirror, Outgoing
from opencode_lifecycle.model.snapshot import SnapshotsSeen


class SnapshotFileShape(Mirror):
    path: str
    bytes: int
    sha256: str


class MigrationsShape(Mirror):
    """How many migrations the database has seen, and the last of them."""

    count: int
    last: str


class SnapshotShape(Mirror):
    """
    The data of `opencode_version` (empty where that was not known), taken before `before_version` started.

    `restored_at` is null unless it was the last one to be put in the place of the data.
    """

    id: str
    taken_at: datetime
    opencode_version: str
    before_version: str
    migrations: MigrationsShape | None
    bytes: int
    files: Sequence[SnapshotFileShape]
    restored_at: datetime | None


class WrittenShape(Mirror):
    """
    How much was written since the snapshot with which an older version would go back, the first of it at `since`.

    `other` counts what belongs to no session; `since` is null where the data does not tell.
    """

    sessions: int
    messages: int
    other: int
    since: datetime | None


class StartRefusedShape(Mirror):
    """With which code the entrypoint exited instead of starting the version, and why; `written` where that is why."""

    code: int
    reason: str
    written: WrittenShape | None


class SnapshotsShape(Outgoing):
    """
    Oldest first, as they were seen at `observed_at`: now where an allocation could be asked, else the last time.

    What is shown was written where the runtime's agent can write, too.
    """

    items: Sequence[SnapshotShape]
    next_cursor: None = None
    observed_at: datetime | None
    refused: StartRefusedShape | None

    @classmethod
    def from_domain(cls, seen: SnapshotsSeen) -> Self:
        refused = seen.refused
        return cls(
            items=[SnapshotShape.from_domain(snapshot) for snapshot in seen.snapshots],
            observed_at=seen.observed_at,
            refused=StartRefusedShape.from_domain(refused) if refused is not None else None,
        )
