"""
Each way in which a start fails on the real servers, with its typed reason and the server's own account of it.

The faults F23 and F26 hold those of a server that is there and sick, or open.
"""

from pathlib import Path
from typing import Any

import pytest

from end_to_end.conftest import NewService
from end_to_end.service_process import ServiceProcess
from opencode_lifecycle.shipped import shipped

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180, func_only=True)]

IMPOSSIBLE_MIB = 1_000_000_000


@pytest.fixture(scope="module")
def impatient(new_service: NewService) -> ServiceProcess:
    """Give a service that gives up a start soon."""
    classes = {
        "small": {"cpu": 10, "memory": 32, "memory_max": 64},
        "huge": {"cpu": 10, "memory": IMPOSSIBLE_MIB, "memory_max": IMPOSSIBLE_MIB},
    }
    return new_service(start_deadline=15, resource_classes=classes, resync_interval=1, observation_max_age=5)


@pytest.fixture
def service(impatient: ServiceProcess) -> ServiceProcess:
    """Give the same, with a program that is sound until the test says otherwise."""
    impatient.program.behave("sound")
    return impatient


async def failure_of(service: ServiceProcess, user: str, body: object = None) -> dict[str, Any]:
    """Ensure the user's stack and return the operation, which must fail."""
    stack = await service.accept(user, body)
    operation = await service.outcome(stack["last_operation"], seconds=90)
    assert operation["state"] == "failed", operation
    return operation


async def test_a_resource_class_larger_than_any_node_fails_with_no_capacity_and_nomads_account(service):
    operation = await failure_of(service, "capacity", {"resources": "huge"})

    assert operation["reason"] == "no_capacity"
    assert "1 node without enough memory" in operation["message"]
    smaller = await service.ensure("capacity", {"resources": "small"})
    assert smaller["phase"] == "running"


async def test_a_program_that_cannot_be_started_fails_with_driver_failed(service):
    service.program.vanish()

    operation = await failure_of(service, "driver")

    assert operation["reason"] == "driver_failed"
    assert "127" in operation["message"]


async def test_a_server_of_another_version_fails_with_wrong_version(service):
    service.program.behave("sound", "1.18.35")

    operation = await failure_of(service, "version")

    assert operation["reason"] == "wrong_version"
    assert "1.18.35" in operation["message"]
    assert "1.18.34" in operation["message"]


async def test_a_waiting_ensure_comes_back_with_the_reason_as_soon_as_the_start_has_failed(service):
    service.program.behave("sound", "9.9.9")

    answer = await service.call("PUT", "/v1/stacks/waiting", {}, wait="60s")

    assert answer.status == 202
    assert answer.headers["Location"] == f"/v1/operations/{answer.body['last_operation']}"
    assert (answer.body["phase"], answer.body["reason"]) == ("failed", "wrong_version")


async def test_a_version_of_the_secret_that_is_gone_fails_with_secret_missing(
    new_service: NewService, tmp_path: Path
):
    shipped_template = shipped("nomad_jobs/opencode-raw-exec.nomad.hcl").read_text()
    template = tmp_path / "opencode.nomad.hcl"
    template.write_text(
        shipped_template.replace('${var.secret_version}" }}', '${var.secret_version + 41}" }}')
    )
    assert template.read_text() != shipped_template
    service = new_service(start_deadline=10, job_template=template)

    operation = await failure_of(service, "ada")

    assert operation["reason"] == "secret_missing"
    assert operation["message"]
