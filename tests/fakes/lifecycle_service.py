"""
The service's HTTP API with scripted answers, on a real socket in a thread of its own.

What it answers has the exact shapes of the contract (a test holds them against the service's own schemas). It refuses
whoever lacks the token, and remembers what it was asked.
"""

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

TOKEN = "olt_planted-service-token-5c1d"
PUBLIC = {"/readyz", "/openapi.json"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, kw_only=True)
class Scripted:
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    after: float = 0.0


class LifecycleService:
    """Answers each call with the next of its scripted answers; the last one stays."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.url = ""
        self._script: dict[tuple[str, str], list[Scripted]] = defaultdict(list)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="lifecycle service")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10), "the scripted service did not start"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stopped is not None
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def answers(self, call: str, body: Any = None, *, status: int = 200, **headers: str) -> None:
        """Add an answer to *call*, such as `GET /v1/stacks/ada`, its path as it is on the wire, without query."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._next(call).append(Scripted(status=status, body=body, headers=named))

    def now_answers(self, call: str, body: Any) -> None:
        """Answer *call* with *body* from now on, whatever was said before."""
        self._next(call)[:] = [Scripted(body=body)]

    def is_slow(self, call: str, seconds: float, body: Any) -> None:
        """Answer *call* so late."""
        self._next(call).append(Scripted(body=body, after=seconds))

    def refuses(self, call: str, status: int, code: str, detail: str = "", **more: Any) -> None:
        """Answer *call* with a problem document from now on."""
        self._next(call).append(Scripted(status=status, body=problem(status, code, detail, **more)))

    def cuts(self, call: str) -> None:
        """Drop the connection of *call* after reading it."""
        self._next(call).append(Scripted(cut=True))

    def was_asked(self, method: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == method]

    def _next(self, call: str) -> list[Scripted]:
        method, _, path = call.partition(" ")
        return self._script[method, path]

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
            self._started.set()
            await self._stopped.wait()
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        text = await request.text()
        self.asked.append(
            Asked(
                method=request.method,
                path=path,
                query=dict(request.query),
                headers=dict(request.headers),
                body=json.loads(text) if text else None,
            )
        )
        if path not in PUBLIC and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _response(Scripted(status=401, body=problem(401, "unauthenticated", "A token is needed.")))
        script = self._script[request.method, path]
        if not script:
            return _response(Scripted(status=404, body=problem(404, "not-found", "No such call.")))
        scripted = script.pop(0) if len(script) > 1 else script[0]
        await asyncio.sleep(scripted.after)
        if scripted.cut:
            assert request.transport is not None
            request.transport.abort()
        return _response(scripted)


def _response(scripted: Scripted) -> web.Response:
    headers = dict(scripted.headers)
    if isinstance(scripted.body, bytes):
        return web.Response(status=scripted.status, body=scripted.body, headers=headers)
    if scripted.body is None:
        return web.Response(status=scripted.status, headers=headers)
    kind = (
        "application/problem+json"
        if scripted.status >= 400 and "code" in scripted.body
        else "application/json"
    )
    body = json.dumps(scripted.body)
    return web.Response(status=scripted.status, text=body, content_type=kind, headers=headers)


def problem(status: int, code: str, detail: str = "", **more: Any) -> dict[str, Any]:
    return {
        "type": f"https://opencode-lifecycle.example/problems/{code}",
        "title": code.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail or f"It is {code}.",
        "instance": "urn:uuid:00000000-0000-4000-8000-000000000000",
        "code": code,
        **more,
    }
