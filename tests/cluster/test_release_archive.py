"""Official release archives, from a mirror on loopback: only the pinned bytes are ever used."""

import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.pretending import Heard
from opencode_lifecycle.cluster import binaries, go_build, release_archive
from opencode_lifecycle.cluster.binaries import Wanted
from opencode_lifecycle.cluster.cache import Cache
from opencode_lifecycle.cluster.errors import ClusterError, ServerNotFound
from opencode_lifecycle.cluster.pinned import CONSUL, NOMAD, PinnedServer, this_platform

PROGRAM = b"#!/bin/sh\necho Consul v1.22.3\n"


class Mirror:
    """Serves archives from memory, and can be told to break off."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.breaks_off_after: int | None = None


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            content = served.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: served.breaks_off_after])

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Mirror(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def archive(name: str = "consul", program: bytes = PROGRAM) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("LICENSE.txt", "terms")
        file.writestr(name, program)
    return content.getvalue()


def published(mirror: Mirror, content: bytes, checksum_of: bytes | None = None) -> PinnedServer:
    """Put *content* on the mirror as Consul's release, pinned by its checksum or by that of other bytes."""
    platform = this_platform()
    path = f"/consul/{CONSUL.version}/consul_{CONSUL.version}_{platform.replace('-', '_')}.zip"
    mirror.files[path] = content
    checksum = hashlib.sha256(content if checksum_of is None else checksum_of).hexdigest()
    return replace(CONSUL, checksums={platform: checksum})


def fetch(server: PinnedServer, cache: Cache, mirror: Mirror) -> Path:
    place = cache.server(server)
    with cache.locked(place):
        release_archive.fetch(server, place, cache, Heard(), mirror.address)
    return place


def leftovers(place: Path) -> list[str]:
    return [path.name for path in place.parent.iterdir() if path.name != ".lock"]


def test_a_release_with_the_pinned_checksum_becomes_an_executable_program(cache: Cache, mirror: Mirror):
    place = fetch(published(mirror, archive()), cache, mirror)

    assert place.read_bytes() == PROGRAM
    assert place.stat().st_mode & 0o111
    assert leftovers(place) == ["consul"]


def test_a_release_with_another_checksum_is_refused_and_leaves_nothing(cache: Cache, mirror: Mirror):
    server = published(mirror, archive(), checksum_of=b"what was pinned")

    with pytest.raises(ClusterError, match="has not the pinned checksum"):
        fetch(server, cache, mirror)

    assert leftovers(cache.server(server)) == []


def test_a_download_that_breaks_off_is_refused_and_leaves_nothing(cache: Cache, mirror: Mirror):
    server = published(mirror, archive())
    mirror.breaks_off_after = 40

    with pytest.raises(ClusterError, match=r"broke off after 40 of \d+ bytes|IncompleteRead"):
        fetch(server, cache, mirror)

    assert leftovers(cache.server(server)) == []


def test_a_release_without_the_program_is_refused(cache: Cache, mirror: Mirror):
    server = published(mirror, archive(name="something-else"))

    with pytest.raises(ClusterError, match="does not contain consul"):
        fetch(server, cache, mirror)


def test_a_release_that_is_no_archive_is_refused_even_with_the_pinned_checksum(cache: Cache, mirror: Mirror):
    server = published(mirror, b"<html>sign in to continue</html>")

    with pytest.raises(ClusterError, match="does not contain consul"):
        fetch(server, cache, mirror)


def test_a_mirror_that_is_not_there_is_said(cache: Cache, mirror: Mirror):
    mirror.address = "http://127.0.0.1:9"

    with pytest.raises(ClusterError, match="refused"):
        fetch(published(mirror, archive()), cache, mirror)


def test_a_platform_without_a_pinned_checksum_downloads_nothing(cache: Cache, mirror: Mirror):
    server = replace(published(mirror, archive()), checksums={})

    with pytest.raises(ClusterError, match="no checksum is pinned"):
        fetch(server, cache, mirror)

    assert mirror.asked == []


def test_the_address_of_the_releases_is_a_setting(
    cache: Cache, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(release_archive.RELEASES_VARIABLE, mirror.address)
    server = published(mirror, archive())
    place = cache.server(server)

    with cache.locked(place):
        release_archive.fetch(server, place, cache, Heard())

    assert place.exists()


def test_two_setups_at_once_download_once_and_both_get_the_program(
    cache: Cache, mirror: Mirror, heard: Heard, tmp_path: Path
):
    server = published(mirror, archive())
    wanted = Wanted(cache=cache, search_path=str(tmp_path), releases=mirror.address)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: binaries.find(server, wanted, heard), range(8)))

    assert set(found) == {cache.server(server)}
    assert len(mirror.asked) == 1


def test_what_a_killed_setup_left_behind_is_never_used_and_cleared_away(cache: Cache, mirror: Mirror):
    server = published(mirror, archive())
    half = cache.server(server).parent / ".making-killed"
    half.mkdir(parents=True)
    (half / "consul").write_bytes(PROGRAM[:10])

    place = fetch(server, cache, mirror)

    assert place.read_bytes() == PROGRAM
    assert leftovers(place) == ["consul"]


def test_tests_do_not_take_a_nomad_from_the_official_releases(
    cache: Cache, mirror: Mirror, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(go_build, "find_go", lambda: Path("/bin/false"))
    platform = this_platform()
    content = archive("nomad", b"#!/bin/sh\necho Nomad v1.11.3\n")
    mirror.files[f"/nomad/1.11.3/nomad_1.11.3_{platform.replace('-', '_')}.zip"] = content
    server = replace(NOMAD, checksums={platform: hashlib.sha256(content).hexdigest()})
    wanted = Wanted(cache=cache, search_path=str(tmp_path), releases=mirror.address, require_mock_driver=True)

    with pytest.raises(ServerNotFound, match="mock_driver"):
        binaries.find(server, wanted, heard)

    assert mirror.asked == []
