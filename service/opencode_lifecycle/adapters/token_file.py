"""A token that lies in a file, where something else may replace it while we run."""

import threading
from pathlib import Path


class TokenFile:
    """
    Return what *path* holds now. Usable from many threads; a file that did not change is not read again.

    A token is a secret: it leaves this object only to be put into a request's header.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._token = ""
        self._mark: tuple[int, int, int] | None = None

    def current(self) -> str:
        """Return the token, reading the file when it was replaced or written. An unreadable file raises `OSError`."""
        stat = self._path.stat()
        mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        with self._lock:
            if mark != self._mark:
                self._read(mark)
            return self._token

    def after_refusal(self, refused: str) -> str | None:
        """
        Return another token to try after *refused* was refused, or None when the file holds no other.

        Of many callers that were refused at once the first reads the file, the others take what it found.
        """
        with self._lock:
            if self._token == refused:
                self._read(None)
            return self._token if self._token != refused else None

    def _read(self, mark: tuple[int, int, int] | None) -> None:
        self._token = self._path.read_text(encoding="utf-8").strip()
        self._mark = mark

    def __repr__(self) -> str:
        return f"TokenFile({str(self._path)!r})"
