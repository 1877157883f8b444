"""
Snapshots of what runtimes keep, as the entrypoint of each reports them. Pure.

The report lies where the runtime's agent can write. So it is bounded, every value is held against its form, and what does
not fit is left out: it is shown and remembered, and nothing is ever deleted or believed of another stack because of it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

REPORT_PATH: Final = "alloc/data/opencode-lifecycle.json"
"""Where in an allocation the report lies, as Nomad's file API names it."""
REPORT_BYTES: Final = 65536
MOST_SNAPSHOTS: Final = 64
_MOST_FILES: Final = 16
_LONGEST_NAME: Final = 200
_LONGEST_REASON: Final = 500
_LARGEST: Final = 2**53
_EXIT_CODES: Final = range(1, 256)

_ID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_VERSION: Final = re.compile(r"(?:[0-9]{1,9}[.][0-9]{1,9}[.][0-9]{1,9})?")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFile:
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrations:
    """How many migrations a database has seen, and the last of them."""

    count: int
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """
    A snapshot of OpenCode's data, taken while nothing ran, before `before_version` started.

    `opencode_version` is the version whose data it is, empty where that was not known. `restored_at` is when it was put in
    the place of the data, None unless it was the last to be.
    """

    id: str
    taken_at: datetime
    opencode_version: str
    before_version: str
    migrations: Migrations | None
    bytes: int
    files: tuple[SnapshotFile, ...]
    restored_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """
    How much was written since the snapshot with which an older version would go back, the first of it at `since`.

    `other` counts what belongs to no session: credentials, permissions and the like. `since` is None where the data does not
    tell, as for what was deleted or renamed.
    """

    sessions: int
    messages: int
    other: int
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRefused:
    """Why the entrypoint did not start the version, in its words; with what was written since, where that is why."""

    code: int
    reason: str
    written: Written | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """
    What an entrypoint says of the data that its version was to start on.

    `taken` is the snapshot from before that version first ran on it, `restored` the one that was restored last; both
    outlast restarts.
    """

    version: str
    snapshots: tuple[Snapshot, ...]
    taken: str | None
    restored: str | None
    refused: StartRefused | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotsSeen:
    """
    The snapshots of one stack, oldest first, as they were seen at `observed_at`; None when none ever was.

    `refused` is why the stack's newest allocation did not start its version, as far as that was read just now.
    """

    snapshots: tuple[Snapshot, ...] = ()
    observed_at: datetime | None = None
    refused: StartRefused | None = None


def report_of(body: bytes) -> DataReport | None:
    """Return the report that *body* is, without what does not belong into one, or None when it is none."""
    try:
        found = json.loads(body) if len(body) <= REPORT_BYTES else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, Mapping) or not _is(_VERSION, found.get("version")):
        return None
    restored = found.get("restored")
    restored = restored if isinstance(restored, Mapping) and _is(_ID, restored.get("id")) else {}
    listed = found.get("snapshots")
    snapshots = {
        snapshot.id: snapshot
        for each in (listed[:MOST_SNAPSHOTS] if isinstance(listed, list) else ())
        if (snapshot := _snapshot_of(each, restored)) is not None
    }
    taken = found.get("snapshot_taken")
    return DataReport(
        version=found["version"],
        snapshots=tuple(snapshots[id_] for id_ in sorted(snapshots)),
        taken=taken if isinstance(taken, str) and _is(_ID, taken) else None,
        restored=restored.get("id"),
        refused=_refusal_of(found.get("refused")),
    )


def _snapshot_of(found: Any, restored: Mapping[str, Any]) -> Snapshot | None:
    try:
        files = tuple(_file_of(each) for each in found["files"][:_MOST_FILES])
        forms = ((_ID, "id"), (_VERSION, "opencode_version"), (_VERSION, "before_version"))
        if not all(_is(form, found[name]) for form, name in forms):
            return None
        return Snapshot(
            id=found["id"],
            taken_at=_time_of(found["taken_at"]),
            opencode_version=found["opencode_version"],
            before_version=found["before_version"],
            migrations=_migrations_of(found["migrations"]),
            bytes=_size_of(found["bytes"]),
            files=files,
            restored_at=_time_of(restored["at"]) if restored.get("id") == found["id"] else None,
        )
    except (KeyError, TypeError, ValueError):
        return None


def _file_of(found: Any) -> SnapshotFile:
    path, digest = found["path"], found["sha256"]
    if not isinstance(path, str) or not path.isprintable() or len(path) > _LONGEST_NAME:
        raise ValueError
    if not _is(_SHA256, digest):
        raise ValueError
    return SnapshotFile(path=path, bytes=_size_of(found["bytes"]), sha256=digest)


def _migrations_of(found: Any) -> Migrations | None:
    if found is None:
        return None
    last = found["last"]
    if not isinstance(last, str) or not last.isprintable() or len(last) > _LONGEST_NAME:
        raise ValueError
    return Migrations(count=_size_of(found["count"]), last=last)


def _refusal_of(found: Any) -> StartRefused | None:
    if not isinstance(found, Mapping):
        return None
    code, reason = found.get("code"), found.get("reason")
    if type(code) is not int or code not in _EXIT_CODES or not isinstance(reason, str):
        return None
    line = "".join(sign if sign.isprintable() else " " for sign in reason[:_LONGEST_REASON])
    return StartRefused(code=code, reason=line, written=_written_of(found.get("written")))


def _written_of(found: Any) -> Written | None:
    if not isinstance(found, Mapping):
        return None
    try:
        since = found["since"]
        return Written(
            sessions=_size_of(found["sessions"]),
            messages=_size_of(found["messages"]),
            other=_size_of(found["other"]),
            since=_time_of(since) if since is not None else None,
        )
    except (KeyError, TypeError, ValueError):
        return None


def _is(form: re.Pattern[str], found: object) -> bool:
    return isinstance(found, str) and form.fullmatch(found) is not None


def _size_of(found: object) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= _LARGEST:
        raise ValueError
    return found


def _time_of(found: object) -> datetime:
    if not isinstance(found, str):
        raise TypeError
    return datetime.strptime(found, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
