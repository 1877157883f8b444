"""serve and database upgrade: the settings they are given, and what they say of bad ones."""

import json
import sys
from types import ModuleType

import pytest

import opencode_lifecycle
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.model.errors import UpstreamUnavailable


@pytest.fixture
def application(monkeypatch):
    """Stand in for the application; `done` lists what it was asked for, `failure` is what it raises."""
    module = ModuleType("opencode_lifecycle.application")
    module.done, module.failure = [], None

    def recorded(what):
        async def do(settings):
            module.done.append((what, settings.installation))
            if module.failure is not None:
                raise module.failure

        return do

    module.serve, module.migrate = recorded("serve"), recorded("migrate")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(opencode_lifecycle, "application", module, raising=False)
    return module


def test_serve_runs_the_service_with_its_settings(cli, application, settings_file):
    assert cli("serve", "--settings", str(settings_file)).exit_code == ExitCode.OK
    assert application.done == [("serve", "tested")]


def test_every_problem_of_the_settings_stands_on_its_own_line(cli, application, settings_file):
    settings_file.write_text(settings_file.read_text() + 'listen_port = 99999\nworkers = 0\nnonsense = "x"\n')

    result = cli("serve", "--settings", str(settings_file))

    assert result.exit_code == ExitCode.USAGE
    assert result.stdout == ""
    assert sorted(line.partition(":")[0] for line in result.stderr.splitlines()) == [
        "listen_port",
        "nonsense",
        "workers",
    ]
    assert application.done == []


def test_settings_that_are_not_there_are_said(cli, application, tmp_path):
    result = cli("serve", "--settings", str(tmp_path / "gone.toml"))

    assert result.exit_code == ExitCode.USAGE
    assert "there is no such settings file" in result.stderr


def test_settings_that_are_no_toml_are_said_in_one_line(cli, application, settings_file):
    settings_file.write_text("installation = \n")

    result = cli("serve", "--settings", str(settings_file))

    assert result.exit_code == ExitCode.USAGE
    assert len(result.stderr.splitlines()) == 1
    assert str(settings_file) in result.stderr


def test_a_service_that_cannot_run_says_why(cli, application, settings_file):
    application.failure = UpstreamUnavailable("database", "open", "the disk is full")

    result = cli("serve", "--settings", str(settings_file))

    assert result.exit_code == ExitCode.FAILED
    assert result.stderr == "Error: serve failed: database: open: the disk is full (upstream-unavailable)\n"


def test_a_database_is_upgraded(cli, application, settings_file):
    result = cli("database", "upgrade", "--settings", str(settings_file), "--json")

    assert json.loads(result.stdout) == {"upgraded": True}
    assert application.done == [("migrate", "tested")]
