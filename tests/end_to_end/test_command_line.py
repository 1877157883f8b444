"""Our command line against the real service on real servers: what it prints, and what its exit code says."""

import json

import pytest

from end_to_end.conftest import NewService
from end_to_end.service_process import ServiceProcess, apart

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120, func_only=True)]

OK, FAILED, USAGE, UNREACHABLE, NOT_ALLOWED, NOT_FOUND, NOT_IN_TIME = range(7)


@pytest.fixture(scope="module")
def service(new_service: NewService) -> ServiceProcess:
    return new_service()


@pytest.fixture(scope="module")
def ada(service: ServiceProcess) -> ServiceProcess:
    """Give the service with a running stack of ada, which tests look at and do not change."""
    apart(service.ensure("ada", {"labels": {"team": "blue"}}))
    return service


def test_ensure_waits_until_the_runtime_is_ready(service):
    done = service.command("ensure", "eve", "--wait", "60s", role="backend")

    assert done.returncode == OK, done.stderr
    assert "running" in done.stdout
    assert service.command("address", "eve").stdout.startswith("http://127.0.0.1:")


def test_show_names_the_commands_of_the_vendors_tools_and_no_password(ada):
    shown = ada.command("show", "ada")
    password = json.loads(ada.command("credentials", "ada", "--json", role="backend").stdout)["password"]

    job_id = ada.job_id("ada")
    assert shown.returncode == OK
    assert f"nomad job status -namespace=opencode {job_id}" in " ".join(shown.stdout.split())
    assert "consul" in shown.stdout
    assert "vault" in shown.stdout
    assert password not in shown.stdout + shown.stderr


def test_list_prints_the_services_json(ada):
    listed = ada.command("list", "--json", "--label", "team=blue")

    assert listed.returncode == OK
    [stack] = json.loads(listed.stdout)["items"]
    assert (stack["user_id"], stack["phase"]) == ("ada", "running")


def test_logs_prints_what_the_runtime_wrote(ada):
    printed = ada.command("logs", "ada", "--tail", "10")

    assert printed.returncode == OK, printed.stderr
    assert "listening on http://127.0.0.1:" in printed.stdout


def test_stop_waits_until_nothing_runs_and_address_then_says_not_ready(service):
    service.command("ensure", "sam", role="backend")

    stopped = service.command("stop", "sam")

    assert stopped.returncode == OK, stopped.stderr
    assert service.command("address", "sam").returncode == NOT_IN_TIME


def test_delete_shows_the_receipt(service):
    service.command("ensure", "dan", role="backend")

    deleted = service.command("delete", "dan", "--workspace", "delete", "--yes")

    assert deleted.returncode == OK, deleted.stderr
    assert "purged" in deleted.stdout
    assert "destroyed" in deleted.stdout
    assert service.command("show", "dan").returncode == NOT_FOUND


def test_the_exit_code_of_a_failed_start_says_so_and_the_reason_is_told(new_service: NewService):
    service = new_service(version="1.18.35")

    done = service.command("ensure", "ada", "--wait", "60s", role="backend")

    assert done.returncode == FAILED
    assert "wrong_version" in done.stderr


def test_a_role_that_may_not_is_told_so(ada):
    assert ada.command("stop", "ada", role="auditor").returncode == NOT_ALLOWED


def test_a_service_that_is_not_there_cannot_be_reached(ada):
    assert ada.command("--url", "http://127.0.0.1:9", "show", "ada").returncode == UNREACHABLE
