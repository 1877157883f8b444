"""How a secret says whose it is, and how all of them are found, whatever Vault or its administrators make of it."""

import json
import uuid
from collections.abc import AsyncIterator

import pytest

from hostile_server import HostileServer, Misbehaviour, hostile_server, reply
from opencode_lifecycle.adapters.blocking import BlockingCalls
from opencode_lifecycle.adapters.vault.password_store import VaultPasswordStore
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import SecretMissing, UpstreamNonsense, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import JobId, UserId
from opencode_lifecycle.ports.secrets import SecretSeen

JOB = JobId("oc-ada-aaaaaaaaaaaaaaaaaaaa")
ADA = UserId("ada@x.org")
EMPTY_404 = reply(404, content_type="")
ABSENT = reply(404, {"errors": []})


def soon() -> Deadline:
    return Deadline.after(10, "test")


@pytest.fixture
async def vault() -> AsyncIterator[HostileServer]:
    async with hostile_server() as server:
        yield server


@pytest.fixture
def store(vault, tmp_path):
    (tmp_path / "token").write_text("hvs.token")
    calls = BlockingCalls(threads=2, name="vault")
    store = VaultPasswordStore(calls=calls, address=vault.url, token_file=tmp_path / "token", mount="kv")
    yield store
    calls.close()
    store.close()


@pytest.fixture
def job_id() -> JobId:
    return JobId(f"oc-ada-{uuid.uuid4().hex[:20]}")


def metadata(custom: object) -> bytes:
    version = {"created_time": "2026-01-01T00:00:00Z", "deletion_time": "", "destroyed": False}
    data = {"current_version": 1, "versions": {"1": version}, "custom_metadata": custom}
    return reply(200, {"data": data})


async def mark(store: VaultPasswordStore, job_id: JobId) -> None:
    await store.mark(job_id, installation="main", user_id=ADA, deadline=soon())


@pytest.mark.parametrize(
    "custom",
    [None, {}, [], "text", 7, {"installation": 7, "user_id": None}, {"installation": "", "user_id": [ADA]}],
    ids=str,
)
async def test_what_is_no_owner_is_left_out(vault, store, custom):
    vault.always(metadata(custom))

    assert await store.look(JOB, soon()) == SecretSeen(version=1)


async def test_looking_is_one_read_of_metadata(vault, store):
    vault.always(metadata({"installation": "main", "user_id": ADA, "team": "blue"}))

    seen = await store.look(JOB, soon())

    assert seen == SecretSeen(version=1, installation="main", user_id=ADA)
    assert [(request.method, request.path) for request in vault.requests] == [
        ("GET", f"/v1/kv/metadata/opencode/{JOB}")
    ]


async def test_marking_is_one_patch_of_the_owner_alone(vault, store):
    vault.always(reply(204))

    await mark(store, JOB)

    [request] = vault.requests
    assert (request.method, request.path) == ("PATCH", f"/v1/kv/metadata/opencode/{JOB}")
    assert request.headers["content-type"] == "application/merge-patch+json"
    assert json.loads(request.body) == {"custom_metadata": {"installation": "main", "user_id": ADA}}


async def test_an_empty_404_is_a_missing_secret_only_where_vault_itself_says_so(vault, store):
    vault.in_turn(EMPTY_404, ABSENT)

    with pytest.raises(SecretMissing):
        await mark(store, JOB)


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        (metadata(None), UpstreamNonsense),
        (EMPTY_404, UpstreamNonsense),
        (reply(503, {"errors": ["sealed"]}), UpstreamUnavailable),
        (Misbehaviour.RESET, UpstreamUnavailable),
    ],
    ids=str,
)
async def test_an_empty_404_of_a_proxy_is_not_taken_for_a_missing_secret(vault, store, then, expected):
    vault.in_turn(EMPTY_404, then)

    with pytest.raises(expected):
        await mark(store, JOB)


@pytest.mark.parametrize("answer", [reply(200, {}), reply(202, {}), reply(200, {"data": {}})], ids=str)
async def test_an_answer_that_vault_does_not_give_to_a_patch_is_no_success(vault, store, answer):
    vault.always(answer)

    with pytest.raises(UpstreamNonsense):
        await mark(store, JOB)


@pytest.mark.parametrize("keys", [None, "oc-a", {"oc-a": 1}, [7], ["oc-a", None], [["oc-a"]]], ids=str)
async def test_a_list_that_is_none_is_never_taken_for_an_empty_one(vault, store, keys):
    vault.always(reply(200, {"data": {"keys": keys}}))

    with pytest.raises(UpstreamNonsense):
        await store.list_all(soon())


async def test_an_empty_404_is_no_empty_folder(vault, store):
    vault.always(EMPTY_404)

    with pytest.raises(UpstreamNonsense):
        await store.list_all(soon())


async def test_a_folder_that_was_never_written_to_is_empty(vault, store):
    vault.always(ABSENT)

    assert list(await store.list_all(soon())) == []


async def test_folders_and_names_of_others_are_left_out(vault, store):
    vault.always(reply(200, {"data": {"keys": ["oc-a", "oc-folder/", "other", "OC-b", "oc-c"]}}))

    assert list(await store.list_all(soon())) == ["oc-a", "oc-c"]


async def test_the_names_of_a_large_fleet_are_read_whole(vault, store):
    names = [f"oc-{'x' * 39}-{number:020}" for number in range(100_000)]
    vault.always(reply(200, {"data": {"keys": names}}))

    assert len(await store.list_all(soon())) == 100_000


@pytest.mark.servers
async def test_marking_leaves_alone_what_an_administrator_has_set(real_vault, job_id):
    path = f"kv/metadata/opencode/{job_id}"
    await real_vault.store.ensure(job_id, soon())
    await real_vault.server.request(
        "POST",
        path,
        {
            "max_versions": 3,
            "cas_required": True,
            "delete_version_after": "100h",
            "custom_metadata": {"team": "blue"},
        },
    )
    before = (await real_vault.server.request("GET", path))["data"]

    await mark(real_vault.store, job_id)

    after = (await real_vault.server.request("GET", path))["data"]
    assert after.pop("custom_metadata") == {"team": "blue", "installation": "main", "user_id": ADA}
    before.pop("custom_metadata")
    assert {**after, "updated_time": None, "last_updated_by": None} == {
        **before,
        "updated_time": None,
        "last_updated_by": None,
    }


@pytest.mark.servers
async def test_a_secret_that_an_administrator_lets_expire_is_readable_until_then(real_vault, job_id):
    path = f"kv/metadata/opencode/{job_id}"
    await real_vault.server.request("POST", path, {"delete_version_after": "100h"})
    await real_vault.put(job_id, {"password": "set-by-hand", "env": {}})

    assert await real_vault.store.look(job_id, soon()) == SecretSeen(version=1)


@pytest.mark.servers
async def test_our_policy_lets_us_patch_metadata_and_not_replace_it(real_vault, job_id):
    await real_vault.store.ensure(job_id, soon())
    token = real_vault.token_file.read_text().strip()

    async def capabilities(path: str) -> list[str]:
        answer = await real_vault.server.request(
            "POST", "sys/capabilities", {"token": token, "paths": [path]}
        )
        return sorted(answer["data"][path])

    assert await capabilities(f"kv/metadata/opencode/{job_id}") == ["delete", "patch", "read"]
    assert await capabilities("kv/metadata/opencode") == ["list"]
    assert await capabilities("kv/metadata") == ["deny"]
    assert await capabilities(f"kv/metadata/elsewhere/{job_id}") == ["deny"]
