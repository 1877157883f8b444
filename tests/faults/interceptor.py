"""Stands between the service and one of its servers, and does to each exchange what a test wants done to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from hostile_server import SeenRequest, read_request

_OF_ONE_CONNECTION = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)
_PLAIN = {"Accept-Encoding": "identity"}
"""So that a meddler can read what it changes."""
_STREAM = "/v1/event/stream"
SERVERS = ("nomad", "vault", "consul")


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


PassOn = Callable[[], Awaitable[Reply]]
Meddler = Callable[[SeenRequest, PassOn], Awaitable[Reply | None]]
"""Returns what the service is answered. None breaks the connection, before or after the request was passed on."""


async def honest(asked: SeenRequest, pass_on: PassOn) -> Reply | None:
    del asked
    return await pass_on()


@dataclass(slots=True)
class Interceptor:
    """
    Passes a server's event stream on as it comes, and everything else through the meddler, one exchange at a time.

    No web server: none that knows its methods would take Vault's LIST.
    """

    target: str
    client: aiohttp.ClientSession
    port: int = 0
    meddler: Meddler = honest
    asked: list[SeenRequest] = field(default_factory=list)
    """Every request that came, in order."""
    _is_cut: bool = False
    _conversations: dict["asyncio.Task[None]", asyncio.StreamWriter] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def meddling(self, meddler: Meddler) -> AsyncIterator[None]:
        self.meddler, before = meddler, self.meddler
        try:
            yield
        finally:
            self.meddler = before

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[None]:
        """Break every connection for a while, also those that are open."""
        self._is_cut = True
        for writer in list(self._conversations.values()):
            writer.transport.abort()
        try:
            yield
        finally:
            self._is_cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations[task] = writer
        try:
            # The end of this task is nobody's to hear of but ours: asyncio 3.11 complains of one that was cancelled.
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, aiohttp.ClientError, asyncio.CancelledError
            ):
                while not self._is_cut and await self._exchange(await read_request(reader, 0), writer):
                    pass
        finally:
            del self._conversations[task]
            writer.transport.abort()

    async def end(self) -> None:
        tasks = list(self._conversations)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _exchange(self, asked: SeenRequest, writer: asyncio.StreamWriter) -> bool:
        """Return whether the connection goes on."""
        if asked.path.startswith(_STREAM):
            await self._stream(asked, writer)
            return False
        self.asked.append(asked)
        reply = await self.meddler(asked, lambda: self._pass_on(asked))
        if reply is None or self._is_cut:
            return False
        length = ("Content-Length", str(len(reply.body)))
        writer.write(_head(reply.status, [*reply.headers.items(), length]) + reply.body)
        await writer.drain()
        return True

    async def _pass_on(self, asked: SeenRequest) -> Reply:
        async with self._send(asked) as response:
            body = await response.read()
            return Reply(response.status, dict(_passed(response.headers.items())), body)

    async def _stream(self, asked: SeenRequest, writer: asyncio.StreamWriter) -> None:
        async with self._send(asked) as response:
            close = ("Connection", "close")
            writer.write(_head(response.status, [*_passed(response.headers.items()), close]))
            async for block in response.content.iter_any():
                writer.write(block)
                await writer.drain()

    def _send(self, asked: SeenRequest) -> "aiohttp.client._RequestContextManager":
        return self.client.request(
            asked.method,
            URL(self.target + asked.path, encoded=True),
            headers={**dict(_passed(asked.headers.items())), **_PLAIN},
            data=asked.body or None,
            allow_redirects=False,
        )


def _passed(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in _OF_ONE_CONNECTION]


def _head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} Passed", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@asynccontextmanager
async def interceptor_of(target: str) -> AsyncIterator[Interceptor]:
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None),
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        auto_decompress=False,
        skip_auto_headers=["User-Agent", "Accept", "Accept-Encoding", "Content-Type"],
    ) as client:
        interceptor = Interceptor(target, client)
        server = await asyncio.start_server(interceptor.serve, "127.0.0.1", 0)
        interceptor.port = server.sockets[0].getsockname()[1]
        try:
            yield interceptor
        finally:
            server.close()
            await interceptor.end()
            await server.wait_closed()


def addresses(ways: Mapping[str, Interceptor]) -> dict[str, str]:
    """Return the settings that lead a service to them."""
    return {f"{server}_address": way.url for server, way in ways.items()}


@dataclass(slots=True)
class LosesAnswers:
    """Loses the answers to the first *times* requests that are meant, after they were carried out."""

    is_meant: Callable[[SeenRequest], bool]
    times: int = 1
    lost: list[SeenRequest] = field(default_factory=list)

    async def __call__(self, asked: SeenRequest, pass_on: PassOn) -> Reply | None:
        reply = await pass_on()
        if self.is_meant(asked) and len(self.lost) < self.times and reply.status < 300:
            self.lost.append(asked)
            return None
        return reply
