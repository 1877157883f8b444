"""Which versions of the servers are good."""

import pytest

from opencode_lifecycle.cluster.go_build import TOOLCHAIN
from opencode_lifecycle.cluster.pinned import CONSUL, NOMAD, PINNED, VAULT, PinnedServer, parse_version


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Nomad v1.11.3\nBuildDate 2026-03-11", (1, 11, 3)),
        ("Consul v1.22.3\nRevision", (1, 22, 3)),
        ("Vault v1.21.2, built 2026-01-06", (1, 21, 2)),
        ("Vault v1.20.4+ent, built", (1, 20, 4)),
        ("command not found", None),
        ("", None),
    ],
)
def test_a_version_is_read_from_what_the_program_says(said: str, version: tuple[int, int, int] | None):
    assert parse_version(said) == version


@pytest.mark.parametrize(
    ("server", "version", "good"),
    [
        (NOMAD, (1, 11, 3), True),
        (NOMAD, (1, 11, 2), False),
        (NOMAD, (1, 12, 0), True),
        (NOMAD, (2, 0, 0), False),
        (CONSUL, (1, 20, 9), False),
        (CONSUL, (1, 21, 0), True),
        (VAULT, (1, 19, 5), False),
        (VAULT, (1, 20, 0), True),
        (VAULT, (2, 0, 0), False),
    ],
)
def test_versions_are_accepted_from_the_lowest_up_to_the_next_major(
    *, server: PinnedServer, version: tuple[int, int, int], good: bool
):
    assert server.accepts(version) is good


@pytest.mark.parametrize("server", PINNED, ids=lambda server: server.name)
def test_the_pinned_version_is_accepted_and_is_the_one_that_is_built(server: PinnedServer):
    requirement = f"require {server.module} v{server.version}\n"

    assert server.accepts(parse_version(f"v{server.version}") or (0, 0, 0))
    assert requirement in (TOOLCHAIN / server.name / "go.mod").read_text()
    assert (TOOLCHAIN / server.name / "go.sum").is_file()
