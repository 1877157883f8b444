"""Requests that are ambiguous, and connections on which nothing comes to its end."""

import asyncio

import pytest

from api.world import SECRETS, eventually
from opencode_lifecycle.api import server


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: \u0662\r\n",
        "Content-Length: -2\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "X: a\r\n folded\r\n",
        "X : a\r\n",
        "X\x00: a\r\n",
    ],
)
async def test_a_request_whose_end_is_ambiguous_is_refused_and_the_connection_closed(world, head):
    request = (
        f"PUT /v1/stacks/ada HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['backend']}\r\n{head}\r\n"
    )
    smuggled = (
        f"DELETE /v1/stacks/ada HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['backend']}\r\n\r\n"
    )

    answer = await world.raw(request.encode() + b"{}" + smuggled.encode())

    assert answer.split(b" ")[1] == b"400"
    assert b"application/problem+json" in answer
    assert answer.count(b"HTTP/1.") == 1
    assert world.provisioning.calls == []


async def test_a_hundred_headers_are_too_many(world):
    status, _ = await world.raw_call(
        "GET /v1/stacks/ada", headers="".join(f"X-{i}: a\r\n" for i in range(100))
    )

    assert status == 400


async def test_what_a_client_sends_never_starts_a_line_in_the_log(world, logged):
    await world.raw_call("GET /v1/stacks/x", headers="User-Agent: a\x1b[31m\r\nX-Request-Id: evil\r\n")
    await world.call("GET", "/v1/stacks/a%0aFAKE%20LINE", headers={"X-Request-Id": "evil"})

    assert "FAKE" not in str(logged)
    assert "evil" not in str(logged)
    assert "\x1b" not in str(logged)


async def test_a_head_that_never_ends_ends_its_connection(world, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)

    writer.write(b"GET /livez HTTP/1.1\r\nX-Slow: ")

    assert await reader.read() == b""
    writer.close()


async def test_a_connection_on_which_nothing_is_asked_ends(world, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)

    assert await reader.read() == b""
    writer.close()


async def test_an_answer_that_takes_its_time_is_not_cut_off(world, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.05)
    world.provisioning.gate = asyncio.Event()
    call = asyncio.create_task(world.call("PUT", "/v1/stacks/ada"))
    await eventually(lambda: bool(world.provisioning.calls))
    slow = await asyncio.open_connection("127.0.0.1", world.port)
    assert await slow[0].read() == b"", "the time for a head has passed"
    slow[1].close()

    world.provisioning.gate.set()

    assert (await call).status in {200, 202}
