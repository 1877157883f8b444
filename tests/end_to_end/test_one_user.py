"""One user's OpenCode, the real one, from an ensure to an answered prompt, and what every vendor's tool shows of it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from end_to_end.conftest import NewService
from end_to_end.runtimes import Runtime
from end_to_end.servers import status_of
from end_to_end.service_process import ServiceProcess, apart, until
from fakes.model_server import ModelServer
from opencode_session import ask

pytestmark = [pytest.mark.servers, pytest.mark.opencode, pytest.mark.timeout(300, func_only=True)]

FACETS = {
    "image", "opencode_version", "template", "environment", "resources", "secret_version", "revision",
    "user", "installation", "managed_by",
}  # fmt: skip
LABELS = {"team": "blue", "plan": "gold"}


@pytest.fixture(scope="module")
def service(
    new_service: NewService, opencode_path: Path, model: ModelServer, tmp_path_factory
) -> Iterator[ServiceProcess]:
    managed = tmp_path_factory.mktemp("managed") / "opencode.json"
    managed.write_text(json.dumps(model.configuration()))
    return new_service(opencode_path=opencode_path, managed_config_file=managed)


@pytest.fixture(scope="module")
def ada(service: ServiceProcess) -> dict[str, Any]:
    """Give ada's running stack. Tests of this module look at it and do not change it."""
    return apart(service.ensure("ada", {"labels": LABELS}))


@pytest.fixture(scope="module")
def bob(service: ServiceProcess) -> dict[str, Any]:
    return apart(service.ensure("bob"))


async def test_an_ensure_ends_with_a_runtime_that_is_healthy_and_of_the_version_asked_for(ada):
    assert (ada["desired"], ada["phase"], ada["health"]) == ("running", "running", "healthy")
    assert ada["generation"] == ada["observed_generation"] == 1
    assert ada["migration_state"] == "current"
    assert ada["staleness"] == []
    assert ada["runtime"]["opencode_version"] == "1.18.34"


async def test_its_address_takes_the_credentials_and_refuses_everyone_else(service, ada):
    url, password = await service.address("ada"), await service.password("ada")

    assert await status_of(url, password) == 200
    assert await status_of(url) == 401
    assert await status_of(url, "") == 401
    assert await status_of(url, password[:-1]) == 401


async def test_nomad_consul_and_the_service_name_the_same_address(service, servers, ada):
    [allocation] = await servers.live(ada["job_id"])
    full = await servers.nomad(f"/v1/allocation/{allocation['ID']}")
    [port] = [each for each in full["AllocatedResources"]["Shared"]["Ports"] if each["Label"] == "http"]
    [instance] = await servers.instances(ada["job_id"])

    of_nomad = f"http://{port['HostIP']}:{port['Value']}"
    of_consul = f"http://{instance['Service']['Address']}:{instance['Service']['Port']}"

    assert await service.address("ada") == of_nomad == of_consul
    assert ada["runtime"]["allocation_id"] == allocation["ID"]


async def test_a_session_of_it_answers_a_prompt(service, ada):
    runtime = Runtime(await service.address("ada"), await service.password("ada"))

    answer = await ask(runtime.url, runtime.password, await runtime.directory(), "Are you there?")

    assert answer == "You said: Are you there?"


async def test_a_second_ensure_changes_nothing(service, servers, ada):
    again = await service.ensure("ada")

    assert again["generation"] == 1
    assert again["last_operation"] == ada["last_operation"]
    assert again["runtime"]["allocation_id"] == ada["runtime"]["allocation_id"]
    assert (await servers.job(ada["job_id"]))["Version"] == 0


async def test_the_job_tells_an_operator_whose_it_is_and_why_it_would_restart(service, servers, ada):
    job = await servers.job(ada["job_id"])

    assert job["ID"] == job["Name"] == service.job_id("ada")
    assert re.fullmatch(r"oc-ada-[a-z2-7]{20}", job["ID"])
    assert set(job["Meta"]) == FACETS
    assert job["Meta"]["user"] == "ada"
    assert job["Meta"]["installation"] == service.installation
    assert job["Meta"]["managed_by"] == "opencode-lifecycle"
    assert job["Meta"]["opencode_version"] == "1.18.34"
    assert job["Meta"]["secret_version"] == "1"
    assert job["Meta"]["revision"] == ada["runtime"]["revision"]


async def test_the_submission_of_the_job_can_be_read_in_the_web_interface(servers, ada):
    submission = await servers.nomad(f"/v1/job/{ada['job_id']}/submission", version="0")

    assert 'variable "user_id"' in submission["Source"]
    assert json.loads(submission["Variables"])["user_id"] == "ada"


async def test_consul_service_meta_carries_the_labels_and_the_owner(service, servers, ada):
    [instance] = await servers.instances(ada["job_id"])

    meta = instance["Service"]["Meta"]
    assert {name: meta[name] for name in LABELS} == LABELS
    assert meta["installation"] == service.installation
    assert meta["managed_by"] == "opencode-lifecycle"
    assert ada["runtime"]["labels"] == LABELS


async def test_a_changed_label_reaches_consul_without_a_restart(service, servers, bob):
    changed = await service.call("PUT", "/v1/stacks/bob", {"labels": {"team": "red"}}, wait="20s")

    assert changed.status in {200, 202}
    stack = await service.until_stack(
        "bob", lambda found: found["observed_generation"] == found["generation"]
    )
    assert stack["runtime"]["allocation_id"] == bob["runtime"]["allocation_id"]
    await until(
        lambda: servers.instances(bob["job_id"]),
        lambda instances: [each["Service"]["Meta"].get("team") for each in instances] == ["red"],
        20,
    )


async def test_nothing_of_the_job_holds_the_password(service, servers, ada):
    password = await service.password("ada")
    [allocation] = await servers.live(ada["job_id"])

    shown = [
        await servers.job(ada["job_id"]),
        await servers.nomad(f"/v1/job/{ada['job_id']}/submission", version="0"),
        await servers.nomad(f"/v1/job/{ada['job_id']}/evaluations"),
        await servers.nomad(f"/v1/allocation/{allocation['ID']}"),
        await servers.instances(ada["job_id"]),
    ]

    assert password not in json.dumps(shown)


async def test_the_runtime_is_given_its_password_and_no_token_of_any_server(service, ada):
    runtime = Runtime(await service.address("ada"), await service.password("ada"))

    await runtime.run("env | cut -d= -f1 > names.txt")

    names = (await runtime.read("names.txt")).split()
    assert "OPENCODE_SERVER_PASSWORD" in names
    assert not {"VAULT_TOKEN", "NOMAD_TOKEN", "CONSUL_HTTP_TOKEN", "CONSUL_TOKEN"} & set(names)


async def test_two_users_share_neither_job_nor_password_nor_workspace(service, servers, ada, bob):
    passwords = {user: await service.password(user) for user in ("ada", "bob")}
    [volume_of_ada], [volume_of_bob] = [await servers.volumes(each["job_id"]) for each in (ada, bob)]

    assert ada["job_id"] != bob["job_id"]
    assert passwords["ada"] != passwords["bob"]
    assert volume_of_ada["ID"] != volume_of_bob["ID"]
    assert await status_of(await service.address("ada"), passwords["bob"]) == 401
    assert await status_of(await service.address("bob"), passwords["ada"]) == 401


async def test_a_file_of_one_user_is_not_in_the_workspace_of_another(service, ada, bob):
    adas, bobs = [
        Runtime(await service.address(user), await service.password(user)) for user in ("ada", "bob")
    ]

    await adas.run("echo hers > mine.txt")

    assert await adas.read("mine.txt") == "hers"
    assert await bobs.read("mine.txt") is None
