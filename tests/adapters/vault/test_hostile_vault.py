"""What the password store makes of a Vault that fails, lies or answers nonsense."""

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from hostile_server import HostileServer, Misbehaviour, SeenRequest, hostile_server, reply
from leaks import carried_by, chain, written
from opencode_lifecycle.adapters.blocking import BlockingCalls
from opencode_lifecycle.adapters.vault.password_store import VaultPasswordStore
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    LifecycleError,
    SecretMissing,
    UpstreamDenied,
    UpstreamError,
    UpstreamNonsense,
    UpstreamRejected,
    UpstreamUnavailable,
    VersionConflict,
)
from opencode_lifecycle.model.identifiers import JobId, UserId

TOKEN = "hvs.planted-token-of-ours"
PASSWORD = "planted-password-of-a-user"
JOB = JobId("oc-ada-aaaaaaaaaaaaaaaaaaaa")

Call = Callable[[VaultPasswordStore, Deadline], Awaitable[object]]
CALLS: dict[str, Call] = {
    "ensure": lambda store, deadline: store.ensure(JOB, deadline),
    "latest_version": lambda store, deadline: store.latest_version(JOB, deadline),
    "look": lambda store, deadline: store.look(JOB, deadline),
    "mark": lambda store, deadline: store.mark(
        JOB, installation="main", user_id=UserId("ada"), deadline=deadline
    ),
    "list_all": lambda store, deadline: store.list_all(deadline),
    "rotate": lambda store, deadline: store.rotate(JOB, expected=1, deadline=deadline),
    "read": lambda store, deadline: store.read(JOB, 1, deadline),
    "wrap": lambda store, deadline: store.wrap(JOB, 1, ttl_seconds=60, deadline=deadline),
    "destroy": lambda store, deadline: store.destroy(JOB, deadline),
    "ping": lambda store, deadline: store.ping(deadline),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def soon() -> Deadline:
    return Deadline.after(5, "test")


@pytest.fixture
async def vault() -> AsyncIterator[HostileServer]:
    async with hostile_server() as server:
        yield server


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture
async def store(vault, token_file):
    calls = BlockingCalls(threads=2, name="vault")
    store = VaultPasswordStore(calls=calls, address=vault.url, token_file=token_file, mount="kv")
    yield store
    calls.close()
    store.close()


@every_call
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply(503, {"errors": ["Vault is sealed"]}), UpstreamUnavailable),
        (reply(501, {"errors": ["not initialised"]}), UpstreamUnavailable),
        (reply(500, {"errors": ["storage failed"]}), UpstreamUnavailable),
        (reply(502, b"<html>bad gateway</html>", content_type="text/html"), UpstreamUnavailable),
        (reply(504, b"", content_type="text/plain"), UpstreamUnavailable),
        (reply(429, {"errors": ["slow down"]}), UpstreamUnavailable),
        (reply(403, {"errors": ["permission denied"]}), UpstreamDenied),
        (reply(405, {"errors": ["unsupported operation"]}), UpstreamRejected),
        (reply(404, {"errors": ["no handler for route"]}), UpstreamUnavailable),
        (reply(404, b"<html>not found</html>", content_type="text/html"), UpstreamNonsense),
        (reply(400, [1, 2]), UpstreamNonsense),
        (reply(400, {"errors": 7}), UpstreamNonsense),
        (reply(200, b"<html>login</html>", content_type="text/html"), UpstreamNonsense),
        (reply(200, b"{", content_type="application/json"), UpstreamNonsense),
        (reply(200, b"[" * 100_000), UpstreamNonsense),
        (reply(200, []), UpstreamNonsense),
        (reply(200, {"data": "text"}), UpstreamNonsense),
        (reply(200, b"\xff\xfe\x00"), UpstreamNonsense),
        (reply(302, {}, Location="http://127.0.0.1:1/v1/elsewhere"), UpstreamNonsense),
        (reply(307, {}, Location="http://127.0.0.1:1/v1/elsewhere"), UpstreamNonsense),
        (Misbehaviour.RESET, UpstreamUnavailable),
        (Misbehaviour.CLOSE, UpstreamUnavailable),
        (Misbehaviour.CUT, UpstreamUnavailable),
        (Misbehaviour.GARBLE, UpstreamUnavailable),
        (Misbehaviour.ENDLESS, UpstreamNonsense),
    ],
    ids=str,
)
async def test_each_failure_is_told_for_what_it_is(vault, store, call, answer, expected):
    vault.always(answer)

    with pytest.raises(UpstreamError) as caught:
        await call(store, soon())

    assert type(caught.value) is expected
    assert caught.value.system == "vault"
    assert all(isinstance(link, LifecycleError) for link in chain(caught.value))


@every_call
@pytest.mark.parametrize("misbehaviour", [Misbehaviour.HANG, Misbehaviour.DRIP])
async def test_a_vault_that_takes_for_ever_is_given_up_within_the_deadline(vault, store, call, misbehaviour):
    vault.always(misbehaviour)
    clock = asyncio.get_running_loop().time
    began = clock()

    with pytest.raises((UpstreamUnavailable, DeadlineExceeded)):
        await call(store, Deadline.after(0.3, "test"))

    assert clock() - began < 1


async def test_a_thread_is_free_again_after_its_deadline(vault, token_file):
    calls = BlockingCalls(threads=1, name="vault")
    store = VaultPasswordStore(calls=calls, address=vault.url, token_file=token_file, mount="kv")
    vault.in_turn(Misbehaviour.DRIP, reply(404, {"errors": []}))
    with pytest.raises((UpstreamUnavailable, DeadlineExceeded)):
        await store.latest_version(JOB, Deadline.after(0.2, "test"))

    assert await store.latest_version(JOB, Deadline.after(2, "test")) is None
    calls.close()
    store.close()


async def test_a_redirect_is_not_followed_and_the_token_goes_nowhere_else(vault, store):
    async with hostile_server() as elsewhere:
        vault.always(reply(307, {}, Location=f"{elsewhere.url}/v1/auth/token/lookup-self"))

        with pytest.raises(UpstreamNonsense):
            await store.ping(soon())

        assert elsewhere.requests == []


async def test_cookies_are_not_sent_back(vault, store):
    vault.always(reply(200, {"data": {}}, Set_Cookie="session=planted; Path=/"))

    await store.ping(soon())
    await store.ping(soon())

    assert all("cookie" not in request.headers for request in vault.requests)


async def test_a_proxy_in_the_environment_is_not_used(vault, store, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    monkeypatch.setenv("VAULT_TOKEN", "not-ours")
    vault.always(reply(200, {"data": {}}))

    await store.ping(soon())

    assert vault.requests[0].headers["x-vault-token"] == TOKEN


async def test_connections_are_kept(vault, store):
    vault.always(reply(200, {"data": {}}))

    for _ in range(5):
        await store.ping(soon())

    assert vault.connections <= 2  # one for each thread


async def test_compressed_answers_are_read(vault, store):
    body = gzip.compress(b'{"data": {}}')
    vault.always(reply(200, body, Content_Encoding="gzip"))

    await store.ping(soon())


async def test_a_compressed_flood_is_not_unpacked(vault, store):
    body = gzip.compress(b'{"data": "' + b"x" * 50_000_000 + b'"}')
    vault.always(reply(200, body, Content_Encoding="gzip"))

    with pytest.raises(UpstreamNonsense, match="too large"):
        await store.ping(soon())


def metadata(current: object, **version: object) -> dict[str, object]:
    seen = {"created_time": "2026-01-01T00:00:00Z", "deletion_time": "", "destroyed": False}
    return {"data": {"current_version": current, "versions": {str(current): seen | version}}}


@pytest.mark.parametrize(
    "body",
    [
        metadata("1"),
        metadata(True),
        metadata(None),
        metadata(1, destroyed="no"),
        metadata(1, deletion_time=7),
        metadata(1, deletion_time="yesterday"),
        metadata(1, deletion_time="2026-01-01T00:00:00"),
        {"data": {"current_version": 1, "versions": {}}},
        {"data": {"current_version": 1, "versions": []}},
    ],
)
async def test_metadata_of_a_wrong_shape_is_never_taken_for_absence(vault, store, body):
    vault.always(reply(200, body))

    with pytest.raises(UpstreamNonsense):
        await store.latest_version(JOB, soon())


async def test_a_version_that_will_be_deleted_some_day_is_readable_today(vault, store):
    vault.always(reply(200, metadata(4, deletion_time="2999-01-01T00:00:00.123456789Z")))

    assert await store.latest_version(JOB, soon()) == 4


async def test_an_answer_about_another_version_is_refused(vault, store):
    body = {"data": {"data": {"password": PASSWORD}, "metadata": {"version": 2}}}
    vault.always(reply(200, body))

    with pytest.raises(UpstreamNonsense):
        await store.read(JOB, 1, soon())


async def test_a_write_whose_reply_was_lost_is_found_again(vault, store):
    conflict = reply(400, {"errors": ["check-and-set parameter did not match the current version"]})
    vault.in_turn(Misbehaviour.RESET, conflict, reply(200, metadata(1)))
    with pytest.raises(UpstreamUnavailable):
        await store.ensure(JOB, soon())

    assert await store.ensure(JOB, soon()) == 1


async def test_a_writer_that_always_loses_gives_up(vault, store):
    def script(request: SeenRequest) -> bytes:
        if request.method == "POST":
            return reply(400, {"errors": ["check-and-set parameter did not match the current version"]})
        return reply(404, {"errors": []})

    vault.script = script

    with pytest.raises(VersionConflict):
        await store.ensure(JOB, soon())


async def test_destroying_what_vault_does_not_know_is_no_error(vault, store):
    vault.always(reply(404, {"errors": []}))

    await store.destroy(JOB, soon())


async def test_a_refused_token_is_replaced_once_by_what_the_file_holds_now(vault, store, token_file):
    def script(request: SeenRequest) -> bytes:
        if request.headers["x-vault-token"] == TOKEN:
            token_file.write_text("hvs.the-new-token")
            return reply(403, {"errors": ["permission denied"]})
        return reply(404, {"errors": []})

    vault.script = script

    assert await store.latest_version(JOB, soon()) is None
    assert [request.headers["x-vault-token"] for request in vault.requests] == [
        TOKEN,
        "hvs.the-new-token",
    ]


async def test_a_refusal_is_not_tried_again_with_the_same_token(vault, store):
    vault.always(reply(403, {"errors": ["permission denied"]}))

    with pytest.raises(UpstreamDenied):
        await store.ping(soon())

    assert len(vault.requests) == 1


async def test_a_changed_file_is_read_without_waiting_for_a_refusal(vault, store, token_file):
    vault.always(reply(200, {"data": {}}))
    await store.ping(soon())
    token_file.write_text("hvs.the-new-token")

    await store.ping(soon())

    assert vault.requests[-1].headers["x-vault-token"] == "hvs.the-new-token"


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", "hvs.tökén\u2603".encode(), b"two\nlines"])
async def test_a_file_without_a_token_is_a_matter_for_a_person(vault, store, token_file, content):
    token_file.unlink()
    if content is not None:
        token_file.write_bytes(content)

    with pytest.raises(UpstreamDenied) as caught:
        await store.ping(soon())

    assert vault.requests == []
    assert "lines" not in carried_by(caught.value)


ECHOES = [
    reply(status, {"errors": [f"{TOKEN} {PASSWORD}"], "data": {"password": PASSWORD}})
    for status in (400, 401, 403, 404, 405, 429, 500, 501, 503)
]
ECHOES += [
    reply(200, {"data": {"data": {"password": [PASSWORD]}, "metadata": {"version": 1}}}),
    reply(200, {"data": {"data": {"password": PASSWORD}, "metadata": {"version": 9}}}),
    reply(200, f"{TOKEN} {PASSWORD}".encode()),
    reply(400, f"{TOKEN} {PASSWORD}".encode()),
    reply(400, {"errors": {"token": TOKEN, "password": PASSWORD}}),
    reply(307, {}, Location=f"http://127.0.0.1:1/{TOKEN}/{PASSWORD}"),
    reply(200, {"wrap_info": {"token": TOKEN}, "data": {"data": {"password": PASSWORD}}}),
]


@every_call
@pytest.mark.parametrize("answer", ECHOES, ids=range(len(ECHOES)))
async def test_no_error_and_no_log_record_carries_a_secret(vault, store, call, answer, caplog):
    vault.always(answer)
    caplog.set_level(logging.DEBUG)

    try:
        await call(store, soon())
    except LifecycleError as error:
        shown = carried_by(error)
    else:
        shown = ""

    for secret in (TOKEN, PASSWORD):
        assert secret not in shown
        assert secret not in written(caplog.records)


async def test_the_store_does_not_print_its_token(store):
    assert TOKEN not in repr(vars(store))


async def test_absence_is_only_what_vault_itself_says(vault, store):
    vault.always(reply(404, {"errors": []}))

    assert await store.latest_version(JOB, soon()) is None
    with pytest.raises(SecretMissing):
        await store.read(JOB, 1, soon())
