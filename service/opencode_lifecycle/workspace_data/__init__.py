"""
What becomes of OpenCode's data when another version of OpenCode is to start on it. The entrypoint asks, while nothing runs.

OpenCode migrates its database as it starts, only ever forward, and starts on a newer one as if nothing were the matter. So
what ran last is recorded in the workspace; before another version may migrate the data a snapshot of it is taken; and a
version that is older than the data is refused, unless it is known to make the same of the database, or the snapshot that
was taken of it is put back: because the job names it, or because nothing was written since.

A snapshot is OpenCode's database with its write-ahead log, which holds what was written last, and the credentials beside
it (`auth.json`, `mcp-auth.json`), whose form changes with the versions, too. Not part of it are the user's project, git's
copies of that, the log, and what is only found by ids that the database holds: no version migrates them.

The agent can write whatever is read here. So it is read up to a bound, its types are looked at, and no path is taken from
it that leads out of its folder. Whoever forges it harms the data of that workspace, which he could in any case.

This folder lies beside `entrypoint.py`, in images as well, and is whole: `files` reads and writes, `documents` holds the
forms, `snapshots` takes and puts back, `database` reads what OpenCode wrote.
"""

# No pathlib or typing, and nothing that only a change needs: this is loaded before every start.
# ruff: noqa: PTH103, PTH118

from __future__ import annotations

import errno
import os

from .database import migrations_of
from .documents import (
    DATA,
    DATABASE,
    EXIT_DATA,
    EXIT_DISK_FULL,
    EXIT_WORKSPACE,
    Refused,
    record_of,
)
from .files import files_in, now, read_document, write_document
from .snapshots import SHOWN, Snapshots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PLACE = ".opencode-lifecycle"
RECORD = "data.json"
VERSIONS_KEPT = 50


def prepare(workspace: str, data: str, version: str, restore: str) -> dict[str, Any]:
    """
    Make *data*, OpenCode's directory, ready for *version*, and report what there is and what was done.

    Where the report says `refused`, nothing may be started. It holds no secret, and no byte of the data.
    An empty *version* stands for one that nobody named.
    """
    return WorkspaceData(workspace, data).prepare(version, restore)


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
        self._snapshots = Snapshots(self._place, data)
        self._record = record_of(read_document(os.path.join(self._place, RECORD)))

    def prepare(self, version: str, restore: str) -> dict[str, Any]:
        """Make the data ready for *version*, and report that, as the function `prepare` says."""
        refused = None
        try:
            if version:
                self.make_ready(version, restore)
            else:
                self.forget_version()
        except Refused as error:
            refused = {"code": error.code, "reason": str(error), "written": error.written}
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            code = EXIT_DISK_FULL if full else EXIT_WORKSPACE
            reason = f"the data cannot be kept safe: {error.strerror}"
            refused = {"code": code, "reason": reason, "written": None}
        return {"format": 1, "version": version, **self.account(), "refused": refused}

    def make_ready(self, version: str, restore: str) -> None:
        """
        Take a snapshot, put one back or do nothing, so that *version* can start; or raise `Refused`.

        The same arguments may come again and again, for a task is restarted with those of its job:

        1. A rollback to A names the snapshot S. It is put back, A runs, and its user goes on working.
        2. The task is restarted, hours later, and S is named still. A ran last, so there is nothing to put back.
        3. The stack goes to B, which migrates the data, and an old text of the job, with A and S, is submitted again.
           Putting S back would take all the work since 1. It was the last to be restored, so it counts as not named.
        """
        record = self._record
        if record["restoring"]:
            self._end_restore()
        if record["last"] == version and version in record["migrations"]:
            return
        present = self._migrations()
        if record["last"] and present is not None:
            record["migrations"].pop(record["last"], None)
            record["migrations"][record["last"]] = present
        if record["last"] != version:
            known = record["migrations"].get(version)
            older = is_older(version, record["last"])
            if older and (present is None or known != present):
                self._restore(version, self._to_put_back(version, restore))
                return
            if not older and (undoing := self._undoing(version, restore)) is not None:
                self._restore(version, undoing)
                return
            record["before"] = self._take(version)["id"] if self._has_database() else ""
            record["last"] = version
        self._write_record()

    def forget_version(self) -> None:
        """Record that a version runs of which nobody said which it is: what follows takes nothing for granted."""
        if self._record["last"]:
            self._record["last"] = ""
            self._write_record()

    def account(self) -> dict[str, Any]:
        """Return what there is, for the report. What stands in it for the last change outlasts restarts."""
        return {
            "snapshots": self._snapshots.kept()[-SHOWN:],
            "snapshot_taken": self._record["before"] or None,
            "restored": self._record["restored"],
        }

    def _migrations(self) -> dict[str, Any] | None:
        return migrations_of(os.path.join(self._data, DATABASE))

    def _has_database(self) -> bool:
        return DATABASE in files_in(self._data, DATA)

    def _take(self, version: str) -> dict[str, Any]:
        """Take a snapshot before *version* starts, and return its receipt."""
        record = self._record
        return self._snapshots.take(
            of=record["last"],
            before=version,
            migrations=self._migrations(),
            needed={record["before"], record["restoring"], (record["restored"] or {}).get("set_aside")},
        )

    # --- which snapshot

    def _to_put_back(self, version: str, named: str) -> dict[str, Any]:
        """
        Return the receipt of the snapshot that *version*, which is older than the data, starts on; or raise `Refused`.

        One that is *named* is put back whatever was written since: whoever names it knows of that, and nothing is lost for
        good. Without a name it is the newest of that version, and only where nothing was written since.
        """
        older = f"OpenCode {version} is older than the data, which OpenCode {self._record['last']} used last"
        if named and named == (self._record["restored"] or {}).get("id"):
            older += f", snapshot {named} was restored already"
        elif named:
            return self._named(version, named, older)
        newest = self._snapshots.newest_of(version)
        if newest is None:
            raise Refused(EXIT_DATA, f"{older}, and there is no snapshot of the data of {version}")
        self._snapshots.check_whole(newest)
        written = self._snapshots.written_since(newest)
        if written is None:
            words = f"whether anything was written since snapshot {newest['id']} cannot be told"
            raise Refused(EXIT_DATA, f"{older}, and {words}")
        if any(written[what] for what in ("sessions", "messages", "other")):
            raise Refused(EXIT_DATA, f"{older}, and {told(written, newest)}", written)
        return newest

    def _named(self, version: str, snapshot: str, older: str) -> dict[str, Any]:
        receipt = self._snapshots.receipt(snapshot)
        if receipt is None:
            raise Refused(EXIT_DATA, f"{older}, and there is no snapshot {snapshot[:26]!r}")
        if receipt["opencode_version"] != version:
            taken_of = receipt["opencode_version"] or "an unknown version"
            raise Refused(EXIT_DATA, f"{older}, and snapshot {snapshot} was taken of {taken_of}")
        self._snapshots.check_whole(receipt)
        return receipt

    def _undoing(self, version: str, named: str) -> dict[str, Any] | None:
        """
        Return the receipt of the snapshot that is *named* where it undoes the last change, that to an older version.

        1. A is gone back to, S is put back, and the data of B set aside as X. A does not become healthy.
        2. B is started again, and X is named. Migrating S once more would do without what X holds.
        """
        record = self._record
        receipt = self._snapshots.receipt(named) if named and named == record["before"] else None
        if receipt is None:
            return None
        if (receipt["opencode_version"], receipt["before_version"]) != (version, record["last"]):
            return None
        try:
            self._snapshots.check_whole(receipt)
        except Refused:
            return None
        return receipt

    # --- putting it back

    def _restore(self, version: str, receipt: dict[str, Any]) -> None:
        """Put the snapshot in the place of the data, which becomes a snapshot itself; or raise `Refused`."""
        record = self._record
        restored = sum(file["bytes"] for file in receipt["files"])
        self._snapshots.check_room(restored + self._snapshots.size_of_data())
        record["restoring"] = receipt["id"]  # so that it is not pruned
        record["before"] = self._take(version)["id"] if self._has_database() else ""
        self._write_record()  # from here on it is ended, whatever happens
        self._end_restore()
        if record["last"] != version:
            raise Refused(EXIT_DATA, f"snapshot {receipt['id']} was damaged while it was being restored")

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
        record["last"] = self._snapshots.put_back(snapshot)["opencode_version"]
        record["restored"] = restored
        record["restoring"] = ""
        self._write_record()

    def _write_record(self) -> None:
        migrations = self._record["migrations"]
        for version in list(migrations)[:-VERSIONS_KEPT]:
            del migrations[version]
        os.makedirs(self._place, mode=0o700, exist_ok=True)
        write_document(os.path.join(self._place, RECORD), self._record)


def told(written: dict[str, Any], receipt: dict[str, Any]) -> str:
    """Say in words how much was written since the snapshot."""
    names = {"sessions": "session", "messages": "message", "other": "other row"}
    counts = ((written[what], name) for what, name in names.items() if written[what])
    parts = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts]
    first = f", the first of it at {written['since']}" if written["since"] else ""
    return f"since snapshot {receipt['id']} of {receipt['taken_at']} it was written to: {', '.join(parts)}{first}"


def is_older(version: str, than: str) -> bool:
    """Return whether *version* is older than the version *than*; nothing is older than one that is not known."""
    return bool(than) and numbers_of(version) < numbers_of(than)


def numbers_of(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]
