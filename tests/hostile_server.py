"""A loopback server that answers whatever a test wants, byte by byte, or never."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class SeenRequest:
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    connection: int


class Misbehaviour(Enum):
    HANG = "takes the request and says nothing"
    RESET = "takes the request and resets the connection"
    CLOSE = "takes the request and closes the connection"
    ENDLESS = "answers JSON that never ends"
    DRIP = "answers one byte at a time, slowly, for ever"
    CUT = "promises a body and closes in the middle of it"
    GARBLE = "answers what is not HTTP"


Reply = bytes | Misbehaviour
Script = Callable[[SeenRequest], Reply]


def reply(
    status: int, body: object = None, *, content_type: str = "application/json", **headers: str
) -> bytes:
    """Make an answer. A body that is no bytes is sent as JSON; `_` in a header's name stands for `-`."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@dataclass(slots=True)
class HostileServer:
    port: int = 0
    script: Script = field(default=lambda _: reply(200, {}))
    requests: list[SeenRequest] = field(default_factory=list)
    connections: int = 0
    conversations: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def always(self, answer: Reply) -> None:
        self.script = lambda _: answer

    def in_turn(self, *answers: Reply) -> None:
        """Give these answers one after another; the last one for ever."""
        left = list(answers)
        self.script = lambda _: left.pop(0) if len(left) > 1 else left[0]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        task = asyncio.current_task()
        assert task is not None
        self.conversations.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    request = await read_request(reader, number)
                    self.requests.append(request)
                    if not await _answer(self.script(request), reader, writer):
                        break
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()
            self.conversations.discard(task)


@asynccontextmanager
async def hostile_server() -> AsyncIterator[HostileServer]:
    hostile = HostileServer()
    server = await asyncio.start_server(hostile.serve, "127.0.0.1", 0)
    hostile.port = server.sockets[0].getsockname()[1]
    try:
        yield hostile
    finally:
        server.close()
        conversations = tuple(hostile.conversations)
        for conversation in conversations:
            conversation.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader, connection: int) -> SeenRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return SeenRequest(method, path, headers, body, connection)


async def _answer(answer: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Return whether the connection goes on."""
    match answer:
        case bytes():
            writer.write(answer)
            await writer.drain()
            return True
        case Misbehaviour.HANG:
            await reader.read()
        case Misbehaviour.RESET:
            linger_none = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
        case Misbehaviour.CLOSE:
            pass
        case Misbehaviour.ENDLESS:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
            while True:
                writer.write(b'"' + b"x" * 65536 + b'",')
                await writer.drain()
        case Misbehaviour.DRIP:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)  # this is what dripping is
        case Misbehaviour.CUT:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
            await writer.drain()
        case Misbehaviour.GARBLE:
            writer.write(b"\x00\x01SSH-2.0-whatever\r\n\r\n")
            await writer.drain()
    return False
