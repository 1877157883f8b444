"""
The documents of a workspace: its record, and the receipt of each snapshot.

The agent can write them. What is returned from here holds nothing that does not belong into such a document.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
VERSION = re.compile(r"[0-9]{1,9}[.][0-9]{1,9}[.][0-9]{1,9}")
DATABASE = "opencode.db"
DATA = re.compile(r"opencode[A-Za-z0-9._-]{0,64}[.]db(-wal|-journal)?|auth[.]json|mcp-auth[.]json")
SHARED_MEMORY = re.compile(r"opencode[A-Za-z0-9._-]{0,64}[.]db-shm")
"""What SQLite makes anew from the log. Beside another database it would be wrong."""
EXIT_DATA = 65
EXIT_WORKSPACE = 73
EXIT_DISK_FULL = 74


class Refused(Exception):
    """
    This version is not started on this data. Says why in one line, and with which code to exit.

    *written* is how much was written since the snapshot that would be restored, where that is the reason.
    """

    def __init__(self, code: int, reason: str, written: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.written = written


def record_of(found: dict[str, Any]) -> dict[str, Any]:
    """Return the record that *found* is."""
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
