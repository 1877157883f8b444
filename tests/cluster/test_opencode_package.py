"""OpenCode of any published version, through the npm client."""

import io
import tarfile
from pathlib import Path

import pytest

from cluster.pretending import Heard, Script
from opencode_lifecycle.cluster.cache import Cache
from opencode_lifecycle.cluster.errors import ClusterError
from opencode_lifecycle.cluster.opencode_package import ensure_opencode, package_name

PROGRAM = b"the program"


@pytest.mark.parametrize(
    ("platform", "flags", "musl", "name"),
    [
        ("linux-amd64", "flags : sse avx2", False, "opencode-linux-x64"),
        ("linux-amd64", "flags : sse", False, "opencode-linux-x64-baseline"),
        ("linux-amd64", "flags : avx2", True, "opencode-linux-x64-musl"),
        ("linux-amd64", "flags : sse", True, "opencode-linux-x64-baseline-musl"),
        ("linux-arm64", "", False, "opencode-linux-arm64"),
        ("darwin-arm64", "", False, "opencode-darwin-arm64"),
    ],
)
def test_every_platform_has_its_package(*, platform: str, flags: str, musl: bool, name: str):
    assert package_name(platform, flags, musl=musl) == name


def an_npm(tools: Path, script: Script, member: str = "package/bin/opencode") -> Path:
    """Put an npm on PATH that packs one prepared file and notes what it was asked for; return the notes."""
    prepared = tools / "prepared"
    with tarfile.open(prepared, "w:gz") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = len(PROGRAM)
        archive.addfile(entry, io.BytesIO(PROGRAM))
    script(
        tools / "npm",
        f'echo "$@" >> {tools}/asked\nwhile [ "$1" != --pack-destination ]; do shift; done\ncp {prepared} "$2/p.tgz"',
    )
    return tools / "asked"


async def test_a_version_is_fetched_once_and_then_taken_from_the_cache(
    cache: Cache, tools: Path, heard: Heard, script: Script
):
    asked = an_npm(tools, script)

    first = await ensure_opencode("1.18.34", progress=heard, cache=cache)
    second = await ensure_opencode("1.18.34", progress=heard, cache=cache)

    assert first == second == cache.root / "opencode" / "1.18.34" / "opencode"
    assert first.read_bytes() == PROGRAM
    assert first.stat().st_mode & 0o111
    (line,) = asked.read_text().splitlines()
    assert line.endswith("@1.18.34")


async def test_versions_lie_beside_one_another(cache: Cache, tools: Path, script: Script):
    an_npm(tools, script)

    older = await ensure_opencode("1.18.33", cache=cache)
    newer = await ensure_opencode("1.18.34", cache=cache)

    assert older != newer
    assert older.exists()
    assert newer.exists()


async def test_a_version_that_was_never_published_is_said_in_npms_words(
    cache: Cache, tools: Path, script: Script
):
    script(tools / "npm", "echo 'npm error notarget No matching version found' >&2; exit 1")

    with pytest.raises(ClusterError, match="No matching version found"):
        await ensure_opencode("99.0.0", cache=cache)

    assert not cache.opencode("99.0.0").exists()


async def test_a_package_without_the_program_is_refused(cache: Cache, tools: Path, script: Script):
    an_npm(tools, script, member="package/README.md")

    with pytest.raises(ClusterError, match="does not contain"):
        await ensure_opencode("1.18.34", cache=cache)

    assert not cache.opencode("1.18.34").exists()


async def test_without_npm_the_package_that_brings_it_is_named(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ClusterError, match="apt-get install npm"):
        await ensure_opencode("1.18.34", cache=cache)
