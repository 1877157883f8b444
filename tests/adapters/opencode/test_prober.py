"""What the prober makes of a runtime that is broken, hostile, or no runtime at all."""

import asyncio
import base64
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from hostile_server import HostileServer, Misbehaviour, Reply, SeenRequest, hostile_server, reply
from leaks import written
from opencode_lifecycle.adapters.opencode.prober import OpenCodeProber
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.prober import Liveness

PASSWORD = "planted-password-of-the-runtime"
BASIC = "Basic " + base64.b64encode(f"opencode:{PASSWORD}".encode()).decode()
REFUSAL = reply(401, WWW_Authenticate='Basic realm="Secure Area"', content_type="")
HEALTH = reply(200, {"healthy": True, "version": "1.18.34"})
PAGE = reply(200, b"<!doctype html>", content_type="text/html")
LARGE = reply(200, b'"' + b"x" * 5_000_000 + b'"')


@pytest.fixture
async def runtime() -> AsyncIterator[HostileServer]:
    async with hostile_server() as server:
        yield server


def soon() -> Deadline:
    return Deadline.after(5, "test")


async def prove(
    runtime: HostileServer, *, directory: str | None = "/workspace", deadline: Deadline | None = None
) -> Proof:
    async def read_password() -> Password:
        return Password(PASSWORD)

    return await OpenCodeProber().prove(
        address=Address(host="127.0.0.1", port=runtime.port),
        allocation_id=AllocationId("11111111-2222-3333-4444-555555555555"),
        expected_version="1.18.34",
        directory=directory,
        read_password=read_password,
        deadline=deadline or soon(),
    )


async def liveness(runtime: HostileServer, deadline: Deadline | None = None) -> Liveness:
    address = Address(host="127.0.0.1", port=runtime.port)
    return await OpenCodeProber().liveness(address, deadline or soon())


def was_shown_the_password(runtime: HostileServer) -> bool:
    return any("authorization" in request.headers for request in runtime.requests)


@pytest.mark.parametrize(
    ("answer", "result", "expected"),
    [
        (HEALTH, ProofResult.OPEN, Liveness.OPEN),
        (reply(204, None), ProofResult.OPEN, Liveness.OPEN),
        (reply(200, b"not json"), ProofResult.OPEN, Liveness.OPEN),
        (PAGE, ProofResult.NOT_READY, Liveness.STRANGE),
        (reply(200, b"", content_type=""), ProofResult.NOT_READY, Liveness.STRANGE),
        (reply(401, content_type=""), ProofResult.NOT_READY, Liveness.STRANGE),
        (reply(401, WWW_Authenticate="Bearer"), ProofResult.NOT_READY, Liveness.STRANGE),
        (reply(403, {}), ProofResult.NOT_READY, Liveness.STRANGE),
        (reply(404, {}), ProofResult.NOT_READY, Liveness.STRANGE),
        (reply(500, {}), ProofResult.NOT_READY, Liveness.STRANGE),
        (reply(302, {}, Location="/"), ProofResult.NOT_READY, Liveness.STRANGE),
        (LARGE, ProofResult.NOT_READY, Liveness.STRANGE),
        (Misbehaviour.ENDLESS, ProofResult.NOT_READY, Liveness.STRANGE),
        (Misbehaviour.GARBLE, ProofResult.NOT_READY, Liveness.STRANGE),
        (Misbehaviour.RESET, ProofResult.NOT_READY, Liveness.SILENT),
        (Misbehaviour.CLOSE, ProofResult.NOT_READY, Liveness.SILENT),
        (Misbehaviour.CUT, ProofResult.NOT_READY, Liveness.SILENT),
    ],
    ids=str,
)
async def test_what_does_not_refuse_as_it_must_is_shown_no_password(runtime, answer, result, expected):
    runtime.always(answer)

    assert (await prove(runtime)).result is result
    assert await liveness(runtime) is expected
    assert not was_shown_the_password(runtime)


@pytest.mark.parametrize("misbehaviour", [Misbehaviour.HANG, Misbehaviour.DRIP])
@pytest.mark.parametrize("before", [[], [REFUSAL], [REFUSAL, HEALTH]], ids=len)
async def test_a_runtime_that_takes_for_ever_is_not_waited_for(runtime, before, misbehaviour):
    runtime.in_turn(*before, misbehaviour)
    clock = asyncio.get_running_loop().time
    began = clock()

    proof = await prove(runtime, deadline=Deadline.after(0.3, "test"))

    assert proof.result is ProofResult.NOT_READY
    assert clock() - began < 1


@pytest.mark.parametrize("misbehaviour", [Misbehaviour.HANG, Misbehaviour.DRIP])
async def test_a_runtime_that_takes_the_connection_and_gives_no_answer_hangs(runtime, misbehaviour):
    runtime.always(misbehaviour)

    assert await liveness(runtime, Deadline.after(0.3, "test")) is Liveness.HUNG


async def test_a_runtime_that_takes_no_connections_any_more_hangs():
    with socket.socket() as listening, ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = Address(host="127.0.0.1", port=listening.getsockname()[1])
        for _ in range(4):  # more than the kernel takes for a program that does not
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((address.host, address.port))

        assert await OpenCodeProber().liveness(address, Deadline.after(0.3, "test")) is Liveness.HUNG


async def test_no_time_at_all_is_no_look(runtime):
    proof = await prove(runtime, deadline=Deadline.after(0, "test"))

    assert proof.result is ProofResult.NOT_READY
    assert runtime.requests == []


def health(**changes: object) -> bytes:
    return reply(200, {"healthy": True, "version": "1.18.34"} | changes)


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (reply(401, content_type=""), ProofResult.REFUSES_PASSWORD),
        (reply(403, {}), ProofResult.REFUSES_PASSWORD),
        (PAGE, ProofResult.NOT_READY),
        (
            reply(200, b'{"healthy":true,"version":"1.18.34"}', content_type="text/plain"),
            ProofResult.NOT_READY,
        ),
        (reply(201, {"healthy": True, "version": "1.18.34"}), ProofResult.NOT_READY),
        (reply(500, {}), ProofResult.NOT_READY),
        (reply(302, {}, Location="/"), ProofResult.NOT_READY),
        (reply(200, []), ProofResult.NOT_READY),
        (reply(200, b"{"), ProofResult.NOT_READY),
        (reply(200, b"[" * 100_000), ProofResult.NOT_READY),
        (reply(200, b"\xff\xfe"), ProofResult.NOT_READY),
        (health(healthy="true"), ProofResult.NOT_READY),
        (health(healthy=1), ProofResult.NOT_READY),
        (health(healthy=False), ProofResult.NOT_READY),
        (health(version=None), ProofResult.NOT_READY),
        (health(version=1), ProofResult.NOT_READY),
        (health(version=""), ProofResult.NOT_READY),
        (health(version="1.18.34\n"), ProofResult.NOT_READY),
        (health(version=PASSWORD), ProofResult.NOT_READY),
        (health(version="1.18.35"), ProofResult.WRONG_VERSION),
        (health(version="1.18.34-dev.1"), ProofResult.WRONG_VERSION),
        (LARGE, ProofResult.NOT_READY),
        (Misbehaviour.ENDLESS, ProofResult.NOT_READY),
        (Misbehaviour.CLOSE, ProofResult.NOT_READY),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_health_must_be_exactly_what_it_is_on_a_sound_server(runtime, answer, result):
    runtime.in_turn(REFUSAL, answer)

    proof = await prove(runtime)

    assert proof.result is result
    assert PASSWORD not in repr(proof)
    assert proof.detail


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (reply(200, {"mode": {}}), ProofResult.PROVEN),
        (PAGE, ProofResult.NOT_READY),
        (reply(200, b"{"), ProofResult.NOT_READY),
        (reply(200, []), ProofResult.NOT_READY),
        (reply(400, {"name": "ConfigJsonError"}), ProofResult.NOT_READY),
        (reply(500, {}), ProofResult.NOT_READY),
        (reply(401, content_type=""), ProofResult.REFUSES_PASSWORD),
        (reply(307, {}, Location="/"), ProofResult.NOT_READY),
        (LARGE, ProofResult.NOT_READY),
        (Misbehaviour.RESET, ProofResult.NOT_READY),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_health_alone_is_no_proof(runtime, answer, result):
    runtime.in_turn(REFUSAL, HEALTH, answer)

    proof = await prove(runtime)

    assert proof.result is result
    assert proof.version == "1.18.34" or result is ProofResult.REFUSES_PASSWORD


async def test_requests_come_in_the_order_that_protects_the_password(runtime):
    runtime.in_turn(REFUSAL, HEALTH, reply(200, {}))

    await prove(runtime, directory="/work space/ü?&x=1")

    assert [
        (request.method, request.path, request.headers.get("authorization")) for request in runtime.requests
    ] == [
        ("GET", "/global/health", None),
        ("GET", "/global/health", BASIC),
        ("GET", "/config?directory=/work+space/%C3%BC?%26x%3D1", BASIC),
    ]


async def test_without_a_directory_the_server_s_own_is_asked_for(runtime):
    runtime.in_turn(REFUSAL, HEALTH, reply(200, {}))

    await prove(runtime, directory=None)

    assert runtime.requests[-1].path == "/config"


async def test_the_password_goes_to_the_connection_that_has_refused(runtime):
    runtime.in_turn(REFUSAL, HEALTH, reply(200, {}))

    await prove(runtime)

    assert {request.connection for request in runtime.requests} == {1}


async def test_no_two_looks_share_a_connection(runtime):
    prober, address = OpenCodeProber(), Address(host="127.0.0.1", port=runtime.port)
    runtime.always(REFUSAL)

    await prober.liveness(address, soon())
    await prober.liveness(address, soon())

    assert [request.connection for request in runtime.requests] == [1, 2]


async def test_a_redirect_carries_the_password_nowhere(runtime):
    async with hostile_server() as elsewhere:
        runtime.in_turn(REFUSAL, reply(307, {}, Location=f"{elsewhere.url}/global/health"))

        proof = await prove(runtime)

        assert proof.result is ProofResult.NOT_READY
        assert elsewhere.requests == []


async def test_cookies_and_proxies_are_of_no_account(runtime, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    cookie = {"Set_Cookie": "session=planted; Path=/"}
    refusal = reply(401, WWW_Authenticate="Basic x", content_type="", **cookie)
    runtime.in_turn(refusal, HEALTH, reply(200, {}))

    proof = await prove(runtime)

    assert proof.result is ProofResult.PROVEN
    assert all("cookie" not in request.headers for request in runtime.requests)


async def test_a_version_that_nobody_knows_to_ask_is_not_asked(runtime):
    async def read_password() -> Password:
        pytest.fail("the password was read")

    proof = await OpenCodeProber().prove(
        address=Address(host="127.0.0.1", port=runtime.port),
        allocation_id=AllocationId("a"),
        expected_version="2.1.4",
        directory=None,
        read_password=read_password,
        deadline=soon(),
    )

    assert proof.result is ProofResult.NOT_READY
    assert runtime.requests == []


@pytest.mark.parametrize("host", ["no such host", "", "host.invalid", "[", "127.0.0.1/x"])
async def test_an_address_that_is_none_is_a_result(host):
    address = Address(host=host, port=80)

    assert await OpenCodeProber().liveness(address, soon()) in {Liveness.SILENT, Liveness.STRANGE}


async def test_a_runtime_that_sends_the_password_back_gets_it_into_no_proof_and_no_log(runtime, caplog):
    caplog.set_level(logging.DEBUG)

    def script(request: SeenRequest) -> Reply:
        given = request.headers.get("authorization")
        if given is None:
            return REFUSAL
        body = {"healthy": PASSWORD, "version": f"1.0.0-{PASSWORD}", "error": given}
        return reply(200, body, X_Echo=given, Set_Cookie=given)

    runtime.script = script

    proof = await prove(runtime)

    assert proof.result is ProofResult.NOT_READY
    for secret in (PASSWORD, BASIC):
        assert secret not in repr(proof)
        assert secret not in written(caplog.records)
