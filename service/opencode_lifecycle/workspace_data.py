"""
What becomes of OpenCode's data when another version of OpenCode is to start on it. The entrypoint asks, while nothing runs.

OpenCode migrates its database as it starts, only ever forward, and starts on a newer one as if nothing were the matter. So
what ran last is recorded in the workspace; before another version may migrate the data a snapshot of it is taken; and a
version that is older than the data is refused, unless it is known to make the same of the database, or the snapshot that
was taken of it is to be restored.

A snapshot is OpenCode's database with its write-ahead log, which holds what was written last, and the credentials beside
it (`auth.json`, `mcp-auth.json`), whose form changes with the versions, too. Not part of it are the user's project, git's
copies of that, the log, and what is only found by ids that the database holds: no version migrates them.

The agent can write whatever is read here. So it is read up to a bound, its types are looked at, and no path is taken from
it that leads out of its folder. Whoever forges it harms the data of that workspace, which he could in any case.
"""

# No pathlib or typing, and nothing that only a change needs: this is loaded before every start.
# ruff: noqa: PTH102, PTH103, PTH104, PTH108, PTH113, PTH118, PTH119, PTH120, PTH123, PTH208

from __future__ import annotations

import errno
import json
import os
import re
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

EXIT_DATA = 65
EXIT_WORKSPACE = 73
EXIT_DISK_FULL = 74

PLACE = ".opencode-lifecycle"
RECORD = "data.json"
SNAPSHOTS = "snapshots"
RECEIPT = "receipt.json"
DATABASE = "opencode.db"

KEPT = 3
"""Snapshots that stay, besides those that something depends on."""
SHOWN = 16
MARGIN_BYTES = 64 << 20
"""What stays free beside a snapshot: the new version needs room to migrate."""
READ_BYTES = 64 << 10
VERSIONS_KEPT = 50
SECONDS_TO_READ = 5.0
"""How long the database may take to tell its migrations. An honest one answers at once."""

ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
VERSION = re.compile(r"[0-9]{1,9}[.][0-9]{1,9}[.][0-9]{1,9}")
DATA = re.compile(r"opencode[A-Za-z0-9._-]{0,64}[.]db(-wal|-journal)?|auth[.]json|mcp-auth[.]json")
SHARED_MEMORY = re.compile(r"opencode[A-Za-z0-9._-]{0,64}[.]db-shm")
"""What SQLite makes anew from the log. Beside another database it would be wrong."""
MIGRATIONS = (("migration", "id"), ("__drizzle_migrations", "name"), ("__drizzle_migrations", "created_at"))
"""Tables in which OpenCode has kept its migrations, the newest first, and what tells them apart there."""

WRITING = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


class Refused(Exception):
    """This version is not started on this data. Says why in one line, and with which code to exit."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def prepare(workspace: str, data: str, version: str, restore: str) -> dict[str, Any]:
    """
    Make *data*, OpenCode's directory, ready for *version*, and report what there is and what was done.

    Where the report says `refused`, nothing may be started. It holds no secret, and no byte of the data.
    An empty *version* stands for one that nobody named.
    """
    workspace_data = WorkspaceData(workspace, data)
    refused = None
    try:
        if version:
            workspace_data.make_ready(version, restore)
        else:
            workspace_data.forget_version()
    except Refused as error:
        refused = {"code": error.code, "reason": str(error)}
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        code = EXIT_DISK_FULL if full else EXIT_WORKSPACE
        refused = {"code": code, "reason": f"the data cannot be kept safe: {error.strerror}"}
    return {"format": 1, "version": version, **workspace_data.account(), "refused": refused}


class WorkspaceData:
    """
    OpenCode's data in one workspace, with the record and the snapshots of it.

    `record` holds the version that ran `last`, the `migrations` of each version as it left the database, the snapshot that
    was taken `before` that version, the last one that was `restored`, and the one that is just being put back
    (`restoring`). It is replaced as a whole, and only ever says what is on disk already.
    """

    def __init__(self, workspace: str, data: str) -> None:
        self._data = data
        self._place = os.path.join(workspace, PLACE)
        self._snapshots = os.path.join(self._place, SNAPSHOTS)
        self._record = record_of(read_document(os.path.join(self._place, RECORD)))

    # --- what to do

    def make_ready(self, version: str, restore: str) -> None:
        """
        Take a snapshot, restore one or do nothing, so that *version* can start; or raise `Refused`.

        The same arguments may come again and again, for a task is restarted with those of its job:

        1. A rollback to A names the snapshot S. It is restored, A runs, and its user goes on working.
        2. The task is restarted, hours later, and S is named still. A ran last, so there is nothing to restore.
        3. The stack goes to B, which migrates the data, and an old text of the job, with A and S, is submitted again.
           Restoring S would take back all the work since 1. It was the last to be restored, so A is refused.
        """
        record = self._record
        if record["restoring"]:
            self._end_restore()
        if record["last"] == version and version in record["migrations"]:
            return
        present = migrations_of(os.path.join(self._data, DATABASE))
        if record["last"] and present is not None:
            record["migrations"].pop(record["last"], None)
            record["migrations"][record["last"]] = present
        if record["last"] != version:
            known = record["migrations"].get(version)
            if is_older(version, record["last"]) and (present is None or known != present):
                self._restore(version, restore)
                return
            record["before"] = self._take(version)["id"] if self._has_database() else ""
            record["last"] = version
        self._write_record()

    def forget_version(self) -> None:
        """Record that a version runs of which nobody said which it is: what follows takes nothing for granted."""
        if self._record["last"]:
            self._record["last"] = ""
            self._write_record()

    def _has_database(self) -> bool:
        return DATABASE in files_in(self._data, DATA)

    def account(self) -> dict[str, Any]:
        """Return what there is, for the report. What stands in it for the last change outlasts restarts."""
        return {
            "snapshots": [self._receipt(each) for each in self._kept()[-SHOWN:]],
            "snapshot_taken": self._record["before"] or None,
            "restored": self._record["restored"],
        }

    # --- snapshots

    def _take(self, version: str) -> dict[str, Any]:
        """
        Take a snapshot before *version* starts, and return its receipt.

        It is made beside the others under a name that counts for nothing, and gets its own when it is whole and on disk.
        """
        names = files_in(self._data, DATA)
        self._check_room(sum(size_of(self._data, name) for name in names))
        receipt: dict[str, Any] = {
            "id": new_id(),
            "taken_at": now(),
            "opencode_version": self._record["last"],
            "before_version": version,
            "migrations": migrations_of(os.path.join(self._data, DATABASE)),
        }
        partial = os.path.join(self._snapshots, f".{receipt['id']}.partial")
        os.makedirs(self._snapshots, mode=0o700, exist_ok=True)
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
        os.rename(partial, os.path.join(self._snapshots, receipt["id"]))
        sync_directory(self._snapshots)
        sync_directory(self._place)
        self._prune(receipt["id"])
        return receipt

    def _kept(self) -> list[str]:
        """Return the ids of all snapshots that count, oldest first."""
        try:
            names = [name for name in os.listdir(self._snapshots) if ID.fullmatch(name)]
        except FileNotFoundError:
            return []
        return [name for name in sorted(names)[-SHOWN * 4 :] if self._receipt(name) is not None]

    def _receipt(self, snapshot: str) -> dict[str, Any] | None:
        """Return the receipt of *snapshot* without anything that does not belong there, or None."""
        found = read_document(os.path.join(self._snapshots, snapshot, RECEIPT))
        return receipt_of(found) if found.get("id") == snapshot else None

    def _prune(self, taken: str) -> None:
        """Forget all but the newest, the one just taken, the one being restored, and what a rollback would need."""
        needed = {taken, self._record["before"], self._record["restoring"]}
        for snapshot in self._kept()[:-KEPT]:
            if snapshot not in needed:
                gone = os.path.join(self._snapshots, f".{snapshot}.pruned")
                os.rename(os.path.join(self._snapshots, snapshot), gone)
                discard(gone)

    def _sweep(self) -> None:
        """Remove what a kill in the middle has left."""
        for name in os.listdir(self._snapshots):
            if name.startswith("."):
                discard(os.path.join(self._snapshots, name))

    def _check_room(self, size: int) -> None:
        file_system = os.statvfs(os.path.dirname(self._place))
        free = file_system.f_bavail * file_system.f_frsize
        if free < size + MARGIN_BYTES:
            mebibytes = [-(-number // (1 << 20)) for number in (size + MARGIN_BYTES, free)]
            raise Refused(
                EXIT_DISK_FULL,
                "no room for a snapshot of the data: {} MiB are needed and {} MiB free".format(*mebibytes),
            )

    # --- restoring

    def _restore(self, version: str, snapshot: str) -> None:
        """Put *snapshot* in the place of the data, which becomes a snapshot itself; or raise `Refused`."""
        record = self._record
        receipt = self._restorable(version, snapshot)
        restored = sum(file["bytes"] for file in receipt["files"])
        self._check_room(restored + sum(size_of(self._data, name) for name in files_in(self._data, DATA)))
        record["restoring"] = snapshot  # so that it is not pruned
        record["before"] = self._take(version)["id"] if self._has_database() else ""
        self._write_record()  # from here on it is ended, whatever happens
        self._end_restore()
        if record["last"] != version:
            raise Refused(EXIT_DATA, f"snapshot {snapshot} was damaged while it was being restored")

    def _restorable(self, version: str, snapshot: str) -> dict[str, Any]:
        last = self._record["last"]
        older = f"OpenCode {version} is older than the data, which OpenCode {last} used last"
        if not snapshot:
            raise Refused(EXIT_DATA, f"{older}, and no snapshot is to be restored")
        if snapshot == (self._record["restored"] or {}).get("id"):
            raise Refused(EXIT_DATA, f"{older}, and snapshot {snapshot} was restored already")
        receipt = self._receipt(snapshot) if ID.fullmatch(snapshot) else None
        if receipt is None:
            raise Refused(EXIT_DATA, f"{older}, and there is no snapshot {snapshot[:26]!r}")
        if receipt["opencode_version"] != version:
            taken_of = receipt["opencode_version"] or "an unknown version"
            raise Refused(EXIT_DATA, f"{older}, and snapshot {snapshot} was taken of {taken_of}")
        self._check_whole(receipt)
        return receipt

    def _check_whole(self, receipt: dict[str, Any]) -> None:
        folder = os.path.join(self._snapshots, receipt["id"])
        for file in receipt["files"]:
            try:
                if line_of(os.path.join(folder, file["path"])) == file:
                    continue
            except OSError:
                pass
            raise Refused(EXIT_DATA, f"snapshot {receipt['id']} is damaged, it cannot be restored")

    def _end_restore(self) -> None:
        """End what was begun, before anything starts. Where its snapshot is whole no more, what was set aside comes back."""
        record = self._record
        done = {"id": record["restoring"], "at": now(), "set_aside": record["before"] or None}
        try:
            self._put_back(record["restoring"], done)
        except Refused:
            if not record["before"]:
                raise
            self._put_back(record["before"], record["restored"])

    def _put_back(self, snapshot: str, restored: dict[str, Any] | None) -> None:
        """Put the files of *snapshot* in the place of the data, and record that, with what was *restored* last."""
        record = self._record
        receipt = self._receipt(snapshot)
        if receipt is None:
            raise Refused(EXIT_DATA, f"snapshot {snapshot} vanished while it was being restored")
        self._check_whole(receipt)
        names = [file["path"] for file in receipt["files"]]
        stale = [each for each in files_in(self._data, DATA) if each not in names]
        for name in stale + files_in(self._data, SHARED_MEMORY):
            os.unlink(os.path.join(self._data, name))
        for name in names:
            fresh = os.path.join(self._data, f".{name}.restored")
            copy(os.path.join(self._snapshots, snapshot, name), fresh)
            os.rename(fresh, os.path.join(self._data, name))
        sync_directory(self._data)
        record["last"] = receipt["opencode_version"]
        record["restored"] = restored
        record["restoring"] = ""
        self._write_record()

    def _write_record(self) -> None:
        migrations = self._record["migrations"]
        for version in list(migrations)[:-VERSIONS_KEPT]:
            del migrations[version]
        os.makedirs(self._place, mode=0o700, exist_ok=True)
        write_document(os.path.join(self._place, RECORD), self._record)


def is_older(version: str, than: str) -> bool:
    """Return whether *version* is older than the version *than*; nothing is older than one that is not known."""
    return bool(than) and numbers_of(version) < numbers_of(than)


def numbers_of(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def migrations_of(database: str) -> dict[str, Any] | None:
    """Return how many migrations *database* has seen and which was the last, or None where it cannot be told."""
    if not os.path.isfile(database):
        return None
    try:
        import sqlite3  # noqa: PLC0415 - not every image has it, and few starts need it
    except ImportError:
        return None
    path = database.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    until = time.monotonic() + SECONDS_TO_READ
    for table, name in MIGRATIONS:
        try:
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=SECONDS_TO_READ)
            try:
                connection.set_progress_handler(lambda: time.monotonic() > until, 100_000)
                count, last = connection.execute(f"SELECT count(*), max({name}) FROM {table}").fetchone()  # noqa: S608
            finally:
                connection.close()
        except sqlite3.Error:
            continue
        return {"count": count, "last": str(last)[:200]}
    return None


def record_of(found: dict[str, Any]) -> dict[str, Any]:
    """Return the record that *found* is, with nothing in it that does not belong there."""
    migrations = found.get("migrations")
    restored = found.get("restored")
    return {
        "format": 1,
        "last": matching(VERSION, found.get("last")),
        "migrations": {
            version: state_of(state)
            for version, state in (migrations.items() if isinstance(migrations, dict) else ())
            if VERSION.fullmatch(version) and state_of(state) is not None
        },
        "before": matching(ID, found.get("before")),
        "restoring": matching(ID, found.get("restoring")),
        "restored": {
            "id": matching(ID, restored.get("id")),
            "at": str(restored.get("at"))[:40],
            "set_aside": matching(ID, restored.get("set_aside")) or None,
        }
        if isinstance(restored, dict)
        else None,
    }


def receipt_of(found: dict[str, Any]) -> dict[str, Any] | None:
    """Return the receipt that *found* is, or None when it is none."""
    try:
        files = [
            {"path": str(file["path"]), "bytes": int(file["bytes"]), "sha256": str(file["sha256"])[:64]}
            for file in found["files"]
        ]
        if not all(DATA.fullmatch(str(file["path"])) for file in files):
            return None
        return {
            "id": str(found["id"]),
            "taken_at": str(found["taken_at"])[:40],
            "opencode_version": matching(VERSION, found["opencode_version"]),
            "before_version": matching(VERSION, found["before_version"]),
            "migrations": state_of(found["migrations"]),
            "bytes": int(found["bytes"]),
            "files": files,
        }
    except (KeyError, TypeError, ValueError):
        return None


def state_of(found: object) -> dict[str, Any] | None:
    if isinstance(found, dict) and isinstance(found.get("count"), int) and isinstance(found.get("last"), str):
        return {"count": found["count"], "last": found["last"][:200]}
    return None


def matching(pattern: re.Pattern[str], found: object) -> str:
    return found if isinstance(found, str) and pattern.fullmatch(found) else ""


def files_in(directory: str, pattern: re.Pattern[str]) -> list[str]:
    """Return the names of the plain files in *directory* that match *pattern*."""
    try:
        with os.scandir(directory) as entries:
            return sorted(
                each.name
                for each in entries
                if pattern.fullmatch(each.name) and each.is_file(follow_symlinks=False)
            )
    except FileNotFoundError:
        return []


def size_of(directory: str, name: str) -> int:
    return os.lstat(os.path.join(directory, name)).st_size


def new_id() -> str:
    """Return a ULID: ids in the order of time."""
    number = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number >> shift & 31] for shift in range(125, -1, -5))


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def copy(source: str, target: str) -> dict[str, Any]:
    """Copy a file, on disk when this returns, and return its line in a receipt."""
    with opened(source, os.O_RDONLY) as from_file, opened(target, WRITING) as to_file:
        line = read_through(from_file, source, to_file.write)
        to_file.flush()
        os.fsync(to_file.fileno())
    return line


def line_of(source: str) -> dict[str, Any]:
    with opened(source, os.O_RDONLY) as file:
        return read_through(file, source, len)


def read_through(file: BinaryIO, source: str, take: Callable[[bytes], object]) -> dict[str, Any]:
    import hashlib  # noqa: PLC0415 - few starts need it

    digest, size = hashlib.sha256(), 0
    while piece := file.read(1 << 20):
        digest.update(piece)
        size += len(piece)
        take(piece)
    return {"path": os.path.basename(source), "bytes": size, "sha256": digest.hexdigest()}


def opened(path: str, flags: int) -> BinaryIO:
    """Open a file for us alone. A link is not followed and a pipe not waited for: it was not us who made it."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    return open(descriptor, "wb" if flags & os.O_WRONLY else "rb")


def read_document(path: str) -> dict[str, Any]:
    """Return the JSON object in the file, an empty one when there is none that could be ours."""
    try:
        with opened(path, os.O_RDONLY) as file:
            found = json.loads(file.read(READ_BYTES + 1)[:READ_BYTES])
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_document(path: str, document: dict[str, Any]) -> None:
    """Write the file as a whole: whoever reads it, even after a power cut, finds the old or the new one."""
    fresh = f"{path}.new"
    with opened(fresh, WRITING) as file:
        file.write(json.dumps(document, separators=(",", ":")).encode())
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(directory: str) -> None:
    """Remove *directory* as far as that goes: what is left of it has a name that counts for nothing."""
    import shutil  # noqa: PLC0415 - few starts need it

    shutil.rmtree(directory, ignore_errors=True)
