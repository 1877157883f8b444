"""Many requests at once, and a service that ends while it is at them, asked to or not."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from end_to_end.conftest import NewService
from end_to_end.servers import Servers
from end_to_end.service_process import ServiceProcess, path_of, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300, func_only=True)]

RUNTIMES = 12
JOBS = 60

MOCK_TEMPLATE = """
variable "job_id" { type = string }
variable "namespace" { type = string }
variable "installation" { type = string }
variable "user_id" { type = string }
variable "image" { type = string }
variable "opencode_version" { type = string }
variable "template_digest" { type = string }
variable "environment_digest" { type = string }
variable "resources_digest" { type = string }
variable "secret_version" { type = number }
variable "revision" { type = string }

job "mock" {
  id          = var.job_id
  name        = var.job_id
  namespace   = var.namespace
  datacenters = ["*"]
  meta {
    image            = var.image
    opencode_version = var.opencode_version
    template         = var.template_digest
    environment      = var.environment_digest
    resources        = var.resources_digest
    secret_version   = "${var.secret_version}"
    revision         = var.revision
    user             = var.user_id
    installation     = var.installation
    managed_by       = "opencode-lifecycle"
  }
  update {
    max_parallel = 0
  }
  group "opencode" {
    task "server" {
      driver = "mock_driver"
      config {
        run_for = "1h"
      }
      logs {
        disabled = true
      }
      resources {
        cpu    = 1
        memory = 10
      }
    }
  }
}
"""
"""The facets of the real template around the mock driver, which starts in no time. Nothing of it listens."""


@pytest.fixture
def mock_template(tmp_path: Path) -> Path:
    template = tmp_path / "mock.nomad.hcl"
    template.write_text(MOCK_TEMPLATE)
    return template


async def ask_all(service: ServiceProcess, method: str, users: Sequence[str], **query: str) -> list[int]:
    """Send the request for all users at once; return the statuses, 0 where the connection broke."""
    async with service.client("operator" if method == "DELETE" else "backend") as client:

        async def ask(user: str) -> int:
            body = None if method == "DELETE" else {}
            try:
                async with client.request(method, path_of(user), json=body, params=query) as response:
                    await response.read()
                    return response.status
            except OSError:
                return 0

        return await asyncio.gather(*(ask(user) for user in users))


async def stacks(service: ServiceProcess) -> list[dict[str, Any]]:
    return (await service.call("GET", "/v1/stacks", limit="500")).body["items"]


def rows(service: ServiceProcess) -> list[str]:
    with sqlite3.connect(f"file:{service.directory / 'lifecycle.db'}?mode=ro", uri=True) as database:
        found = [user for (user,) in database.execute("SELECT user_id FROM user_stacks")]
    database.close()
    return found


async def is_singular(servers: Servers, job_id: str) -> bool:
    """Whether the job was registered once, placed once and has one password."""
    job, allocations = await servers.job(job_id), await servers.allocations(job_id)
    secret = await servers.secret_metadata(job_id)
    return job["Version"] == 0 and len(allocations) == 1 and secret["current_version"] == 1


async def test_a_thousand_ensures_at_once_make_one_job_one_password_and_one_row(
    new_service: NewService, servers
):
    service = new_service()

    statuses = await ask_all(service, "PUT", ["ada"] * 1000)

    assert set(statuses) <= {200, 202}
    assert len(statuses) == 1000
    stack = await service.ensure("ada")
    assert stack["generation"] == 1
    assert rows(service) == ["ada"]
    assert [each["ID"] for each in await servers.jobs(service.installation)] == [stack["job_id"]]
    assert await is_singular(servers, stack["job_id"])


async def test_an_end_in_the_middle_of_many_starts_is_made_good_by_the_next_start(
    new_service: NewService, servers
):
    service = new_service()
    users = [f"user-{number}" for number in range(RUNTIMES)]
    await service.ensure("stays")

    accepted = await ask_all(service, "PUT", users)
    code = await asyncio.to_thread(service.stop)
    await asyncio.to_thread(service.start)
    await until(lambda: stacks(service), lambda found: any(each["phase"] == "starting" for each in found))
    await asyncio.to_thread(service.kill)
    await asyncio.to_thread(service.start)
    await until(lambda: stacks(service), lambda found: all(each["phase"] == "running" for each in found), 120)

    assert code == 0
    assert accepted == [202] * RUNTIMES
    assert sorted(rows(service)) == sorted([*users, "stays"])
    assert len(await servers.jobs(service.installation)) == RUNTIMES + 1
    for user in [*users, "stays"]:
        assert await is_singular(servers, service.job_id(user)), user


async def test_an_ensure_that_waits_is_answered_when_the_service_is_told_to_end(new_service: NewService):
    service = new_service(manner="unhealthy")
    waiting = asyncio.create_task(service.call("PUT", path_of("ada"), {}, wait="60s"))
    await until(lambda: stacks(service), bool)

    code = await asyncio.to_thread(service.stop)
    answer = await asyncio.wait_for(waiting, 10)

    assert code == 0
    assert answer.status == 202
    assert answer.body["phase"] in {"pending", "starting"}


async def test_killed_again_and_again_it_registers_every_job_once(
    new_service: NewService, servers, mock_template
):
    service = new_service(job_template=mock_template, start_deadline=600)
    users = [f"user-{number}" for number in range(JOBS)]
    asked: dict[str, int] = {}

    async def registered() -> int:
        return len(await servers.jobs(service.installation))

    for goal in (1, JOBS // 3, JOBS):
        missing = [user for user in users if asked.get(user, 0) != 202]
        asking = asyncio.create_task(ask_all(service, "PUT", missing))
        await until(registered, lambda count, goal=goal: count >= goal, 120)
        await asyncio.to_thread(service.kill)
        asked.update(zip(missing, await asking, strict=True))
        await asyncio.to_thread(service.start)
    await ask_all(service, "PUT", users)
    await until(
        lambda: stacks(service),
        lambda found: len(found) == JOBS and all(each["phase"] == "starting" for each in found),
        120,
    )

    jobs = await servers.jobs(service.installation)
    assert len(jobs) == JOBS
    for job in jobs:
        assert (await servers.job(job["ID"]))["Version"] == 0
        assert len(await servers.allocations(job["ID"])) == 1


async def test_killed_in_the_middle_of_many_deletions_it_finishes_them(
    new_service: NewService, servers, mock_template
):
    service = new_service(job_template=mock_template, start_deadline=600)
    users = [f"user-{number}" for number in range(JOBS)]
    await ask_all(service, "PUT", users)
    await until(lambda: servers.jobs(service.installation), lambda jobs: len(jobs) == JOBS, 120)

    statuses = await ask_all(service, "DELETE", users)
    await asyncio.to_thread(service.kill)
    left = len(rows(service))
    await asyncio.to_thread(service.start)
    await until(lambda: stacks(service), lambda found: not found, 120)

    assert statuses == [202] * JOBS
    assert left > 0, "all was deleted before the kill, so it showed nothing"
    assert await servers.jobs(service.installation) == []


async def test_what_was_accepted_last_before_the_kill_is_what_comes_about(new_service: NewService, servers):
    """Each stack is told two things in a row; the service dies before it has done either."""
    service = new_service()
    for user in (
        "stopped-then-started",
        "started-then-stopped",
        "deleted-then-ensured",
        "ensured-then-deleted",
    ):
        await service.ensure(user)

    async def post(user: str, verb: str) -> None:
        answer = await service.call("POST", f"{path_of(user)}/{verb}", role="operator")
        assert answer.status == 202, answer.body

    async def delete(user: str) -> None:
        assert (await service.call("DELETE", path_of(user), role="operator")).status == 202

    await post("stopped-then-started", "stop")
    await post("stopped-then-started", "start")
    await post("started-then-stopped", "recreate")
    await post("started-then-stopped", "stop")
    await delete("deleted-then-ensured")
    await service.accept("deleted-then-ensured")
    await post("ensured-then-deleted", "recreate")
    await delete("ensured-then-deleted")
    await asyncio.to_thread(service.kill)
    await asyncio.to_thread(service.start)

    def settled(found: list[dict[str, Any]]) -> bool:
        phases = {
            each["user_id"]: (each["phase"], each["observed_generation"] == each["generation"])
            for each in found
        }
        return phases == {
            "stopped-then-started": ("running", True),
            "started-then-stopped": ("stopped", True),
            "deleted-then-ensured": ("running", True),
        }

    await until(lambda: stacks(service), settled, 120)
    assert len(await servers.live(service.job_id("stopped-then-started"))) == 1
    assert len(await servers.live(service.job_id("deleted-then-ensured"))) == 1
    assert await servers.live(service.job_id("started-then-stopped")) == []
    assert await servers.job(service.job_id("ensured-then-deleted")) is None
