"""
What everybody who listens to runtimes promises. Runs with the fake, and with the real adapter against a stub.

The stub tells what OpenCode tells, in its own words; the real server shows in `adapters/opencode` that these are its words.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from fakes.opencode import FakeOpenCode, FakeProber
from opencode_lifecycle.adapters.opencode.event_stream import OpenCodeEvents
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    UpstreamDenied,
    UpstreamError,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.runtime_events import EventKind, RuntimeEvent

SOMEWHERE = Address(host="127.0.0.1", port=24001)
NOWHERE = Address(host="127.0.0.1", port=1)
PASSWORD = "planted-password-of-the-runtime"
WORDS = {
    EventKind.WORKS: {"type": "session.status", "properties": {"sessionID": "s", "status": {"type": "busy"}}},
    EventKind.CHANGED: {
        "type": "session.status",
        "properties": {"sessionID": "s", "status": {"type": "idle"}},
    },
}


@dataclass
class InMemory:
    prober: FakeProber
    server: FakeOpenCode
    address: Address = SOMEWHERE

    @property
    def events(self) -> FakeProber:
        return self.prober

    @property
    def listening(self) -> int:
        return len(self.server.listeners)

    def tell(self, kind: EventKind, directory: str) -> None:
        self.server.tell(kind, directory)

    def hang_up(self) -> None:
        self.server.hang_up()


@dataclass
class Stub:
    """OpenCode as far as a listener sees it, over HTTP."""

    server: FakeOpenCode
    events: OpenCodeEvents = field(default_factory=OpenCodeEvents)
    address: Address = NOWHERE
    streams: list["asyncio.Queue[bytes]"] = field(default_factory=list)

    @property
    def listening(self) -> int:
        return len(self.streams)

    def tell(self, kind: EventKind, directory: str) -> None:
        self.send({"directory": directory, "project": "p", "payload": {"id": "evt_1", **WORDS[kind]}})

    def send(self, told: object) -> None:
        self.send_raw(b"data: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n")

    def send_raw(self, raw: bytes) -> None:
        for stream in self.streams:
            stream.put_nowait(raw)

    def hang_up(self) -> None:
        self.send_raw(b"")

    def _admits(self, request: web.Request) -> bool:
        kind, _, text = request.headers.get("Authorization", "").partition(" ")
        if kind != "Basic":
            return False
        username, _, password = base64.b64decode(text).decode().partition(":")
        self.server.tried.append(password)
        return (username, password) == ("opencode", self.server.password)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.server.hangs:
            await asyncio.Event().wait()
        if self.server.is_something_else:
            return web.Response(text="<!doctype html>", content_type="text/html")
        if self.server.password and not self._admits(request):
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="Secure Area"'})
        if request.path != "/global/event":
            return web.json_response({"healthy": True, "version": self.server.version})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        told: asyncio.Queue[bytes] = asyncio.Queue()
        told.put_nowait(b'data: {"payload":{"id":"evt_0","type":"server.connected","properties":{}}}\n\n')
        self.streams.append(told)
        try:
            while raw := await told.get():
                await response.write(raw)
        finally:
            self.streams.remove(told)
        return response


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    stub = Stub(FakeOpenCode(password=PASSWORD))
    app = web.Application()
    app.router.add_get("/{path:.*}", stub.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stub.address = Address(host="127.0.0.1", port=runner.addresses[0][1])
    yield stub
    await runner.cleanup()


@pytest.fixture
def in_memory() -> InMemory:
    runtime = InMemory(FakeProber(), FakeOpenCode(password=PASSWORD))
    runtime.prober.serve(runtime.address, runtime.server)
    return runtime


@pytest.fixture(params=["in_memory", "stub"])
def runtime(request):
    return request.getfixturevalue(request.param)


def soon() -> Deadline:
    return Deadline.after(10, "test")


def follow(runtime, *, password: str = PASSWORD, address=None, deadline=None) -> AsyncIterator[RuntimeEvent]:
    async def read_password() -> Password:
        return Password(password)

    return runtime.events.follow(
        address=address or runtime.address, read_password=read_password, deadline=deadline or soon()
    )


async def why_it_ends(events: AsyncIterator[RuntimeEvent]) -> Exception:
    with pytest.raises((UpstreamError, DeadlineExceeded)) as ended:
        async for _ in events:
            pass
    return ended.value


async def test_the_first_word_is_that_it_is_listened_to(runtime):
    async with aclosing(follow(runtime)) as events:
        assert await anext(events) == RuntimeEvent(kind=EventKind.OPENED)
        assert runtime.listening == 1


async def test_what_happens_is_told_in_order_with_where_it_happened(runtime):
    async with aclosing(follow(runtime)) as events:
        await anext(events)
        runtime.tell(EventKind.WORKS, "/workspace")
        runtime.tell(EventKind.CHANGED, "/elsewhere")

        told = [await anext(events), await anext(events)]

    assert told == [
        RuntimeEvent(kind=EventKind.WORKS, directory="/workspace"),
        RuntimeEvent(kind=EventKind.CHANGED, directory="/elsewhere"),
    ]


async def test_what_happened_before_it_was_listened_to_is_not_told(runtime):
    runtime.tell(EventKind.WORKS, "/workspace")
    async with aclosing(follow(runtime)) as events:
        await anext(events)
        runtime.tell(EventKind.CHANGED, "/workspace")

        assert (await anext(events)).kind is EventKind.CHANGED


async def test_a_stream_that_is_closed_is_listened_to_no_more(runtime):
    async with aclosing(follow(runtime)) as events:
        await anext(events)

    async with asyncio.timeout(5):
        while runtime.listening:  # noqa: ASYNC110 - a fake and a server have no event in common
            await asyncio.sleep(0.01)


async def test_the_end_of_a_stream_says_so(runtime):
    events = follow(runtime)
    await anext(events)
    runtime.hang_up()

    assert isinstance(await why_it_ends(events), UpstreamUnavailable)


@pytest.mark.parametrize("behaviour", [{"password": ""}, {"is_something_else": True}], ids=str)
async def test_only_a_runtime_that_refuses_the_unauthenticated_is_shown_a_password(runtime, behaviour):
    for name, value in behaviour.items():
        setattr(runtime.server, name, value)

    assert isinstance(await why_it_ends(follow(runtime)), UpstreamUnavailable)
    assert runtime.server.tried == []


async def test_a_runtime_that_has_another_password_refuses_ours(runtime):
    error = await why_it_ends(follow(runtime, password="another"))

    assert isinstance(error, UpstreamDenied)
    assert "another" not in str(error)


async def test_where_nothing_listens_nothing_is_told(runtime):
    assert isinstance(await why_it_ends(follow(runtime, address=NOWHERE)), UpstreamUnavailable)


async def test_a_runtime_that_hangs_is_given_up_at_the_deadline(runtime):
    runtime.server.hangs = True

    error = await why_it_ends(follow(runtime, deadline=Deadline.after(0.2, "test")))

    assert isinstance(error, UpstreamUnavailable | DeadlineExceeded)


async def test_a_password_that_cannot_be_read_is_passed_on(runtime):
    async def read_password() -> Password:
        raise UpstreamUnavailable("vault", "read")

    with pytest.raises(UpstreamUnavailable, match="vault"):
        await anext(
            runtime.events.follow(address=runtime.address, read_password=read_password, deadline=soon())
        )
