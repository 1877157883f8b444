"""The doctor: what it checks, the code of each failure, and what it says to do."""

import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from fakes.lifecycle_service import TOKEN, items, readiness
from opencode_lifecycle.cli.exit_codes import ExitCode

NOBODY = "GET /v1/stacks/doctor-asks-for-nobody/address"


@pytest.fixture(autouse=True)
def programs(tmp_path, monkeypatch):
    """Put programs of good versions on PATH, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def install(name, says):
        file = folder / name
        file.write_text(f"#!/bin/sh\necho '{says}'\n")
        file.chmod(0o700)
        return file

    install("nomad", "Nomad v1.11.3")
    install("consul", "Consul v1.22.3")
    install("vault", "Vault v1.21.2 (0123456789abcdef)")
    monkeypatch.setenv("PATH", str(folder))
    return install


@pytest.fixture
def ready(service):
    """A service that is ready and takes the token for an operator's."""
    service.answers("GET /readyz", readiness())
    service.answers("GET /v1/stacks", items())
    service.answers("GET /v1/tokens", items())
    service.refuses(NOBODY, 404, "stack-not-found")
    return service


@pytest.fixture
def examine(run):
    """Run the doctor and return its exit code and its findings by check."""

    def checked(*arguments):
        result = run("doctor", "--json", *arguments)
        report = json.loads(result.stdout)
        assert report["ok"] is (result.exit_code == ExitCode.OK)
        return result.exit_code, {check["check"]: check for check in report["checks"]}

    return checked


def test_when_all_is_well_the_doctor_says_so(ready, examine):
    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert {check["level"] for check in checks.values()} == {"ok"}
    assert {
        "service",
        "service: nomad",
        "service: vault",
        "token",
        "clock",
        "nomad",
        "consul",
        "vault",
    } <= set(checks)


def test_people_get_a_table_and_never_the_token(ready, run):
    result = run("doctor")

    assert result.stdout.splitlines()[0].split()[:3] == ["CHECK", "RESULT", "CODE"]
    assert TOKEN not in result.output


@pytest.mark.parametrize(
    ("statuses", "role"),
    [
        ((200, 200, 404), "operator"),
        ((200, 403, 404), "backend"),
        ((200, 403, 403), "auditor"),
        ((403, 403, 404), "user"),
    ],
)
def test_the_role_of_the_token_is_told(service, examine, statuses, role):
    service.answers("GET /readyz", readiness())
    for call, status in zip(("GET /v1/stacks", "GET /v1/tokens", NOBODY), statuses, strict=True):
        if status == 200:
            service.answers(call, items())
        else:
            service.refuses(call, status, "forbidden" if status == 403 else "stack-not-found")

    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert checks["token"]["detail"] == f"valid, role {role}"


def test_a_token_that_is_not_known_is_a_failure(ready, examine, tmp_path):
    other = tmp_path / "other"
    other.write_text("olt_unknown")

    exit_code, checks = examine("--token-file", str(other))

    assert exit_code == ExitCode.FAILED
    assert checks["token"]["code"] == "token-refused"


def test_no_token_is_a_failure(ready, cli):
    result = cli("--url", ready.url, "doctor", "--json")

    [check] = [check for check in json.loads(result.stdout)["checks"] if check["level"] == "failed"]
    assert check["code"] == "token-missing"
    assert "--token-file" in check["advice"]


def test_a_token_file_that_cannot_be_read_is_a_failure(ready, examine, tmp_path):
    assert examine("--token-file", str(tmp_path / "gone"))[1]["token"]["code"] == "token-unreadable"


def test_a_token_file_that_others_can_read_is_a_warning(ready, examine, token_file):
    token_file.chmod(0o644)

    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert checks["token file"]["code"] == "token-file-open"


def test_a_service_that_is_not_there_is_a_failure(examine):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    exit_code, checks = examine("--url", f"http://127.0.0.1:{port}")

    assert exit_code == ExitCode.FAILED
    assert checks["service"]["code"] == "service-unreachable"
    assert "opencode-lifecycle serve" in checks["service"]["advice"]


def test_a_dependency_that_is_away_is_named(service, examine):
    service.answers("GET /readyz", readiness("vault"), status=503)
    service.answers("GET /v1/stacks", items())
    service.answers("GET /v1/tokens", items())
    service.refuses(NOBODY, 404, "stack-not-found")

    exit_code, checks = examine()

    assert exit_code == ExitCode.FAILED
    assert (checks["service: vault"]["code"], checks["service: vault"]["detail"]) == (
        "dependency-not-ready",
        "sealed",
    )
    assert checks["service: nomad"]["level"] == "ok"


def test_a_service_that_is_not_ready_for_no_given_reason_is_a_failure(ready, examine):
    ready.answers("GET /readyz", {"status": "not ready", "dependencies": []}, status=503)
    ready.answers("GET /readyz", {"status": "not ready", "dependencies": []}, status=503)
    examine()

    assert examine()[0] == ExitCode.FAILED


@pytest.mark.parametrize("minutes", [-2, 2])
def test_clocks_that_disagree_are_a_failure(service, examine, minutes):
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    service.answers("GET /readyz", readiness(), Date=date)
    service.answers("GET /v1/stacks", items())
    service.answers("GET /v1/tokens", items())
    service.refuses(NOBODY, 404, "stack-not-found")

    exit_code, checks = examine()

    assert exit_code == ExitCode.FAILED
    assert checks["clock"]["code"] == "clock-skew"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (("nomad", "Nomad v1.11.2"), "nomad-unsupported"),
        (("consul", "Consul v2.0.0"), "consul-unsupported"),
        (("vault", "segmentation fault"), "vault-broken"),
    ],
)
def test_a_program_that_will_not_do_is_a_failure(ready, examine, programs, program, code):
    name, says = program
    programs(name, says)

    exit_code, checks = examine()

    assert exit_code == ExitCode.FAILED
    assert checks[name]["code"] == code
    assert f"install {name} >=" in checks[name]["advice"]


def test_a_program_that_is_missing_is_a_warning(ready, examine, programs):
    programs("nomad", "").unlink()

    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert (checks["nomad"]["level"], checks["nomad"]["code"]) == ("warning", "nomad-missing")


def test_settings_are_checked_when_they_are_given(ready, examine, settings_file):
    assert examine("--settings", str(settings_file))[1]["settings"]["level"] == "ok"


def test_settings_that_are_wrong_are_a_failure(ready, examine, settings_file):
    settings_file.write_text(settings_file.read_text() + "workers = 0\n")

    exit_code, checks = examine("--settings", str(settings_file))

    assert exit_code == ExitCode.FAILED
    assert checks["settings"]["code"] == "settings-invalid"
    assert "workers" in checks["settings"]["detail"]
