"""The official release archives. Only one whose checksum is pinned here is ever opened."""

import hashlib
import os
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from opencode_lifecycle.cluster.cache import Cache, install
from opencode_lifecycle.cluster.errors import ClusterError
from opencode_lifecycle.cluster.pinned import PinnedServer, this_platform
from opencode_lifecycle.cluster.progress import Progress

RELEASES_VARIABLE: Final = "OPENCODE_LIFECYCLE_RELEASES_URL"
RELEASES: Final = "https://releases.hashicorp.com"
_SECONDS: Final = 5.0
"""For each connection and each read: a machine without internet must move on soon."""
_CHUNK: Final = 1 << 20
_MEBIBYTE: Final = 1 << 20
_MOST_BYTES: Final = 1 << 30


def fetch(
    server: PinnedServer, place: Path, cache: Cache, progress: Progress, releases: str | None = None
) -> None:
    """Download, verify and unpack the release of *server* into *place*, or raise `ClusterError` saying why not."""
    platform = this_platform()
    checksum = server.checksums.get(platform)
    if checksum is None:
        raise ClusterError(f"no checksum is pinned for {platform}")
    base = releases or os.environ.get(RELEASES_VARIABLE) or RELEASES
    archive = f"{server.name}_{server.version}_{platform.replace('-', '_')}.zip"
    url = f"{base.rstrip('/')}/{server.name}/{server.version}/{archive}"
    with cache.workplace(place) as directory:
        downloaded = directory / archive
        progress.step(f"{server.name} {server.version}: looking for the official release")
        found = _download(url, downloaded, lambda size: progress.step(_amount(server, size)))
        if found != checksum:
            raise ClusterError(f"{url} has not the pinned checksum (expected {checksum}, got {found})")
        try:
            with zipfile.ZipFile(downloaded) as content:
                program = Path(content.extract(server.name, directory / "unpacked"))
        except (zipfile.BadZipFile, KeyError, OSError):
            raise ClusterError(f"{url} does not contain {server.name}") from None
        install(program, place)


def _amount(server: PinnedServer, size: int) -> str:
    return f"{server.name} {server.version}: downloading the official release, {size // _MEBIBYTE} MiB"


def _download(url: str, target: Path, report: Callable[[int], None]) -> str:
    """Write what *url* answers into *target* and return its SHA-256."""
    digest = hashlib.sha256()
    size = 0
    try:
        with (
            urllib.request.urlopen(url, timeout=_SECONDS) as answer,  # noqa: S310  (an operator's setting)
            target.open("wb") as file,
        ):
            announced = int(answer.headers.get("Content-Length") or 0)
            while chunk := answer.read(_CHUNK):
                size += len(chunk)
                if size > _MOST_BYTES:
                    raise ClusterError(f"{url} is larger than any release")
                digest.update(chunk)
                file.write(chunk)
                report(size)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ClusterError(f"{url}: {reason}") from None
    if size < announced:
        raise ClusterError(f"{url} broke off after {size} of {announced} bytes")
    return digest.hexdigest()
