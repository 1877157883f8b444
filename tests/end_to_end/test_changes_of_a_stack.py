"""
What stop, start, recreate, rotation and deletion keep and what they take away, with the real OpenCode.

Its start costs seconds of CPU, so the tests that leave a stack running all act on that of cleo, in any order.
"""

import json

import pytest

from end_to_end.conftest import NewService
from end_to_end.runtimes import Runtime
from end_to_end.servers import status_of
from end_to_end.service_process import ServiceProcess
from opencode_session import ask

pytestmark = [pytest.mark.servers, pytest.mark.opencode, pytest.mark.timeout(300, func_only=True)]


@pytest.fixture(scope="module")
def service(new_service: NewService, opencode_path, model, tmp_path_factory) -> ServiceProcess:
    managed = tmp_path_factory.mktemp("managed") / "opencode.json"
    managed.write_text(json.dumps(model.configuration("{env:MODEL_KEY}")))
    return new_service(
        opencode_path=opencode_path, managed_config_file=managed, secret_environment=["MODEL_KEY"]
    )


@pytest.fixture(scope="module")
def stubs(new_service: NewService) -> ServiceProcess:
    return new_service()


async def runtime_of(service: ServiceProcess, user: str) -> Runtime:
    return Runtime(await service.address(user), await service.password(user))


async def test_stop_and_start_keep_the_files_and_the_sessions(service, servers):
    await service.ensure("cleo")
    before = await runtime_of(service, "cleo")
    session = await before.run("echo kept > kept.txt && echo remember-this")

    stopped = await service.do("cleo", "stop")
    while_stopped = await servers.live(service.job_id("cleo"))
    refused = await service.call("GET", "/v1/stacks/cleo/address")
    started = await service.do("cleo", "start", seconds=180)

    assert (stopped["state"], started["state"]) == ("succeeded", "succeeded")
    assert while_stopped == []
    assert (refused.status, refused.body["code"]) == (409, "runtime-not-ready")
    after = await runtime_of(service, "cleo")
    assert await after.read("kept.txt") == "kept"
    assert session in await after.sessions()
    assert "remember-this" in await after.said(session)


async def test_recreate_replaces_the_allocation_and_takes_up_what_an_administrator_added_to_the_secret(
    service, servers, model
):
    first = await service.ensure("cleo")
    before = await runtime_of(service, "cleo")
    await before.run("echo kept > kept.txt")
    await servers.vault(
        f"kv/data/opencode/{first['job_id']}",
        "PATCH",
        {"data": {"env": {"MODEL_KEY": "key-of-cleo"}}},
        patch=True,
    )

    operation = await service.do("cleo", "recreate", seconds=180)

    assert operation["state"] == "succeeded", operation
    second = await service.stack("cleo")
    assert second["runtime"]["allocation_id"] != first["runtime"]["allocation_id"]
    assert len(await servers.live(first["job_id"])) == 1
    after = await runtime_of(service, "cleo")
    assert after.password == before.password
    assert await after.read("kept.txt") == "kept"
    assert (
        await ask(after.url, after.password, await after.directory(), "Whose key?") == "You said: Whose key?"
    )
    assert {each.authorization for each in model.requests if "Whose key?" in each.last_text} == {
        "Bearer key-of-cleo"
    }


async def test_after_a_rotation_the_new_password_works_and_the_old_one_is_refused(service, servers):
    before = await service.ensure("cleo")
    old = await service.password("cleo")

    operation = await service.do("cleo", "rotate-password", seconds=180)

    assert operation["state"] == "succeeded", operation
    after = await service.stack("cleo")
    url, new = await service.address("cleo"), await service.password("cleo")
    assert new != old
    assert await status_of(url, new) == 200
    assert await status_of(url, old) == 401
    assert (await servers.job(after["job_id"]))["Meta"]["secret_version"] == str(
        (await servers.secret_metadata(after["job_id"]))["current_version"]
    )
    assert after["runtime"]["allocation_id"] != before["runtime"]["allocation_id"]


async def test_deletion_leaves_nothing_and_says_so(service, servers):
    job_id = (await service.ensure("fred"))["job_id"]

    operation = await service.do("fred", "delete", workspace="delete")

    assert operation["state"] == "succeeded", operation
    assert {
        name: operation["receipt"][name] for name in ("job", "service", "secret", "variables", "workspace")
    } == {
        "job": "purged",
        "service": "deregistered",
        "secret": "destroyed",
        "variables": "deleted",
        "workspace": "deleted",
    }
    assert await servers.job(job_id) is None
    assert await servers.variables(job_id) == []
    assert await servers.volumes(job_id) == []
    assert await servers.instances(job_id) == []
    assert await servers.secret_metadata(job_id) is None
    assert (await service.call("GET", "/v1/stacks/fred")).status == 404


async def test_a_kept_workspace_is_taken_up_again_by_the_next_ensure(service, servers):
    job_id = (await service.ensure("gina"))["job_id"]
    await (await runtime_of(service, "gina")).run("echo kept > kept.txt")
    old_password = await service.password("gina")

    operation = await service.do("gina", "delete")
    left = await servers.volumes(job_id)
    secret = await servers.secret_metadata(job_id)
    await service.ensure("gina")

    assert operation["receipt"]["workspace"] == "kept"
    assert len(left) == 1
    assert secret is None
    again = await runtime_of(service, "gina")
    assert await again.read("kept.txt") == "kept"
    assert again.password != old_password
    assert [each["ID"] for each in await servers.volumes(job_id)] == [left[0]["ID"]]


async def test_a_kept_workspace_of_a_deleted_stack_can_be_deleted_afterwards(stubs, servers):
    job_id = (await stubs.ensure("hugo"))["job_id"]
    await stubs.do("hugo", "delete")

    operation = await stubs.do("hugo", "delete", workspace="delete")

    assert operation["receipt"]["workspace"] == "deleted"
    assert await servers.volumes(job_id) == []
    assert (await stubs.call("DELETE", "/v1/stacks/hugo", role="operator", workspace="delete")).status == 404
