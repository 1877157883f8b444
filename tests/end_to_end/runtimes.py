"""A runtime as a person's client sees it: what its server can be told to do; and its process, as its node does."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opencode_session import client_of


@dataclass(frozen=True, slots=True)
class Runtime:
    url: str
    password: str = field(repr=False)

    async def get(self, route: str, **query: str) -> Any:
        async with client_of(self.url, self.password) as server, server.get(route, params=query) as response:
            return await response.json()

    async def do(self, method: str, route: str, body: object = None, **query: str) -> Any:
        async with (
            client_of(self.url, self.password) as server,
            server.request(method, route, params=query, json=body) as response,
        ):
            return await response.json()

    async def directory(self) -> str:
        return (await self.get("/path"))["directory"]

    async def run(self, command: str) -> str:
        """Have its shell run *command* in the project's directory, in a session of its own; return the session."""
        directory = {"directory": await self.directory()}
        async with client_of(self.url, self.password) as server:
            async with server.post("/session", params=directory, json={}) as response:
                session = (await response.json())["id"]
            body = {"agent": "build", "command": command}
            async with server.post(f"/session/{session}/shell", params=directory, json=body) as response:
                await response.read()
        return session

    async def read(self, file: str) -> str | None:
        """Return the text of *file* in the project's directory, None when there is none."""
        found = await self.get("/file", path=".", directory=await self.directory())
        if file not in [each["name"] for each in found]:
            return None
        content = await self.get("/file/content", path=file, directory=await self.directory())
        return content["content"].strip()

    async def sessions(self) -> Sequence[str]:
        return [each["id"] for each in await self.get("/session", directory=await self.directory())]

    async def open_terminal(self) -> str:
        """Open a terminal in which a shell waits for what somebody types, and return its id."""
        body = {"command": "/bin/cat", "args": [], "title": "mine"}
        return str((await self.do("POST", "/pty", body, directory=await self.directory()))["id"])

    async def close_terminal(self, terminal: str) -> None:
        await self.do("DELETE", f"/pty/{terminal}", directory=await self.directory())

    async def asked_for(self, session: str) -> Sequence[str]:
        """Return the ids of the permissions that the agent of *session* waits for."""
        found = await self.get("/permission", directory=await self.directory())
        return [each["id"] for each in found if each["sessionID"] == session]

    async def allow(self, permission: str) -> None:
        await self.do(
            "POST", f"/permission/{permission}/reply", {"reply": "once"}, directory=await self.directory()
        )

    async def said(self, session: str) -> str:
        """Return everything in the session's messages, as text."""
        messages = await self.get(f"/session/{session}/message", directory=await self.directory())
        return str(messages)


def process_listening_as(port: int) -> int:
    """Return the process of the OpenCode, or the stub of it, that was told to listen on *port*."""
    wanted = [b"--port", str(port).encode()]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                # The entrypoint holds the same words, behind its own.
                if words[-3:-1] == wanted and b"--workspace" not in words:
                    found.append(int(entry.name))
    assert len(found) == 1, f"{len(found)} processes listen on {port}: {found}"
    return found[0]


def signal_runtime(url: str, number: int) -> int:
    """Send the signal to the runtime's own process and return its id."""
    process = process_listening_as(int(url.rsplit(":", 1)[1]))
    os.kill(process, number)
    return process
