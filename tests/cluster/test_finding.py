"""The order in which a server program is looked for, and what is said when there is none."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.pretending import Heard, Script
from opencode_lifecycle.cluster import binaries, go_build
from opencode_lifecycle.cluster.binaries import Wanted
from opencode_lifecycle.cluster.cache import CACHE_VARIABLE, Cache
from opencode_lifecycle.cluster.errors import ServerNotFound
from opencode_lifecycle.cluster.pinned import CONSUL, NOMAD, this_platform

MOCK = "github.com/hashicorp/nomad/drivers/mock.NewMockDriver"


@pytest.fixture
def nowhere(cache: Cache, tools: Path) -> Wanted:
    """Neither internet nor a mirror: the connection is refused at once."""
    return Wanted(cache=cache, search_path=str(tools), releases="http://127.0.0.1:9")


def test_a_good_version_on_path_comes_first(nowhere: Wanted, tools: Path, heard: Heard, script: Script):
    on_path = script(tools / "consul", "echo Consul v1.21.5")
    script(nowhere.cache.server(CONSUL), "echo Consul v1.22.3")

    assert binaries.find(CONSUL, nowhere, heard) == on_path


@pytest.mark.parametrize("said", ["Consul v1.8.0", "Consul v2.0.1", "no version at all"])
def test_another_version_on_path_is_passed_over_for_the_cache(
    nowhere: Wanted, tools: Path, heard: Heard, script: Script, said: str
):
    script(tools / "consul", f"echo {said}")
    cached = script(nowhere.cache.server(CONSUL), "echo Consul v1.22.3")

    assert binaries.find(CONSUL, nowhere, heard) == cached


def test_a_nomad_without_the_mock_driver_is_good_for_people_and_not_for_tests(
    nowhere: Wanted, tools: Path, heard: Heard, script: Script
):
    release = script(tools / "nomad", "echo Nomad v1.11.3")
    built = script(nowhere.cache.server(NOMAD), f"echo Nomad v1.11.3\n# {MOCK}")

    assert binaries.find(NOMAD, nowhere, heard) == release
    assert binaries.find(NOMAD, replace(nowhere, require_mock_driver=True), heard) == built


def test_what_can_be_found_nowhere_is_built_with_go(
    nowhere: Wanted, tools: Path, heard: Heard, script: Script, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(go_build, "find_go", lambda: a_go(tools, script))

    found = binaries.find(CONSUL, nowhere, heard)

    assert found == nowhere.cache.server(CONSUL)
    assert heard.notes == ["consul 1.22.3: built with Go"]


def test_a_build_for_tests_does_not_replace_a_release_in_the_cache(
    nowhere: Wanted, tools: Path, heard: Heard, script: Script, monkeypatch: pytest.MonkeyPatch
):
    script(tools / "gcc", "exit 0")
    release = script(nowhere.cache.server(NOMAD), "echo Nomad v1.11.3")
    monkeypatch.setattr(go_build, "find_go", lambda: a_go(tools, script, f"echo Nomad v1.11.3\\n# {MOCK}"))
    for_tests = replace(nowhere, require_mock_driver=True)

    built = binaries.find(NOMAD, for_tests, heard)

    assert built == nowhere.cache.server_for_tests(NOMAD)
    assert binaries.find(NOMAD, nowhere, heard) == release
    assert binaries.find(NOMAD, for_tests, heard) == built


def test_a_server_that_cannot_be_had_is_said_with_every_way_that_was_tried(
    nowhere: Wanted, tools: Path, heard: Heard, script: Script, monkeypatch: pytest.MonkeyPatch
):
    script(tools / "consul", "echo Consul v1.8.0")
    failing = script(tools / "failing-go", "echo 'no module mirror' >&2; exit 1")
    monkeypatch.setattr(go_build, "find_go", lambda: failing)

    with pytest.raises(ServerNotFound) as refused:
        binaries.find(CONSUL, nowhere, heard)

    for way in ("1.8.0", "cache:", "official release:", "build with Go: go build failed", "no module mirror"):
        assert way in refused.value.message


@pytest.mark.parametrize(
    ("environment", "root"),
    [
        ({CACHE_VARIABLE: "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/opencode-lifecycle"),
        ({}, f"{Path.home()}/.cache/opencode-lifecycle"),
    ],
)
def test_the_cache_lies_where_the_user_wants_it(environment: dict[str, str], root: str):
    place = Cache.of_this_user(environment).server(NOMAD)

    assert place == Path(root) / "nomad" / f"{NOMAD.version}-{this_platform()}" / "nomad"


def a_go(tools: Path, script: Script, program: str = "echo Consul v1.22.3") -> Path:
    """Return a Go that "builds" *program* into the file after -o."""
    return script(
        tools / "a-go",
        f"""while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\n{program}\\n' > "$2"
""",
    )
