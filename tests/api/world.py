"""The whole API on a loopback port, over use cases in memory, and clients for every role."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry
from yarl import URL

from api.access_in_memory import Clocks, MemoryAccess, MemoryIdempotency
from api.in_memory import MemoryLeases, MemoryProvisioning, MemorySnapshots
from api.in_memory_releases import MemoryGroups, MemoryReleasing
from api.oversight_in_memory import MemoryOversight, MemoryReadiness
from api.rollouts_in_memory import MemoryRollouts
from opencode_lifecycle.api.server import Runner, build_app
from opencode_lifecycle.lifecycle.requests.rate_limits import DEFAULT_POLICIES, RateClass, RatePolicy
from opencode_lifecycle.model.principal import Role

SECRETS = {
    "backend": "planted-token-backend-8f1a",
    "operator": "planted-token-operator-77b0",
    "auditor": "planted-token-auditor-19cc",
    "ada": "planted-token-ada-5ed2",
    "bob": "planted-token-bob-a004",
}


async def eventually(holds: Callable[[], bool]) -> None:
    """Return as soon as *holds* does, or fail."""
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("what was waited for did not come")


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str
    json: Any = None

    @property
    def code(self) -> str:
        return self.json["code"]


@dataclass
class World:
    rates: Mapping[RateClass, RatePolicy] = field(default_factory=lambda: DEFAULT_POLICIES)
    provisioning: MemoryProvisioning = field(default_factory=MemoryProvisioning)
    oversight: MemoryOversight = field(default_factory=MemoryOversight)
    rollouts: MemoryRollouts = field(default_factory=MemoryRollouts)
    access: MemoryAccess = field(default_factory=MemoryAccess)
    readiness: MemoryReadiness = field(default_factory=MemoryReadiness)
    releasing: MemoryReleasing = field(default_factory=MemoryReleasing)
    groups: MemoryGroups = field(default_factory=MemoryGroups)
    clocks: Clocks = field(default_factory=Clocks)
    max_body_bytes: int = 65536
    shutdown_seconds: float = 1.0

    async def __aenter__(self) -> Self:
        self.idempotency = MemoryIdempotency(self.clocks.now)
        self.leases = MemoryLeases(self.clocks.now)
        self.snapshots = MemorySnapshots(self.provisioning)
        self.registry = CollectorRegistry()
        for name, secret in SECRETS.items():
            role = Role.USER if name in {"ada", "bob"} else Role(name)
            self.access.given(secret, role, name if role is Role.USER else None, name)
        app = build_app(
            provisioning=self.provisioning,
            leases=self.leases,
            oversight=self.oversight,
            rollouts=self.rollouts,
            access=self.access,
            readiness=self.readiness,
            releasing=self.releasing,
            groups=self.groups,
            snapshots=self.snapshots,
            idempotency=self.idempotency,
            registry=self.registry,
            allowed_environment=("TZ", "EDITOR"),
            max_body_bytes=self.max_body_bytes,
            rates=self.rates,
            now=self.clocks.now,
            monotonic_clock=self.clocks.monotonic,
        )
        self.runner = Runner(app, shutdown_seconds=self.shutdown_seconds)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port: int = self.runner.addresses[0][1]
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        await self.runner.cleanup()

    async def call(
        self,
        method: str,
        target: str,
        *,
        by: str | None = "backend",
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Answer:
        """Send one request; *target* goes over the wire exactly as it is."""
        sent = dict(headers or {})
        if by is not None:
            sent.setdefault("Authorization", f"Bearer {SECRETS.get(by, by)}")
        url = URL(f"http://127.0.0.1:{self.port}{target}", encoded=True)
        async with self.session.request(
            method, url, headers=sent, allow_redirects=False, **options
        ) as answer:
            text = await answer.text()
            parsed = await answer.json(content_type=None) if "json" in answer.content_type and text else None
            return Answer(answer.status, answer.headers, text, parsed)

    async def raw(self, request: bytes, *, close: bool = True) -> bytes:
        """Send bytes and read until the server closes; the last line of defence has no client library before it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            return await asyncio.wait_for(reader.read(), 15)
        except ConnectionError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def raw_call(
        self, line: str, *, by: str | None = "backend", headers: str = "", body: bytes = b""
    ) -> tuple[int, bytes]:
        """Send one hand-made request and return status and everything that came back."""
        token = f"Authorization: Bearer {SECRETS[by]}\r\n" if by is not None else ""
        head = f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}{headers}\r\n"
        answer = await self.raw(head.encode("latin-1") + body)
        return int(answer.split(b" ", 2)[1]), answer
