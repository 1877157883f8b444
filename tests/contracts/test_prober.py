"""
What every prober promises. Runs with the fake, and with the real prober against a stub and against the real OpenCode.

A stub answers as OpenCode does, and fails where a test wants it to; the real server shows that it answers like that.
"""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import pytest

from fakes.opencode import FakeOpenCode, FakeProber
from hostile_server import HostileServer, Misbehaviour, Reply, SeenRequest, hostile_server, reply
from opencode_lifecycle.adapters.opencode.prober import OpenCodeProber
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.model.states import Reason
from opencode_lifecycle.ports.prober import Activity, Liveness, RuntimeProber
from real_opencode import VERSION, RealOpenCode

PASSWORD = "planted-password-of-the-runtime"
ALLOCATION = AllocationId("11111111-2222-3333-4444-555555555555")
AN_HOUR_AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)


class Runtime(Protocol):
    """A server that can be looked at and, but for the real one, made to misbehave."""

    prober: RuntimeProber
    address: Address
    directory: str

    def behave(self, **behaviour: object) -> None:
        """Set fields of `FakeOpenCode`."""
        ...

    @property
    def tried(self) -> list[str]:
        """The passwords it was shown."""
        ...


@dataclass
class InMemory:
    prober: FakeProber
    server: FakeOpenCode
    address: Address
    directory: str = "/workspace"

    def behave(self, **behaviour: object) -> None:
        for name, value in behaviour.items():
            setattr(self.server, name, value)

    @property
    def tried(self) -> list[str]:
        return self.server.tried


@dataclass
class Stub:
    """OpenCode as far as the prober sees it, over HTTP."""

    prober: OpenCodeProber
    server: FakeOpenCode
    http: HostileServer
    directory: str = "/workspace"

    def __post_init__(self) -> None:
        self.http.script = self._answer

    @property
    def address(self) -> Address:
        return Address(host="127.0.0.1", port=self.http.port)

    def behave(self, **behaviour: object) -> None:
        for name, value in behaviour.items():
            setattr(self.server, name, value)

    @property
    def tried(self) -> list[str]:
        return self.server.tried

    def _answer(self, request: SeenRequest) -> Reply:
        server, url = self.server, urlsplit(request.path)
        page = reply(200, b"<!doctype html><title>OpenCode</title>", content_type="text/html")
        if server.hangs:
            return Misbehaviour.HANG
        if server.is_something_else:
            return page
        if server.password and not self._admits(request):
            return reply(401, WWW_Authenticate='Basic realm="Secure Area"', content_type="")
        if request.method != "GET":
            return page
        if url.path == "/global/health":
            return reply(200, {"healthy": server.healthy, "version": server.version})
        if url.path == "/config":
            [directory] = parse_qs(url.query).get("directory", [None])
            broken = directory in server.broken
            return reply(400, {"name": "ConfigJsonError"}) if broken else reply(200, {"mode": {}})
        if url.path == "/experimental/session":
            return reply(200, self._sessions())
        if url.path == "/session/status":
            at_work = server.busy and parse_qs(url.query).get("directory") == [self.directory]
            return reply(200, {"ses_1": {"type": "busy"}} if at_work else {})
        if url.path in {"/permission", "/question", "/pty"}:
            return reply(200, [])
        return page

    def _sessions(self) -> list[dict[str, object]]:
        changed_at = self.server.changed_at
        if changed_at is None:
            return []
        updated = round(changed_at.timestamp() * 1000)
        return [{"id": "ses_1", "directory": self.directory, "time": {"created": 1, "updated": updated}}]

    def _admits(self, request: SeenRequest) -> bool:
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        if kind != "Basic":
            return False
        username, _, password = base64.b64decode(text).decode().partition(":")
        self.server.tried.append(password)
        return (username, password) == ("opencode", self.server.password)


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with hostile_server() as http:
        yield Stub(OpenCodeProber(), FakeOpenCode(password=PASSWORD, version=VERSION), http)


@pytest.fixture
def in_memory() -> InMemory:
    prober = FakeProber()
    server = FakeOpenCode(password=PASSWORD, version=VERSION)
    runtime = InMemory(prober, server, Address(host="127.0.0.1", port=24001))
    prober.serve(runtime.address, server)
    return runtime


@pytest.fixture(params=["in_memory", "stub"])
def runtime(request) -> Runtime:
    return request.getfixturevalue(request.param)


def soon() -> Deadline:
    return Deadline.after(10, "test")


async def prove(
    runtime: Runtime,
    *,
    password: str = PASSWORD,
    expected_version: str = VERSION,
    deadline: Deadline | None = None,
    address: Address | None = None,
) -> Proof:
    async def read_password() -> Password:
        return Password(password)

    return await runtime.prober.prove(
        address=address or runtime.address,
        allocation_id=ALLOCATION,
        expected_version=expected_version,
        directory=runtime.directory,
        read_password=read_password,
        deadline=deadline or soon(),
    )


async def test_a_runtime_that_shows_all_it_must_is_proven(runtime):
    proof = await prove(runtime)

    assert proof.result is ProofResult.PROVEN
    assert proof.version == VERSION
    assert proof.address == runtime.address
    assert proof.allocation_id == ALLOCATION
    assert proof.at.tzinfo is not None


async def test_a_runtime_that_refuses_the_unauthenticated_is_alive(runtime):
    assert await runtime.prober.liveness(runtime.address, soon()) is Liveness.ALIVE
    assert runtime.tried == []


async def test_an_open_runtime_is_never_proven_nor_shown_a_password(runtime):
    runtime.behave(password="")

    proof = await prove(runtime)

    assert proof.result is ProofResult.OPEN
    assert runtime.tried == []
    assert await runtime.prober.liveness(runtime.address, soon()) is Liveness.OPEN


async def test_a_runtime_that_has_another_password_refuses_ours(runtime):
    runtime.behave(password="another")

    proof = await prove(runtime)

    assert proof.result is ProofResult.REFUSES_PASSWORD
    assert await runtime.prober.liveness(runtime.address, soon()) is Liveness.ALIVE


async def test_a_runtime_of_another_version_is_named_with_its_version(runtime):
    runtime.behave(version="1.18.15")

    proof = await prove(runtime)

    assert proof.result is ProofResult.WRONG_VERSION
    assert proof.version == "1.18.15"
    assert "1.18.15" in proof.detail


async def test_a_runtime_that_is_not_healthy_is_not_ready(runtime):
    runtime.behave(healthy=False)

    assert (await prove(runtime)).result is ProofResult.NOT_READY


async def test_a_runtime_that_cannot_load_its_workspace_is_not_ready(runtime):
    runtime.behave(broken={runtime.directory})

    proof = await prove(runtime)

    assert (proof.result, proof.reason) == (ProofResult.NOT_READY, Reason.BAD_CONFIG)


async def test_a_runtime_that_can_load_its_workspace_is_not_judged_by_another(runtime):
    runtime.behave(broken={"/elsewhere"})

    assert (await prove(runtime)).result is ProofResult.PROVEN


async def test_a_runtime_that_hangs_is_not_ready_and_hung(runtime):
    runtime.behave(hangs=True)

    proof = await prove(runtime, deadline=Deadline.after(0.2, "test"))
    liveness = await runtime.prober.liveness(runtime.address, Deadline.after(0.2, "test"))

    assert proof.result is ProofResult.NOT_READY
    assert liveness is Liveness.HUNG


async def test_another_program_on_the_port_is_strange_and_is_shown_no_password(runtime):
    runtime.behave(is_something_else=True)

    proof = await prove(runtime)

    assert proof.result is ProofResult.NOT_READY
    assert runtime.tried == []
    assert await runtime.prober.liveness(runtime.address, soon()) is Liveness.STRANGE


async def test_an_address_where_nothing_listens_is_silent(runtime):
    nowhere = Address(host="127.0.0.1", port=1)

    proof = await prove(runtime, address=nowhere)

    assert proof.result is ProofResult.NOT_LISTENING
    assert await runtime.prober.liveness(nowhere, soon()) is Liveness.SILENT


async def look_at_activity(
    runtime: Runtime, *, password: str = PASSWORD, deadline: Deadline | None = None
) -> Activity | None:
    async def read_password() -> Password:
        return Password(password)

    return await runtime.prober.activity(
        address=runtime.address, read_password=read_password, deadline=deadline or soon()
    )


async def test_a_runtime_without_sessions_is_idle_and_never_changed(runtime):
    assert await look_at_activity(runtime) == Activity(busy=False, changed_at=None)


async def test_an_idle_runtime_says_when_a_session_last_changed(runtime):
    runtime.behave(changed_at=AN_HOUR_AGO)

    assert await look_at_activity(runtime) == Activity(busy=False, changed_at=AN_HOUR_AGO)


async def test_a_runtime_with_a_session_at_work_is_busy(runtime):
    runtime.behave(busy=True, changed_at=AN_HOUR_AGO)

    assert await look_at_activity(runtime) == Activity(busy=True, changed_at=AN_HOUR_AGO)


@pytest.mark.parametrize(
    "behaviour", [{"password": ""}, {"is_something_else": True}, {"password": "another"}], ids=str
)
async def test_what_a_runtime_does_that_cannot_be_asked_is_unknown(runtime, behaviour):
    runtime.behave(**behaviour)

    assert await look_at_activity(runtime) is None


@pytest.mark.parametrize("behaviour", [{"password": ""}, {"is_something_else": True}], ids=str)
async def test_only_a_runtime_that_refuses_the_unauthenticated_is_shown_a_password_for_its_activity(
    runtime, behaviour
):
    runtime.behave(**behaviour)

    await look_at_activity(runtime)

    assert runtime.tried == []


async def test_what_a_hanging_runtime_does_is_unknown(runtime):
    runtime.behave(hangs=True)

    assert await look_at_activity(runtime, deadline=Deadline.after(0.2, "test")) is None


async def test_without_a_password_nothing_is_known_of_the_activity_but_the_reason(runtime):
    async def read_password() -> Password:
        raise UpstreamUnavailable("vault", "read")

    with pytest.raises(UpstreamUnavailable):
        await runtime.prober.activity(address=runtime.address, read_password=read_password, deadline=soon())


async def test_a_password_that_cannot_be_read_is_the_one_thing_that_is_raised(runtime):
    async def read_password() -> Password:
        raise UpstreamUnavailable("vault", "read")

    with pytest.raises(UpstreamUnavailable):
        await runtime.prober.prove(
            address=runtime.address,
            allocation_id=ALLOCATION,
            expected_version=VERSION,
            directory=None,
            read_password=read_password,
            deadline=soon(),
        )


async def test_no_proof_carries_the_password(runtime):
    for behaviour in (
        {},
        {"healthy": False},
        {"healthy": True, "version": "1.18.15"},
        {"password": "another"},
    ):
        runtime.behave(**behaviour)

        assert PASSWORD not in repr(await prove(runtime))


# The real server


def with_opencode(test):
    """Mark a test that starts the real OpenCode, for the first time of all by fetching it."""
    return pytest.mark.opencode(pytest.mark.timeout(300)(test))


@with_opencode
async def test_the_real_opencode_is_proven(real_opencode: RealOpenCode):
    proof = await prove(real_opencode, password=real_opencode.password)

    assert (proof.result, proof.version, proof.detail) == (ProofResult.PROVEN, VERSION, "")
    assert await real_opencode.prober.liveness(real_opencode.address, soon()) is Liveness.ALIVE


@with_opencode
async def test_the_real_opencode_refuses_another_password(real_opencode: RealOpenCode):
    assert (await prove(real_opencode, password="x")).result is ProofResult.REFUSES_PASSWORD


@with_opencode
async def test_the_real_opencode_is_not_taken_for_another_version(real_opencode: RealOpenCode):
    proof = await prove(real_opencode, password=real_opencode.password, expected_version="1.18.35")

    assert (proof.result, proof.version) == (ProofResult.WRONG_VERSION, VERSION)


@with_opencode
async def test_the_real_opencode_with_a_workspace_that_it_cannot_load_is_not_ready(
    real_opencode: RealOpenCode, tmp_path
):
    (tmp_path / "opencode.json").write_text("{ not json")

    async def read_password() -> Password:
        return Password(real_opencode.password)

    proof = await real_opencode.prober.prove(
        address=real_opencode.address,
        allocation_id=ALLOCATION,
        expected_version=VERSION,
        directory=str(tmp_path),
        read_password=read_password,
        deadline=soon(),
    )

    assert (proof.result, proof.reason) == (ProofResult.NOT_READY, Reason.BAD_CONFIG)


@with_opencode
async def test_the_real_opencode_without_a_password_is_found_open(open_opencode: RealOpenCode):
    assert (await prove(open_opencode)).result is ProofResult.OPEN
    assert await open_opencode.prober.liveness(open_opencode.address, soon()) is Liveness.OPEN


@with_opencode
async def test_the_real_opencode_without_sessions_is_idle(real_opencode: RealOpenCode):
    activity = await look_at_activity(real_opencode, password=real_opencode.password)

    assert activity == Activity(busy=False, changed_at=None)
    assert await look_at_activity(real_opencode, password="x") is None
