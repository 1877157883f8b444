"""The per-user cache of programs. A file in it is whole: it is made under another name and then renamed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from opencode_lifecycle.cluster.pinned import PinnedServer, this_platform

CACHE_VARIABLE: Final = "OPENCODE_LIFECYCLE_CACHE"


@dataclass(frozen=True, slots=True)
class Cache:
    """Programs by name, version and platform."""

    root: Path

    @classmethod
    def of_this_user(cls, environment: Mapping[str, str] = os.environ) -> "Cache":
        if environment.get(CACHE_VARIABLE):
            return cls(Path(environment[CACHE_VARIABLE]))
        base = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(Path(base) / "opencode-lifecycle")

    def server(self, server: PinnedServer) -> Path:
        return self.root / server.name / f"{server.version}-{this_platform()}" / server.name

    def server_for_tests(self, server: PinnedServer) -> Path:
        """Return where a build with the mock driver goes when the ordinary place holds a release without it."""
        return self.root / server.name / f"{server.version}-{this_platform()}-mock" / server.name

    def opencode(self, version: str) -> Path:
        return self.root / "opencode" / version / "opencode"

    @contextmanager
    def locked(self, program: Path) -> Iterator[None]:
        """Hold the lock that lets one process at a time make *program*; others wait for its result."""
        program.parent.mkdir(parents=True, exist_ok=True)
        with (program.parent / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def workplace(self, program: Path) -> Iterator[Path]:
        """
        Yield an empty directory on the same file system as *program*, which is gone afterwards.

        To be used under the lock: what an earlier, killed attempt left behind is cleared away.
        """
        for left in program.parent.glob(".making-*"):
            shutil.rmtree(left, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(prefix=".making-", dir=program.parent))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def install(made: Path, program: Path) -> None:
    """Put *made* in the place of *program* in one step, executable and on disk."""
    made.chmod(0o755)
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.replace(program)
