"""The vendors' programs on PATH: the commands that `show` prints are run with them."""

import asyncio
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Final

from opencode_lifecycle.cli.verdict import Verdict, doubtful, fine, wrong

Version = tuple[int, int, int]

SUPPORTED: Final[Mapping[str, tuple[Version, Version]]] = {
    "nomad": ((1, 11, 3), (2, 0, 0)),
    "consul": ((1, 21, 0), (2, 0, 0)),
    "vault": ((1, 20, 0), (2, 0, 0)),
}
"""From the first version that is known to work, to the first that is not known any more."""

_VERSION: Final = re.compile(r"\bv(\d+)\.(\d+)\.(\d+)", re.ASCII)
_SECONDS: Final = 10.0
_OUTPUT_BYTES: Final = 4096


async def look_at_programs() -> Sequence[Verdict]:
    return [await _look_at(name, *between) for name, between in SUPPORTED.items()]


async def _look_at(name: str, least: Version, below: Version) -> Verdict:
    path = shutil.which(name)
    wanted = f">= {_dotted(least)} and < {_dotted(below)}"
    if path is None:
        return doubtful(
            name,
            f"{name}-missing",
            "not on PATH",
            f"install {name} {wanted} to use the commands that `show` prints",
        )
    found = await _version_of(path)
    if found is None:
        return wrong(name, f"{name}-broken", f"{path} does not tell its version", f"install {name} {wanted}")
    if not least <= found < below:
        return wrong(name, f"{name}-unsupported", f"{_dotted(found)} at {path}", f"install {name} {wanted}")
    return fine(name, f"{_dotted(found)} at {path}")


async def _version_of(path: str) -> Version | None:
    process = await asyncio.create_subprocess_exec(
        path,
        "version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    match = _VERSION.search(said[:_OUTPUT_BYTES].decode(errors="replace"))
    return (int(match[1]), int(match[2]), int(match[3])) if match is not None else None


def _dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)
