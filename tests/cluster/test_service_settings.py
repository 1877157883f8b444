"""The files that `up` writes for the service and for people's shells."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from opencode_lifecycle.cluster.layout import Layout, write_private
from opencode_lifecycle.cluster.port_choice import CUSTOMARY
from opencode_lifecycle.cluster.record import Record
from opencode_lifecycle.cluster.service_settings import write_environment, write_settings
from opencode_lifecycle.settings import at_version, load


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "a place with spaces" / "$HOME")
    layout.root.parent.mkdir()
    layout.prepare()
    for server in ("consul", "vault", "nomad"):
        write_private(layout.token(server), "a-token\n")
        write_private(layout.folder(server) / "operator.token", f"{server}'s token\n")
    return layout


@pytest.fixture
def record(tmp_path: Path) -> Record:
    opencode = tmp_path / "1.18.34" / "opencode"
    opencode.parent.mkdir()
    opencode.touch()
    return Record(
        id="x",
        ports=CUSTOMARY,
        dynamic_ports=(20000, 25999),
        programs={"opencode": str(opencode), "nomad": "/cache/it's/nomad"},
        opencode_version="1.18.34",
    )


def test_the_service_accepts_the_settings_that_are_written_for_it(layout: Layout, record: Record):
    write_settings(layout, record)

    settings = load(layout.settings, environment={})

    assert settings.driver == "raw_exec"
    assert settings.nomad_address == "http://127.0.0.1:4646"
    assert settings.vault_token_file == layout.token("vault")
    assert settings.listen_port == 8700


def test_a_release_may_be_of_any_version_that_lies_in_the_cache(layout: Layout, record: Record):
    write_settings(layout, record)

    settings = load(layout.settings, environment={})

    path = Path(record.programs["opencode"])
    assert settings.opencode_path == path.parent.parent / "{version}" / "opencode"
    assert at_version(settings.opencode_path, "1.18.34") == path


def test_a_program_that_lies_elsewhere_is_named_as_it_is(layout: Layout, record: Record):
    elsewhere = replace(record, opencode_version="1.18.33")

    write_settings(layout, elsewhere)

    assert str(record.programs["opencode"]) in layout.settings.read_text()


def test_what_people_add_below_the_line_is_kept_and_what_stands_above_is_renewed(
    layout: Layout, record: Record
):
    write_settings(layout, record)
    text = layout.settings.read_text().replace("8700", "1")
    layout.settings.write_text(f'{text}allowed_environment = ["EDITOR"]\n')

    write_settings(layout, record)

    settings = load(layout.settings, environment={})
    assert settings.allowed_environment == ("EDITOR",)
    assert settings.listen_port == 8700


def test_a_shell_reads_the_environment_file_whatever_the_directory_is_called(layout: Layout, record: Record):
    write_environment(layout, record)

    said = shell(layout)

    assert said("NOMAD_ADDR") == "http://127.0.0.1:4646"
    assert said("NOMAD_NAMESPACE") == "opencode"
    assert said("NOMAD_TOKEN") == "nomad's token"
    assert said("CONSUL_HTTP_ADDR") == "http://127.0.0.1:8500"
    assert said("CONSUL_HTTP_TOKEN") == "consul's token"
    assert said("VAULT_ADDR") == "http://127.0.0.1:8200"
    assert said("VAULT_TOKEN") == "vault's token"
    assert said("OPENCODE_LIFECYCLE_URL") == "http://127.0.0.1:8700"
    assert said("OPENCODE_LIFECYCLE_TOKEN_FILE") == str(layout.tokens / "operator")
    assert "/cache/it's" in said("PATH").split(":")


def test_neither_file_holds_a_token(layout: Layout, record: Record):
    write_settings(layout, record)
    write_environment(layout, record)

    for file in (layout.settings, layout.environment):
        assert "token\n" not in file.read_text().replace("operator.token", "")
        assert file.stat().st_mode & 0o777 == 0o600


def shell(layout: Layout) -> Callable[[str], str]:
    def said(name: str) -> str:
        return subprocess.run(
            ["/bin/sh", "-c", f'. "$0" && printf %s "${name}"', str(layout.environment)],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": "/bin:/usr/bin"},
        ).stdout

    return said
