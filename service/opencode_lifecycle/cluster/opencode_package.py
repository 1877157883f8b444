"""
OpenCode from its npm package, any published version by number.

The npm client does the fetching, from the registry that it is set up for, and checks the package's integrity.
"""

import asyncio
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Final, NoReturn

from opencode_lifecycle.cluster.cache import Cache, install
from opencode_lifecycle.cluster.errors import ClusterError
from opencode_lifecycle.cluster.pinned import this_platform
from opencode_lifecycle.cluster.progress import Progress, Silent

_PACK_SECONDS: Final = 300
_ARCHITECTURES: Final = {"amd64": "x64", "arm64": "arm64"}
_PROGRAM: Final = "package/bin/opencode"


async def ensure_opencode(
    version: str, *, progress: Progress | None = None, cache: Cache | None = None
) -> Path:
    """Return the OpenCode program of *version*, fetching it when the cache lacks it; raise `ClusterError` if it cannot be had."""
    return await asyncio.to_thread(_ensure, version, progress or Silent(), cache or Cache.of_this_user())


def _ensure(version: str, progress: Progress, cache: Cache) -> Path:
    program = cache.opencode(version)
    if program.exists():
        return program
    with cache.locked(program):
        if not program.exists():
            progress.step(f"opencode {version}: fetching its npm package")
            with cache.workplace(program) as directory:
                install(_unpack(_pack(version, directory), directory), program)
            progress.note(f"opencode {version}: from npm, integrity verified")
    return program


def package_name(platform: str, cpu_flags: str, *, musl: bool) -> str:
    """Return the package that carries the program for *platform*: an old CPU and a small C library have their own."""
    system, _, architecture = platform.partition("-")
    name = f"opencode-{system}-{_ARCHITECTURES.get(architecture, architecture)}"
    if architecture == "amd64" and "avx2" not in cpu_flags.split():
        name += "-baseline"
    return f"{name}-musl" if musl else name


def _pack(version: str, directory: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise ClusterError(
            "OpenCode comes as an npm package and there is no npm; on Debian: apt-get install npm"
        )
    name = package_name(this_platform(), _cpu_flags(), musl=_is_musl())
    try:
        answer = subprocess.run(  # noqa: S603  (the npm client just found)
            [npm, "pack", "--silent", "--pack-destination", str(directory), f"{name}@{version}"],
            capture_output=True,
            text=True,
            timeout=_PACK_SECONDS,
            check=False,
            cwd=directory,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"npm could not fetch {name} {version}: {type(error).__name__}") from None
    packed = list(directory.glob("*.tgz"))
    if answer.returncode != 0 or not packed:
        last = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ClusterError(f"npm could not fetch {name} {version}: {last}")
    return packed[0]


def _unpack(archive: Path, directory: Path) -> Path:
    made = directory / "opencode"
    try:
        with tarfile.open(archive) as content:
            member = content.extractfile(_PROGRAM)
            if member is None:
                return _no_program(archive)
            with made.open("wb") as file:
                shutil.copyfileobj(member, file, 1 << 20)
    except (tarfile.TarError, KeyError, EOFError, OSError):
        return _no_program(archive)
    return made


def _no_program(archive: Path) -> NoReturn:
    raise ClusterError(f"{archive.name} does not contain {_PROGRAM}") from None


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "avx2"
    return next((line for line in lines if line.startswith("flags")), "avx2")


def _is_musl() -> bool:
    return os.path.exists("/lib/ld-musl-x86_64.so.1") or os.path.exists("/lib/ld-musl-aarch64.so.1")  # noqa: PTH110
