"""Each way in which a start fails on the real servers, with its typed reason and the server's own account of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from end_to_end.conftest import NewService
from end_to_end.servers import Servers
from end_to_end.service_process import ServiceProcess, until
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
    return new_service(start_deadline=8, resource_classes=classes, resync_interval=1, observation_max_age=5)


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


async def published_addresses(service: ServiceProcess, user: str, found: list[str]) -> None:
    """Ask for the address over and over, as an eager backend would, and note every one that is given."""
    while True:
        answer = await service.call("GET", f"/v1/stacks/{user}/address")
        if answer.status == 200:
            found.append(answer.body["url"])
        await asyncio.sleep(0.02)


async def settled_allocations(servers: Servers, job_id: str) -> Sequence[str]:
    """Return the allocations there ever were, when none of them runs any more."""
    found = await until(
        lambda: servers.allocations(job_id),
        lambda all_of_it: all(each["ClientStatus"] == "complete" for each in all_of_it),
    )
    return sorted(each["ID"] for each in found)


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


async def test_a_server_that_never_gets_healthy_fails_with_never_healthy(service):
    service.program.behave("unhealthy")

    operation = await failure_of(service, "unhealthy")

    assert operation["reason"] == "never_healthy"
    assert operation["message"]


async def test_a_server_of_another_version_fails_with_wrong_version(service):
    service.program.behave("sound", "1.18.35")

    operation = await failure_of(service, "version")

    assert operation["reason"] == "wrong_version"
    assert "1.18.35" in operation["message"]
    assert "1.18.34" in operation["message"]


async def test_a_server_that_is_open_is_stopped_at_once_and_its_address_is_never_given_out(service, servers):
    service.program.behave("open")
    published: list[str] = []
    asking = asyncio.create_task(published_addresses(service, "open", published))

    operation = await failure_of(service, "open")

    job_id = service.job_id("open")
    assert operation["reason"] == "open_without_password"
    await until(lambda: servers.live(job_id), lambda live: not live, 20)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert published == []
    assert (await servers.job(job_id))["Stop"] is True
    credentials = await service.call("POST", "/v1/stacks/open/credentials")
    assert (credentials.status, credentials.body["code"]) == (409, "runtime-not-ready")


async def test_a_server_that_was_open_is_not_started_again_by_itself(service, servers):
    service.program.behave("open")
    await failure_of(service, "open")
    allocations = await settled_allocations(servers, service.job_id("open"))

    await asyncio.to_thread(service.restart)
    await service.ensure("capacity", {"resources": "small"})

    assert (await service.stack("open"))["phase"] == "failed"
    assert await settled_allocations(servers, service.job_id("open")) == allocations


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
