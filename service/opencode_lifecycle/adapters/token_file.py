"""A token that lies in a file, where something else may replace it while we run."""

import asyncio
import re
import threading
from pathlib import Path
from time import monotonic
from typing import Final

LOOK_COUNTS_FOR: Final = 1.0
"""Seconds. By so much at most is a token that was replaced still tried; no longer than until it is refused."""
_SENDABLE: Final = re.compile(r"[\x21-\x7e]+")


class TokenFile:
    """
    Know what *path* holds now. Usable from many threads; a file that did not change is not read again.

    A token is a secret: it leaves this object only to be put into a request's header. A file that cannot be read, or
    holds what no header can, holds no token; nothing is raised, since the error could quote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._token: str | None = None
        self._mark: tuple[int, int, int] | None = None
        self._looked_at: float | None = None

    def current(self) -> str | None:
        """Return the token, reading the file when it was replaced or written."""
        with self._lock:
            if self._mark is None or self._mark != self._look():
                self._read()
            return self._token

    async def get(self) -> str | None:
        """Return the token as a look of the last second found it, else look at it in a thread."""
        if self._was_just_looked_at():
            return self._token
        return await asyncio.to_thread(self.current)

    def _was_just_looked_at(self) -> bool:
        """Whether a token is known by a recent look. That there is none is looked at again each time."""
        looked_at = self._looked_at
        is_recent = looked_at is not None and monotonic() - looked_at < LOOK_COUNTS_FOR
        return is_recent and self._token is not None

    def after_refusal(self, refused: str) -> str | None:
        """
        Return another token to try after *refused* was refused, or None when the file holds no other.

        Of many callers that were refused at once the first reads the file, the others take what it found.
        """
        with self._lock:
            if self._token == refused:
                self._read()
            return self._token if self._token != refused else None

    def _look(self) -> tuple[int, int, int] | None:
        self._looked_at = monotonic()
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _read(self) -> None:
        self._mark = self._look()
        try:
            text = self._path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            text = ""
        self._token = text if _SENDABLE.fullmatch(text) else None

    def __repr__(self) -> str:
        return f"TokenFile({str(self._path)!r})"
