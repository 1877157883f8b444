"""
The snapshots of OpenCode's data in one workspace: taken, held against their receipts, put back, and forgotten in time.

A snapshot is a folder that bears its id. What bears any other name is half done and counts for nothing.
"""

# ruff: noqa: PTH102, PTH103, PTH104, PTH108, PTH118, PTH120, PTH208

from __future__ import annotations

import os
import time

from .database import written_since
from .documents import (
    DATA,
    DATABASE,
    EXIT_DATA,
    EXIT_DISK_FULL,
    ID,
    SHARED_MEMORY,
    Refused,
    receipt_of,
)
from .files import (
    copy,
    discard,
    files_in,
    line_of,
    now,
    read_document,
    size_of,
    sync_directory,
    write_document,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SNAPSHOTS = "snapshots"
RECEIPT = "receipt.json"
KEPT = 3
"""Snapshots that stay, besides those that something depends on."""
SHOWN = 16
MARGIN_BYTES = 64 << 20
"""What stays free beside a snapshot: the new version needs room to migrate."""


class Snapshots:
    def __init__(self, place: str, data: str) -> None:
        self._place = place
        self._data = data
        self._folder = os.path.join(place, SNAPSHOTS)

    def kept(self) -> list[dict[str, Any]]:
        """Return the receipts of all snapshots that count, oldest first."""
        try:
            names = [name for name in os.listdir(self._folder) if ID.fullmatch(name)]
        except FileNotFoundError:
            return []
        receipts = (self.receipt(name) for name in sorted(names)[-SHOWN * 4 :])
        return [receipt for receipt in receipts if receipt is not None]

    def receipt(self, snapshot: str) -> dict[str, Any] | None:
        """Return the receipt of *snapshot* without anything that does not belong there, or None."""
        if not ID.fullmatch(snapshot):
            return None
        found = read_document(os.path.join(self._folder, snapshot, RECEIPT))
        return receipt_of(found) if found.get("id") == snapshot else None

    def newest_of(self, version: str) -> dict[str, Any] | None:
        """Return the receipt of the newest snapshot of the data of *version*, or None."""
        return next((each for each in reversed(self.kept()) if each["opencode_version"] == version), None)

    def file_of(self, receipt: dict[str, Any], name: str) -> str:
        return os.path.join(self._folder, receipt["id"], name)

    # --- taking

    def take(
        self, *, of: str, before: str, migrations: dict[str, Any] | None, needed: set[str | None]
    ) -> dict[str, Any]:
        """
        Take a snapshot of the data *of* one version *before* another starts, and return its receipt.

        It is made beside the others under a name that counts for nothing, and gets its own when it is whole and on disk.
        Then those are forgotten that nothing depends on; what is *needed* besides stays.
        """
        names = files_in(self._data, DATA)
        self.check_room(self.size_of_data())
        receipt: dict[str, Any] = {
            "id": new_id(),
            "taken_at": now(),
            "opencode_version": of,
            "before_version": before,
            "migrations": migrations,
        }
        partial = os.path.join(self._folder, f".{receipt['id']}.partial")
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._sweep()
        os.mkdir(partial, mode=0o700)
        try:
            receipt["files"] = [
                copy(os.path.join(self._data, name), os.path.join(partial, name)) for name in names
            ]
            receipt["bytes"] = sum(file["bytes"] for file in receipt["files"])
            write_document(os.path.join(partial, RECEIPT), receipt)
        except OSError:
            discard(partial)
            raise
        os.rename(partial, os.path.join(self._folder, receipt["id"]))
        sync_directory(self._folder)
        sync_directory(self._place)
        self._prune(receipt, needed)
        return receipt

    def _prune(self, taken: dict[str, Any], needed: set[str | None]) -> None:
        """
        Forget all but the newest, what is *needed*, and the newest that a rollback could need.

        1. A fleet goes from A to B, which migrates the data, and then to C, D and E, which do not. From E back to D, C or B
           no data has to be restored.
        2. Only for A is a snapshot needed, and it is the oldest of all: the newest whose migrations are others.
        """
        kept = self.kept()
        others = [each["id"] for each in kept if each["migrations"] != taken["migrations"]]
        needed = needed | {taken["id"]} | set(others[-1:])
        for snapshot in [each["id"] for each in kept[:-KEPT]]:
            if snapshot not in needed:
                self._forget(snapshot)

    def _forget(self, snapshot: str) -> None:
        gone = os.path.join(self._folder, f".{snapshot}.pruned")
        os.rename(os.path.join(self._folder, snapshot), gone)
        discard(gone)

    def _sweep(self) -> None:
        """Remove what a kill in the middle has left."""
        for name in os.listdir(self._folder):
            if name.startswith("."):
                discard(os.path.join(self._folder, name))

    # --- room

    def size_of_data(self) -> int:
        return sum(size_of(self._data, name) for name in files_in(self._data, DATA))

    def check_room(self, size: int) -> None:
        """Refuse where so many bytes more leave no margin. Nothing is touched before that is known."""
        file_system = os.statvfs(os.path.dirname(self._place))
        free = file_system.f_bavail * file_system.f_frsize
        if free < size + MARGIN_BYTES:
            mebibytes = [-(-number // (1 << 20)) for number in (size + MARGIN_BYTES, free)]
            raise Refused(
                EXIT_DISK_FULL,
                "no room for a snapshot of the data: {} MiB are needed and {} MiB free".format(*mebibytes),
            )

    # --- putting back

    def check_whole(self, receipt: dict[str, Any]) -> None:
        for file in receipt["files"]:
            try:
                if line_of(self.file_of(receipt, file["path"])) == file:
                    continue
            except OSError:
                pass
            raise Refused(EXIT_DATA, f"snapshot {receipt['id']} is damaged, it cannot be restored")

    def put_back(self, snapshot: str) -> dict[str, Any]:
        """Put the files of *snapshot* in the place of the data, and return its receipt. Safe to repeat."""
        receipt = self.receipt(snapshot)
        if receipt is None:
            raise Refused(EXIT_DATA, f"snapshot {snapshot} vanished while it was being restored")
        self.check_whole(receipt)
        names = [file["path"] for file in receipt["files"]]
        stale = [each for each in files_in(self._data, DATA) if each not in names]
        for name in stale + files_in(self._data, SHARED_MEMORY):
            os.unlink(os.path.join(self._data, name))
        for name in names:
            fresh = os.path.join(self._data, f".{name}.restored")
            copy(self.file_of(receipt, name), fresh)
            os.rename(fresh, os.path.join(self._data, name))
        sync_directory(self._data)
        return receipt

    # --- comparing

    def written_since(self, receipt: dict[str, Any]) -> dict[str, Any] | None:
        """
        Return how much was written to the data since that snapshot of it, or None where it cannot be told.

        Credentials count as well: whoever has logged in since would have to do so again.
        """
        database = self.file_of(receipt, DATABASE)
        try:
            written = written_since(os.path.join(self._data, DATABASE), database)
        finally:
            self._tidy(receipt)
        if written is None:
            return None
        lines = {file["path"]: file for file in receipt["files"] if not is_of(file["path"], DATABASE)}
        present = [name for name in files_in(self._data, DATA) if not is_of(name, DATABASE)]
        changed = [name for name in present if line_of(os.path.join(self._data, name)) != lines.get(name)]
        gone = [name for name in lines if name not in present]
        return {**written, "other": written["other"] + len(changed) + len(gone)}

    def _tidy(self, receipt: dict[str, Any]) -> None:
        """Remove what SQLite has left beside the snapshot by reading it."""
        folder, named = os.path.join(self._folder, receipt["id"]), {each["path"] for each in receipt["files"]}
        for name in files_in(folder, DATA) + files_in(folder, SHARED_MEMORY):
            if name not in named:
                os.unlink(os.path.join(folder, name))


def is_of(name: str, database: str) -> bool:
    """Whether the file is that database or its log."""
    return name.startswith(database)


def new_id() -> str:
    """Return a ULID: ids in the order of time."""
    number = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number >> shift & 31] for shift in range(125, -1, -5))
