"""
What lies in the workspaces of a simulated cluster: the data of each, in memory, under the rules of the real entrypoint.

Which version may start on what, and what is taken, restored and forgotten, is decided by `workspace_data` itself. Here are
only the files, of which a version sees which migrations they have had, and what was written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from opencode_lifecycle.workspace_data import WorkspaceData
from opencode_lifecycle.workspace_data.documents import EXIT_DISK_FULL, Refused, record_of
from opencode_lifecycle.workspace_data.snapshots import Snapshots
from simulation.loop import VirtualLoop

MIGRATIONS: Final = {"1.18.34": 34, "1.18.35": 34, "1.19.0": 36, "1.19.1": 37}
"""How many migrations each version knows; two of them make the same of a database."""

Clock = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Content:
    """A database: the migrations that it has had, and the numbers of what was written; by nobody's wish where negative."""

    migrations: int
    written: frozenset[int] = frozenset()

    @property
    def of_users(self) -> frozenset[int]:
        return frozenset(number for number in self.written if number > 0)


@dataclass(frozen=True, slots=True)
class Start:
    """What an entrypoint reports of one start, the data *before* it, and as the version then *found* it."""

    report: Mapping[str, Any]
    before: Content
    found: Content


class _Snapshots(Snapshots):
    def __init__(self, disk: "Disk", clock: Clock) -> None:
        self._disk = disk
        self._clock = clock
        self._kept: dict[str, tuple[dict[str, Any], Content]] = {}

    def kept(self) -> list[dict[str, Any]]:
        return [receipt for receipt, _ in self._kept.values()]

    def receipt(self, snapshot: str) -> dict[str, Any] | None:
        found = self._kept.get(snapshot)
        return found[0] if found is not None else None

    def take(
        self, *, of: str, before: str, migrations: dict[str, Any] | None, needed: set[str | None]
    ) -> dict[str, Any]:
        self.check_room(0)
        assert self._disk.content is not None, "only of what there is a snapshot is taken"
        receipt = {
            "id": self._disk.new_id(),
            "taken_at": self._clock(),
            "opencode_version": of,
            "before_version": before,
            "migrations": migrations,
            "bytes": 0,
            "files": [],
        }
        self._kept[receipt["id"]] = receipt, self._disk.content
        self._prune(receipt, needed)
        return receipt

    def _forget(self, snapshot: str) -> None:
        del self._kept[snapshot]

    def size_of_data(self) -> int:
        return 0

    def check_room(self, size: int) -> None:
        del size
        if self._disk.is_full():
            raise Refused(EXIT_DISK_FULL, "no room for a snapshot of the data")

    def put_back(self, snapshot: str) -> dict[str, Any]:
        receipt, self._disk.content = self._kept[snapshot]
        return receipt

    def written_since(self, receipt: dict[str, Any]) -> dict[str, Any] | None:
        assert self._disk.content is not None, "what there is a snapshot of there is"
        then, now = self._kept[receipt["id"]][1].written, self._disk.content.written
        return {"sessions": len(then ^ now), "messages": 0, "other": 0, "since": None}


class Disk(WorkspaceData):
    """The data of one workspace."""

    def __init__(self, *, new_id: Callable[[], str], is_full: Callable[[], bool], clock: Clock) -> None:
        self.content: Content | None = None
        self.new_id = new_id
        self.is_full = is_full
        self._clock = clock
        self._record = record_of({})
        self._snapshots: _Snapshots = _Snapshots(self, clock)

    def kept(self) -> list[str]:
        return [receipt["id"] for receipt in self._snapshots.kept()]

    def _migrations(self) -> dict[str, Any] | None:
        count = self.content.migrations if self.content is not None else None
        return {"count": count, "last": ""} if count is not None else None

    def _has_database(self) -> bool:
        return self.content is not None

    def _put_back(self, snapshot: str, restored: dict[str, Any] | None) -> None:
        super()._put_back(snapshot, {**restored, "at": self._clock()} if restored is not None else None)

    def _write_record(self) -> None:
        return


class Workspaces:
    """The disks of all workspaces, by the ids of their volumes. `is_full` is whether none has room for a snapshot."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.is_full = False
        self.taken_at: dict[str, float] = {}
        """When each snapshot was taken."""
        self._loop = loop
        self._disks: dict[str, Disk] = {}
        self._number = 0

    def of(self, volume_id: str) -> Disk:
        disk = self._disks.get(volume_id)
        if disk is None:
            disk = Disk(new_id=self._new_id, is_full=lambda: self.is_full, clock=self._clock)
            self._disks[volume_id] = disk
        return disk

    def start(self, volume_id: str, version: str, restore: str) -> Start:
        """Do what an entrypoint does. Where nothing is refused, the version migrates the data."""
        disk = self.of(volume_id)
        before = disk.content or Content(0)
        report = disk.prepare(version, restore)
        found = disk.content or before
        if report["refused"] is None:
            disk.content = Content(max(found.migrations, MIGRATIONS[version]), found.written)
        return Start(report, before, found)

    def write(self, volume_id: str, *, by_user: bool) -> None:
        """Let something be written that was not there before."""
        disk = self.of(volume_id)
        assert disk.content is not None, "a server has started on it"
        self._number += 1
        number = self._number if by_user else -self._number
        disk.content = Content(disk.content.migrations, disk.content.written | {number})

    def _new_id(self) -> str:
        made = f"01ARZ3NDEKTSV4RRFFQ6{len(self.taken_at):06}"
        self.taken_at[made] = self._loop.time()
        return made

    def _clock(self) -> str:
        return self._loop.wall_clock().strftime("%Y-%m-%dT%H:%M:%SZ")
