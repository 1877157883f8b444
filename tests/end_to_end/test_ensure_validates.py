"""
What a row says is worth nothing by itself: it is held against what runs before a stack is called ready.

Each runtime is damaged while the service is down, so that nothing can have told it, and the first thing that its next life
is asked is one ensure. The answer to that very call is the one that counts.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from end_to_end.behind_its_back import change_password, edit, replace_by_foreign, stop, take_away
from end_to_end.conftest import NewService
from end_to_end.runtimes import signal_runtime
from end_to_end.servers import Servers, both, status_of
from end_to_end.service_process import STUB_VERSION, Answer, ServiceProcess, path_of, until
from end_to_end.templates import NOT_RESTARTED, changed_template

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180, func_only=True)]

ANOTHER_VERSION = "1.18.35"


@pytest.fixture(scope="module")
def shared(new_service: NewService, tmp_path_factory: pytest.TempPathFactory) -> ServiceProcess:
    """Give a service that puts right at once what differs, with a template whose tasks are not restarted in place."""
    template = changed_template(tmp_path_factory.mktemp("template"), NOT_RESTARTED)
    return new_service(
        job_template=template,
        resync_interval=1,
        observation_max_age=5,
        liveness_interval=1,
        secret_sweep_interval=1,
        when_stale="now",
    )


@pytest.fixture
def service(shared: ServiceProcess) -> ServiceProcess:
    """Give the same, running, with a program that is sound until the test says otherwise."""
    shared.program.behave("sound")
    if shared.process is None:
        shared.start()
    return shared


async def kill_task(servers: Servers, job_id: str) -> None:
    """End the task so that Nomad does not restart it, and its allocation with it."""
    [allocation] = await servers.live(job_id)
    [port] = (await servers.nomad(f"/v1/allocation/{allocation['ID']}"))["AllocatedResources"]["Shared"][
        "Ports"
    ]
    signal_runtime(f"http://127.0.0.1:{port['Value']}", signal.SIGKILL)
    await until(
        lambda: servers.nomad(f"/v1/allocation/{allocation['ID']}"),
        lambda found: found["ClientStatus"] == "failed",
    )


async def ensured_once(service: ServiceProcess, user: str) -> Answer:
    """Ask one time, and not again."""
    return await service.call("PUT", path_of(user), {}, wait="60s")


async def is_proven(
    service: ServiceProcess, servers: Servers, stack: dict[str, Any], *, version: str = STUB_VERSION
) -> None:
    """Hold that what was called ready is the one allocation of it that runs, and lets in who has its password alone."""
    user = stack["user_id"]
    url, password = await service.address(user), await service.password(user)

    assert (stack["phase"], stack["health"]) == ("running", "healthy")
    assert [each["ID"] for each in await servers.live(stack["job_id"])] == [stack["runtime"]["allocation_id"]]
    assert stack["runtime"]["addresses"]["internal"] == url
    assert stack["runtime"]["opencode_version"] == version
    assert await both(status_of(url, password), status_of(url)) == [200, 401]


@pytest.mark.parametrize("damage", [take_away, stop, kill_task, edit])
async def test_an_ensure_is_answered_with_a_new_proven_runtime_where_the_one_of_the_row_is_gone(
    service: ServiceProcess, servers: Servers, damage: Callable[[Servers, str], Awaitable[None]]
):
    user = damage.__name__
    before = await service.ensure(user)

    await asyncio.to_thread(service.kill)
    await damage(servers, before["job_id"])
    await asyncio.to_thread(service.start)
    answer = await ensured_once(service, user)

    assert answer.status == 200, answer.body
    assert is_other(answer.body, before)
    assert answer.body["staleness"] == []
    await is_proven(service, servers, answer.body)
    job = await servers.job(before["job_id"])
    assert "EDITED" not in (job["TaskGroups"][0]["Tasks"][0]["Env"] or {})


async def test_an_ensure_of_a_stack_whose_job_was_replaced_by_a_foreign_one_is_refused_and_touches_nothing(
    service: ServiceProcess, servers: Servers
):
    before = await service.ensure("foreign")

    await asyncio.to_thread(service.kill)
    await replace_by_foreign(servers, before["job_id"])
    foreign = await servers.job(before["job_id"])
    await asyncio.to_thread(service.start)
    answer = await ensured_once(service, "foreign")

    assert answer.status == 202
    assert (answer.body["phase"], answer.body["reason"]) == ("failed", "foreign_job")
    assert answer.body["runtime"] is None
    assert (await servers.job(before["job_id"]))["JobModifyIndex"] == foreign["JobModifyIndex"]
    assert len(await servers.live(before["job_id"])) == 1


async def test_an_ensure_of_a_stack_that_runs_another_version_than_wanted_says_which_and_publishes_it_not(
    service: ServiceProcess, servers: Servers
):
    before = await service.ensure("version")

    await asyncio.to_thread(service.kill)
    service.program.behave("sound", ANOTHER_VERSION)
    await kill_task(servers, before["job_id"])
    await asyncio.to_thread(service.start)
    answer = await ensured_once(service, "version")
    address = await service.call("GET", f"{path_of('version')}/address")
    service.program.behave("sound")
    again = await ensured_once(service, "version")

    assert answer.status == 202
    assert (answer.body["phase"], answer.body["reason"]) == ("failed", "wrong_version")
    assert ANOTHER_VERSION in answer.body["message"]
    assert STUB_VERSION in answer.body["message"]
    assert (address.status, address.body["code"]) == (409, "runtime-not-ready")
    assert again.status == 200, again.body
    await is_proven(service, servers, again.body)


async def test_an_ensure_of_a_stack_whose_password_was_changed_is_answered_with_a_runtime_that_takes_the_new_one(
    service: ServiceProcess, servers: Servers
):
    before = await service.ensure("password")
    old, new = await service.password("password"), f"changed-{uuid4().hex}"

    await asyncio.to_thread(service.kill)
    await change_password(servers, before["job_id"], new)
    await asyncio.to_thread(service.start)
    # Until its version was looked at in Vault, what runs is as good as it was: it takes the password that is given out.
    await service.until_stack(
        "password", lambda stack: stack["phase"] != "running" or is_other(stack, before)
    )
    answer = await ensured_once(service, "password")

    assert answer.status == 200, answer.body
    assert is_other(answer.body, before)
    await is_proven(service, servers, answer.body)
    assert await service.password("password") == new
    assert await status_of(await service.address("password"), old) == 401


async def test_an_ensure_of_a_stack_of_which_another_version_is_wanted_is_answered_with_that(
    service: ServiceProcess, servers: Servers
):
    before = await service.ensure("wanted")
    service.program.behave("sound", ANOTHER_VERSION)
    wanted = {"opencode_version": ANOTHER_VERSION}
    release = await service.call("POST", "/v1/releases", wanted, role="operator")
    assert release.status == 201, release.body

    pinned = await service.call(
        "PUT", f"{path_of('wanted')}/pin", {"release": release.body["id"]}, role="operator"
    )
    answer = await ensured_once(service, "wanted")

    assert pinned.status == 202, pinned.body
    assert answer.status == 200, answer.body
    assert is_other(answer.body, before)
    await is_proven(service, servers, answer.body, version=ANOTHER_VERSION)


def is_other(stack: dict[str, Any], before: dict[str, Any]) -> bool:
    runtime = stack["runtime"]
    return runtime is not None and runtime["allocation_id"] != before["runtime"]["allocation_id"]
