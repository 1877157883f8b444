"""The vendors' programs on PATH: the commands that `show` prints are run with them."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from opencode_lifecycle.cli.verdict import Verdict, doubtful, fine, wrong
from opencode_lifecycle.cluster.binaries import version_of
from opencode_lifecycle.cluster.pinned import PINNED, PinnedServer, Version


def look_at_programs() -> Sequence[Verdict]:
    """Say of each program whether it is there, and in a version that is known to work."""
    return [_look_at(server) for server in PINNED]


def _look_at(server: PinnedServer) -> Verdict:
    name = server.name
    wanted = f"install {name} >= {_dotted(server.lowest)} and < {_dotted(server.below)}"
    path = shutil.which(name)
    if path is None:
        return doubtful(
            name, f"{name}-missing", "not on PATH", f"{wanted} to use the commands that `show` prints"
        )
    found = version_of(Path(path))
    if found is None:
        return wrong(name, f"{name}-broken", f"{path} does not tell its version", wanted)
    if not server.accepts(found):
        return wrong(name, f"{name}-unsupported", f"{_dotted(found)} at {path}", wanted)
    return fine(name, f"{_dotted(found)} at {path}")


def _dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)
