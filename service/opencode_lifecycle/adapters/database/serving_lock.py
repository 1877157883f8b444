"""At most one process serves on a SQLite file."""

import fcntl
import os
from pathlib import Path

from opencode_lifecycle.model.errors import InvalidSettings


class ServingLock:
    """
    An advisory lock beside the database file, given back by the kernel when its holder dies.

    It is not on the file itself: closing any handle on that would drop SQLite's own locks of this process.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name(f"{database.name}-serving")
        self._handle: int | None = None

    def take(self) -> None:
        """Take the lock, or raise `InvalidSettings` naming its holder."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
            os.close(handle)
            problem = (
                f"database_url: process {holder or 'unknown'} serves on {self._database} already; "
                "SQLite serves one process only, more need PostgreSQL"
            )
            raise InvalidSettings([problem]) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._handle = handle

    def give_back(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
