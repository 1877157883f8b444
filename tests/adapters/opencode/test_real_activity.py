"""A real OpenCode shows what its sessions do, wherever they are."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.ports.prober import Activity
from opencode_session import archive, ask, client_of, open_session
from real_opencode import RealOpenCode

pytestmark = [pytest.mark.opencode, pytest.mark.timeout(300)]

Seen = TypeVar("Seen")


async def until(read: Callable[[], Awaitable[Seen]], holds: Callable[[Seen], bool]) -> Seen:
    """Read until what was read is as it should be, with pauses: who asks without any keeps the server from its work."""
    async with asyncio.timeout(60):
        while True:
            found = await read()
            if holds(found):
                return found
            await asyncio.sleep(0.05)


async def activity(server: RealOpenCode) -> Activity:
    async def read_password() -> Password:
        return Password(server.password)

    found = await server.prober.activity(
        address=server.address, read_password=read_password, deadline=Deadline.after(60, "test")
    )
    assert found is not None
    return found


async def until_busy(server: RealOpenCode) -> Activity:
    """The status of a session may lag behind what it asks its model."""
    return await until(lambda: activity(server), lambda found: found.busy)


async def until_idle(server: RealOpenCode) -> Activity:
    """The status of a session may lag behind its answer."""
    return await until(lambda: activity(server), lambda found: not found.busy)


async def test_a_session_at_work_in_another_directory_is_seen_until_it_is_done(server, model, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    began = datetime.now(UTC).replace(microsecond=0)
    await ask(server.address.url, server.password, server.directory, "Hello.")
    hold = model.hold("Take your time.")

    asking = asyncio.create_task(ask(server.address.url, server.password, str(elsewhere), "Take your time."))
    await asyncio.wait_for(hold.reached.wait(), 60)
    at_work = await until_busy(server)
    hold.release()
    await asking
    idle = await until_idle(server)

    assert at_work.busy
    assert began <= at_work.changed_at <= idle.changed_at <= datetime.now(UTC)


async def test_an_archived_session_at_work_is_seen(server, model):
    where = server.address.url, server.password, server.directory
    session = await open_session(*where)
    hold = model.hold("Take your time.")
    asking = asyncio.create_task(ask(*where, "Take your time.", session=session))
    await asyncio.wait_for(hold.reached.wait(), 60)

    await archive(*where, session)
    found = await until_busy(server)

    hold.release()
    await asking
    assert found.changed_at is not None


async def test_a_running_tool_is_seen_until_it_is_done(server, model, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    handle = os.open(gate, os.O_RDWR)
    model.call_tool("Wait there.", "bash", command=f"read line < {gate}", description="Waits")

    asking = asyncio.create_task(ask(server.address.url, server.password, server.directory, "Wait there."))
    await until_part(server, is_running_tool)
    at_work = await activity(server)
    os.write(handle, b"done\n")
    answer = await asking

    assert at_work.busy
    assert answer == "Done."
    assert not (await until_idle(server)).busy
    os.close(handle)


async def test_a_session_that_waits_for_a_permission_is_seen_until_it_is_answered(server, model):
    where = server.address.url, server.password, server.directory
    rule = {"permission": "bash", "pattern": "*", "action": "ask"}
    session = await open_session(*where, permission=[rule])
    model.call_tool("Say hello.", "bash", command="echo hello", description="Says hello")

    asking = asyncio.create_task(ask(*where, "Say hello.", session=session))
    permission = await until_asked(server)
    waiting = await activity(server)
    await call(server, "POST", f"/permission/{permission}/reply", body={"reply": "once"})
    answer = await asking

    assert waiting.busy
    assert answer == "Done."
    assert not (await until_idle(server)).busy


async def call(server: RealOpenCode, method: str, path: str, *, body: object = None) -> Any:
    async with (
        client_of(server.address.url, server.password) as client,
        client.request(method, path, params={"directory": server.directory}, json=body) as response,
    ):
        return await response.json()


async def until_asked(server: RealOpenCode) -> str:
    """Wait until a session asks for a permission, and return the id of that."""
    asked = await until(lambda: call(server, "GET", "/permission"), bool)
    return str(asked[0]["id"])


def is_running_tool(part: Mapping[str, Any]) -> bool:
    return part["type"] == "tool" and part["state"]["status"] == "running"


async def until_part(server: RealOpenCode, condition: Callable[[Mapping[str, Any]], bool]) -> None:
    """Wait until a message of the only session has a part of which *condition* holds."""

    async def parts() -> Sequence[Mapping[str, Any]]:
        sessions = await call(server, "GET", "/session")
        messages = [await call(server, "GET", f"/session/{each['id']}/message") for each in sessions]
        return [part for of_session in messages for message in of_session for part in message["parts"]]

    await until(parts, lambda found: any(condition(part) for part in found))


async def test_an_open_terminal_is_seen_until_it_is_closed(server, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # Opened for reading as well, so that this does not wait for the terminal's program.
    handle = os.open(gate, os.O_RDWR)
    body = {"command": "/bin/sh", "args": ["-c", f"read line < {gate}"]}
    async with (
        client_of(server.address.url, server.password) as client,
        client.post("/pty", params={"directory": server.directory}, json=body) as response,
    ):
        await response.read()

    assert await activity(server) == Activity(busy=True, changed_at=None)

    os.write(handle, b"done\n")
    assert await until_idle(server) == Activity(busy=False, changed_at=None)
    os.close(handle)
