"""
Nomad, Consul and Vault, found or made, in the order that people expect.

On PATH in an accepted version; in the per-user cache; as the official release archive with its pinned checksum; built
with Go from pinned modules. Each way that does not lead to a program says why, and all of that is told when none does.
"""

import asyncio
import mmap
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from opencode_lifecycle.cluster import go_build, release_archive
from opencode_lifecycle.cluster.cache import Cache
from opencode_lifecycle.cluster.errors import ClusterError, ServerNotFound
from opencode_lifecycle.cluster.pinned import NOMAD, PINNED, PinnedServer, Version, parse_version
from opencode_lifecycle.cluster.progress import Progress, Silent

_VERSION_SECONDS: Final = 30
_MOCK_DRIVER: Final = b"github.com/hashicorp/nomad/drivers/mock."
"""Names of functions stay in a Go program even when its symbols are stripped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is looked for, and where. *search_path* and *releases* are None for what this machine is set to."""

    cache: Cache
    require_mock_driver: bool = False
    search_path: str | None = None
    releases: str | None = None


async def find_servers(
    *,
    progress: Progress | None = None,
    require_mock_driver: bool = False,
    cache: Cache | None = None,
) -> Mapping[str, Path]:
    """
    Return the path of each server program, making what is missing, or raise `ServerNotFound`.

    With *require_mock_driver* a Nomad without the mock driver, such as an official release, is not good enough.
    """
    wanted = Wanted(cache=cache or Cache.of_this_user(), require_mock_driver=require_mock_driver)
    shown = progress or Silent()
    return {server.name: await asyncio.to_thread(find, server, wanted, shown) for server in PINNED}


def find(server: PinnedServer, wanted: Wanted, progress: Progress) -> Path:
    """Return a good program of *server*, by the first way that leads to one."""
    refused: list[str] = []
    found = _on_path(server, wanted, refused) or _in_cache(server, wanted, refused)
    if found is not None:
        return found
    ordinary = wanted.cache.server(server)
    with wanted.cache.locked(ordinary):
        found = _in_cache(server, wanted, [])
        if found is not None:
            return found
        place = ordinary
        if ordinary.exists() and _reason_against(server, ordinary, wanted) == _NO_MOCK:
            place = wanted.cache.server_for_tests(server)
            place.parent.mkdir(parents=True, exist_ok=True)
        return _make(server, place, wanted, progress, refused)


def _make(server: PinnedServer, place: Path, wanted: Wanted, progress: Progress, refused: list[str]) -> Path:
    if server.name == NOMAD.name and wanted.require_mock_driver:
        refused.append("official release: has no mock_driver")
    else:
        try:
            release_archive.fetch(server, place, wanted.cache, progress, wanted.releases)
        except ClusterError as error:
            refused.append(f"official release: {error.message}")
        else:
            progress.note(f"{server.name} {server.version}: official release, checksum verified")
            return place
    try:
        go_build.build(server, place, wanted.cache, progress)
    except ClusterError as error:
        refused.append(f"build with Go: {error.message}")
        tried = "\n  ".join(refused)
        raise ServerNotFound(
            f"There is no {server.name} here, and none can be made.\n  {tried}\n"
            f"Put {server.name} {server.version} on PATH, or run `opencode-lifecycle cluster up` "
            "where the internet or a Go module mirror can be reached."
        ) from None
    progress.note(f"{server.name} {server.version}: built with Go")
    return place


def _on_path(server: PinnedServer, wanted: Wanted, refused: list[str]) -> Path | None:
    name = shutil.which(server.name, path=wanted.search_path)
    if name is None:
        refused.append("PATH: there is none")
        return None
    reason = _reason_against(server, Path(name), wanted)
    if reason is not None:
        refused.append(f"PATH: {name} {reason}")
        return None
    return Path(name)


def _in_cache(server: PinnedServer, wanted: Wanted, refused: list[str]) -> Path | None:
    for program in (wanted.cache.server(server), wanted.cache.server_for_tests(server)):
        reason = _reason_against(server, program, wanted) if program.exists() else "is not there"
        if reason is None:
            return program
        refused.append(f"cache: {program} {reason}")
    return None


_NO_MOCK: Final = "has no mock_driver, which tests need"


def _reason_against(server: PinnedServer, program: Path, wanted: Wanted) -> str | None:
    """Return why *program* is not good enough, or None when it is."""
    version = version_of(program)
    if version is None:
        return "does not tell its version"
    if not server.accepts(version):
        lowest = ".".join(str(part) for part in server.lowest)
        return f"is version {'.'.join(str(part) for part in version)}; {lowest} or later below {server.below[0]} is needed"
    if server.name == NOMAD.name and wanted.require_mock_driver and not has_mock_driver(program):
        return _NO_MOCK
    return None


def version_of(program: Path) -> Version | None:
    """Return the version that *program* prints of itself, or None when it prints none."""
    try:
        answer = subprocess.run(  # noqa: S603  (a server program that was asked for by name)
            [program, "version"], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(answer.stdout) if answer.returncode == 0 else None


def has_mock_driver(program: Path) -> bool:
    """Tell whether a Nomad contains the mock driver, which is left out of official releases."""
    with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_MOCK_DRIVER) >= 0
