"""Stands between the service and one of its servers, and does to each exchange what a test wants done to it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

_OF_ONE_CONNECTION = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "upgrade", "te"}
)
_STREAMS = "/v1/event/stream"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came. `path` has the query."""

    method: str
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


PassOn = Callable[[], Awaitable[Reply]]
Meddler = Callable[[Asked, PassOn], Awaitable[Reply | None]]
"""Returns what the service is answered. None breaks the connection, before or after the request was passed on."""


async def honest(asked: Asked, pass_on: PassOn) -> Reply | None:
    del asked
    return await pass_on()


@dataclass(slots=True)
class Interceptor:
    """A server's event stream is passed on as it comes; everything else goes through the meddler, one exchange at a time."""

    target: str
    port: int = 0
    meddler: Meddler = honest
    asked: list[Asked] = field(default_factory=list)
    """Every request that came, in order."""
    _is_cut: bool = False
    _streams: set[web.Request] = field(default_factory=set)
    _client: aiohttp.ClientSession | None = None

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
        """Break every connection, also those that are open, for a while."""
        self._is_cut = True
        for request in list(self._streams):
            _abort(request)
        try:
            yield
        finally:
            self._is_cut = False

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if self._is_cut:
            return _abort(request)
        if request.path == _STREAMS:
            return await self._stream(request)
        asked = Asked(request.method, request.raw_path, await request.read())
        self.asked.append(asked)
        try:
            reply = await self.meddler(asked, lambda: self._pass_on(request, asked))
        except (aiohttp.ClientError, OSError):
            reply = None
        if reply is None or self._is_cut:
            return _abort(request)
        return web.Response(status=reply.status, headers=reply.headers, body=reply.body)

    async def _pass_on(self, request: web.Request, asked: Asked) -> Reply:
        async with self._send(request, asked.body) as response:
            return Reply(response.status, _passed(response.headers), await response.read())

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self._streams.add(request)
        try:
            async with self._send(request, b"") as response:
                passed = web.StreamResponse(status=response.status, headers=_passed(response.headers))
                await passed.prepare(request)
                async for block in response.content.iter_any():
                    await passed.write(block)
                return passed
        except (aiohttp.ClientError, OSError):
            return _abort(request)
        finally:
            self._streams.discard(request)

    def _send(self, request: web.Request, body: bytes) -> "aiohttp.client._RequestContextManager":
        assert self._client is not None
        return self._client.request(
            request.method,
            URL(self.target + request.raw_path, encoded=True),
            headers=_passed(request.headers),
            data=body or None,
            allow_redirects=False,
        )


def _passed(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in _OF_ONE_CONNECTION
    )


def _abort(request: web.Request) -> web.Response:
    with suppress(AttributeError):
        request.transport.abort()
    return web.Response(status=500)


@asynccontextmanager
async def interceptor_of(target: str) -> AsyncIterator[Interceptor]:
    interceptor = Interceptor(target)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", interceptor.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    interceptor.port = runner.addresses[0][1]
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None),
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        auto_decompress=False,
        skip_auto_headers=["User-Agent", "Accept", "Accept-Encoding", "Content-Type"],
    ) as interceptor._client:
        try:
            yield interceptor
        finally:
            async with interceptor.cut():
                await runner.cleanup()


@dataclass(slots=True)
class LosesAnswers:
    """Loses the answers to the first *times* requests that are meant, after they were carried out."""

    is_meant: Callable[[Asked], bool]
    times: int = 1
    lost: list[Asked] = field(default_factory=list)

    async def __call__(self, asked: Asked, pass_on: PassOn) -> Reply | None:
        reply = await pass_on()
        if self.is_meant(asked) and len(self.lost) < self.times and reply.status < 300:
            self.lost.append(asked)
            return None
        return reply
