"""
Files as they are read and written beside data that an agent can write: bounded, of their kind, and whole.

What is written here is on disk before it gets its name, so that whoever reads it, even after a power cut, finds the old or
the new one.
"""

# ruff: noqa: PTH104, PTH118, PTH119, PTH120, PTH123

from __future__ import annotations

import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable
    from typing import Any, BinaryIO

READ_BYTES = 64 << 10
WRITING = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


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
    """Write the file as a whole."""
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
