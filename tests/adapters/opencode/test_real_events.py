"""A real OpenCode tells those who listen when a session begins to work and when it comes to rest, wherever it is."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from opencode_lifecycle.adapters.opencode.event_stream import OpenCodeEvents
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamDenied, UpstreamUnavailable
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.ports.runtime_events import EventKind, RuntimeEvent
from opencode_session import ask, client_of
from real_opencode import RealOpenCode, opencode

pytestmark = [pytest.mark.opencode, pytest.mark.timeout(300)]


def follow(server: RealOpenCode, password: str | None = None) -> AsyncIterator[RuntimeEvent]:
    async def read_password() -> Password:
        return Password(password or server.password)

    return OpenCodeEvents().follow(
        address=server.address, read_password=read_password, deadline=Deadline.after(60, "test")
    )


async def until(events: AsyncIterator[RuntimeEvent], is_it: Callable[[RuntimeEvent], bool]) -> RuntimeEvent:
    async with asyncio.timeout(60):
        async for event in events:
            if is_it(event):
                return event
    raise AssertionError("the stream ended")


async def test_a_turn_is_told_from_its_beginning_to_its_end_with_its_directory(server, model, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    hold = model.hold("Take your time.")
    async with aclosing(follow(server)) as events:
        assert await anext(events) == RuntimeEvent(kind=EventKind.OPENED)
        asking = asyncio.create_task(
            ask(server.address.url, server.password, str(elsewhere), "Take your time.")
        )

        works = await until(events, lambda event: event.kind is EventKind.WORKS)
        hold.release()
        await asking
        rests = await until(
            events, lambda event: event.kind is EventKind.CHANGED and event.directory == works.directory
        )

    assert works.directory == rests.directory == str(elsewhere)


async def test_a_long_answer_is_not_told_word_by_word(server, model):
    model.say(" ".join(["word"] * 200))
    told: list[RuntimeEvent] = []
    async with aclosing(follow(server)) as events:
        await anext(events)
        asking = asyncio.create_task(ask(server.address.url, server.password, server.directory, "Go on."))
        async with asyncio.timeout(60):
            async for event in events:
                told.append(event)
                if event.kind is EventKind.CHANGED and asking.done():
                    break
                if event.kind is EventKind.CHANGED:
                    await asking
                    break

    assert len(told) < 30


async def test_a_terminal_is_told_when_it_is_opened_and_when_it_ends(server, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # Opened for reading as well, so that this does not wait for the terminal's program.
    handle = os.open(gate, os.O_RDWR)
    body = {"command": "/bin/sh", "args": ["-c", f"read line < {gate}"]}
    async with aclosing(follow(server)) as events:
        await anext(events)
        async with (
            client_of(server.address.url, server.password) as client,
            client.post("/pty", params={"directory": server.directory}, json=body) as response,
        ):
            await response.read()

        opened = await until(events, lambda event: event.kind is EventKind.WORKS)
        os.write(handle, b"done\n")
        ended = await until(events, lambda event: event.kind is EventKind.CHANGED)
        os.close(handle)

    assert opened.directory == ended.directory == server.directory


async def test_a_reload_is_told_and_the_stream_goes_on(server):
    async with aclosing(follow(server)) as events:
        await anext(events)
        async with client_of(server.address.url, server.password) as client:
            async with client.get("/config", params={"directory": server.directory}) as response:
                await response.read()
            async with client.post("/global/dispose") as response:
                await response.read()
            await until(events, lambda event: event.kind is EventKind.CHANGED)

            asking = asyncio.create_task(
                ask(server.address.url, server.password, server.directory, "Still there?")
            )
            await until(events, lambda event: event.kind is EventKind.WORKS)
            await asking


async def test_another_password_is_refused(server):
    with pytest.raises(UpstreamDenied):
        await anext(follow(server, password="another"))


async def test_the_end_of_the_server_ends_the_stream(opencode_program, model, tmp_path):
    with opencode(opencode_program, tmp_path, password="secret-of-this-test") as server:
        events = follow(server)
        await anext(events)
    with pytest.raises(UpstreamUnavailable):
        await until(events, lambda _: False)
