"""How OpenCode's words are read, and what a stream may do to whoever listens."""

import json
from contextlib import aclosing

import pytest

from hostile_server import HostileServer, Misbehaviour, hostile_server, reply
from opencode_lifecycle.adapters.opencode.event_stream import LONGEST_LINE, Lines, OpenCodeEvents, event_in
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamError, UpstreamNonsense, UpstreamUnavailable
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.runtime_events import EventKind, RuntimeEvent

PASSWORD = "planted-password"


def line(payload: object, directory: object = "/workspace") -> bytes:
    told = {"directory": directory, "project": "p", "payload": payload}
    return b"data: " + json.dumps(told, separators=(",", ":")).encode()


def told(payload: object) -> EventKind | None:
    event = event_in(line(payload))
    return event.kind if event is not None else None


def status(kind: str) -> dict[str, object]:
    return {
        "id": "evt_1",
        "type": "session.status",
        "properties": {"sessionID": "s", "status": {"type": kind}},
    }


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"type": "server.connected"}, EventKind.OPENED),
        (status("busy"), EventKind.WORKS),
        (status("retry"), EventKind.WORKS),
        (status("idle"), EventKind.CHANGED),
        (status("something new"), EventKind.CHANGED),
        ({"type": "session.idle"}, EventKind.CHANGED),
        ({"type": "permission.asked"}, EventKind.WORKS),
        ({"type": "permission.replied"}, EventKind.CHANGED),
        ({"type": "permission.something-new"}, EventKind.CHANGED),
        ({"type": "question.asked"}, EventKind.WORKS),
        ({"type": "question.replied"}, EventKind.CHANGED),
        ({"type": "question.rejected"}, EventKind.CHANGED),
        ({"type": "pty.created"}, EventKind.WORKS),
        ({"type": "pty.exited"}, EventKind.CHANGED),
        ({"type": "pty.deleted"}, EventKind.CHANGED),
        ({"type": "server.instance.disposed"}, EventKind.CHANGED),
        ({"type": "global.disposed"}, EventKind.CHANGED),
        ({"type": "session.status"}, EventKind.CHANGED),
        ({"type": "session.status", "properties": []}, EventKind.CHANGED),
    ],
    ids=str,
)
def test_what_may_change_whether_anything_works_is_told(payload, kind):
    assert told(payload) is kind


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "server.heartbeat"},
        {"type": "message.part.delta", "properties": {"delta": "word"}},
        {"type": "message.part.updated", "properties": {"part": {"text": '"type":"session.idle"'}}},
        {"type": "message.part.updated", "properties": {"metadata": {"type": "session.idle"}}},
        {"type": "sync", "syncEvent": {"type": "session.status", "data": {"status": {"type": "idle"}}}},
        {"type": "session.updated", "properties": {}},
        {"type": "session.diff", "properties": {}},
    ],
    ids=lambda payload: payload["type"],
)
def test_what_is_said_again_or_says_nothing_of_work_is_not_told(payload):
    assert told(payload) is None


@pytest.mark.parametrize("raw", [b"", b": comment", b"event: message", b"id: 3", b"retry: 100", b"data:"])
def test_a_line_that_holds_no_event_tells_nothing(raw):
    assert event_in(raw) is None


@pytest.mark.parametrize(
    "raw",
    [
        b'data: {"payload":{"type":"session.idle"',
        b'data: "type":"session.idle"',
        b'data: ["type":"session.idle"]',
        b'data: [{"type":"session.idle"}]',
        b'data: {"payload":["type",{"type":"session.idle"}]}',
        b'data: {"payload":{"type":3,"properties":{"type":"session.idle"}}}',
        b"data: " + b"[" * 100_000 + b'{"type":"session.idle"}',
        b'data: {"type":"session.idle","payload":"\xff"}',
        None,
    ],
    ids=lambda raw: repr(raw)[:60],
)
def test_what_may_matter_and_cannot_be_read_is_to_be_looked_at(raw):
    assert event_in(raw) == RuntimeEvent(kind=EventKind.CHANGED)


@pytest.mark.parametrize("directory", [None, 3, ["/workspace"]])
def test_an_event_that_does_not_say_where_it_happened_is_told_all_the_same(directory):
    assert event_in(line({"type": "session.idle"}, directory)) == RuntimeEvent(kind=EventKind.CHANGED)


# Lines


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_are_the_same_however_they_come(size):
    raw = b"first\n\nthird\r\nlast\n"
    lines = Lines(100)

    found = [each for at in range(0, len(raw), size) for each in lines.feed(raw[at : at + size])]

    assert found == [b"first", b"", b"third\r", b"last"]


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_line_beyond_the_bound_is_dropped_and_told_as_dropped(size):
    raw = b"12345678\n123456789\nshort\n" + b"x" * 1000 + b"\nend\n"
    lines = Lines(8)

    found = [each for at in range(0, len(raw), size) for each in lines.feed(raw[at : at + size])]

    assert found == [b"12345678", None, b"short", None, b"end"]


def test_a_line_that_never_ends_takes_no_memory():
    lines = Lines(8)
    for _ in range(100):
        assert list(lines.feed(b"x" * 1000)) == []

    assert lines._rest == b""
    assert list(lines.feed(b"\nend\n")) == [None, b"end"]


# Over HTTP


@pytest.fixture
async def server():
    async with hostile_server() as http:
        yield http


REFUSAL = reply(401, WWW_Authenticate='Basic realm="Secure Area"', content_type="")
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    b'data: {"payload":{"type":"server.connected"}}\n\n'
)


async def follow(server: HostileServer, *, silence: float = 30.0) -> tuple[list[EventKind], UpstreamError]:
    """Return everything that is told, and why it ended."""

    async def read_password() -> Password:
        return Password(PASSWORD)

    events = OpenCodeEvents(silence_seconds=silence).follow(
        address=Address(host="127.0.0.1", port=server.port),
        read_password=read_password,
        deadline=Deadline.after(5, "test"),
    )
    kinds: list[EventKind] = []

    async def listen() -> None:
        async with aclosing(events):
            async for event in events:
                kinds.append(event.kind)  # noqa: PERF401 - what was told before the end counts

    with pytest.raises(UpstreamError) as ended:
        await listen()
    assert PASSWORD not in repr(ended.value)
    return kinds, ended.value


async def test_a_stream_that_says_nothing_for_three_heartbeats_has_ended(server):
    endless = reply(200, b"", content_type="text/event-stream").replace(
        b"Content-Length: 0", b"Content-Length: 99999"
    )
    server.in_turn(REFUSAL, endless + b'data: {"payload":{"type":"server.connected"}}\n\n')

    kinds, error = await follow(server, silence=0.1)

    assert kinds == [EventKind.OPENED]
    assert isinstance(error, UpstreamUnavailable)
    assert "silent" in error.message


async def test_a_line_beyond_the_bound_does_not_end_the_stream(server):
    long = line({"type": "message.part.updated", "properties": {"output": "x" * LONGEST_LINE}})
    idle = line(status("idle"))
    server.in_turn(REFUSAL, STREAM + long + b"\n\n" + idle + b"\n\n", Misbehaviour.CLOSE)

    kinds, _ = await follow(server, silence=0.2)

    assert kinds == [EventKind.OPENED, EventKind.CHANGED, EventKind.CHANGED]


async def test_a_web_page_in_place_of_the_stream_is_nonsense(server):
    server.in_turn(REFUSAL, reply(200, b"<!doctype html>", content_type="text/html"))

    kinds, error = await follow(server)

    assert kinds == []
    assert isinstance(error, UpstreamNonsense)


async def test_a_redirect_is_not_followed(server):
    server.in_turn(REFUSAL, reply(302, Location=f"{server.url}/elsewhere"))

    _, error = await follow(server)

    assert isinstance(error, UpstreamNonsense)
    assert [request.path for request in server.requests] == ["/global/health", "/global/event"]


@pytest.mark.parametrize(
    "misbehaviour", [Misbehaviour.RESET, Misbehaviour.CLOSE, Misbehaviour.GARBLE, Misbehaviour.ENDLESS]
)
async def test_whatever_is_answered_in_its_place_ends_as_a_failure_of_the_runtime(server, misbehaviour):
    server.in_turn(REFUSAL, misbehaviour)

    kinds, error = await follow(server)

    assert kinds == []
    assert error.system == "opencode"


async def test_the_password_goes_to_the_program_that_has_just_refused_us(server):
    server.in_turn(REFUSAL, STREAM, Misbehaviour.CLOSE)

    await follow(server, silence=0.2)

    first, second = server.requests[:2]
    assert "authorization" not in first.headers
    assert second.headers["authorization"].startswith("Basic ")
    assert first.connection == second.connection
