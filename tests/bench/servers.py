"""The private cluster of the bench, and what an operator may do to it between runs."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from bench import machine
from bench.show import say
from cluster_fixture import REUSED, RealCluster, bring_up, take_down

Item = TypeVar("Item")

NAMESPACE = "opencode"
SERVERS = ("nomad", "vault", "consul")
_PATIENCE = 120.0
_AT_ONCE = 32
_LIVE = frozenset({"pending", "running"})
_LONGEST_EVENT = 16 * 1024 * 1024


@contextmanager
def cluster() -> Iterator[RealCluster]:
    """Yield real servers with their data on disk; left up when the variable of the tests names their directory."""
    reused = environ.get(REUSED)
    if reused:
        yield bring_up(Path(reused).absolute())
        return
    say("starting a private cluster")
    directory = Path(tempfile.mkdtemp(prefix="oc-", dir="/tmp"))
    try:
        yield bring_up(directory)
    finally:
        take_down(directory)


def cpu_of(cluster: RealCluster) -> dict[str, float]:
    return {name: machine.cpu_seconds(cluster.process(name).pid) for name in SERVERS}


@dataclass(frozen=True, slots=True)
class Operator:
    """Management calls: the neutral side of every run."""

    cluster: RealCluster
    session: aiohttp.ClientSession

    async def nomad(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """Call Nomad and return its JSON, or None for an empty answer or 404."""
        headers = {"X-Nomad-Token": self.cluster.nomad_token}
        url = f"{self.cluster.nomad_address}/v1/{path}"
        parameters = {"namespace": NAMESPACE, **query}
        async with self.session.request(method, url, json=body, headers=headers, params=parameters) as answer:
            if answer.status == 404:
                return None
            text = await answer.text()
            if answer.status != 200:
                raise RuntimeError(f"Nomad: {method} {path}: {answer.status} {text[:300]}")
            return json.loads(text) if text else None

    async def vault_delete(self, path: str) -> None:
        headers = {"X-Vault-Token": self.cluster.vault_token}
        async with self.session.delete(f"{self.cluster.vault_address}/v1/{path}", headers=headers) as answer:
            answer.raise_for_status()

    async def job_ids(self) -> list[str]:
        return [job["ID"] for job in await self.nomad("GET", "jobs", prefix="oc-") or []]

    async def allocations(self) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = await self.nomad("GET", "allocations") or []
        return found

    async def clean_up(self) -> None:
        """Purge every job of ours with its secret, and return when Nomad has forgotten all allocations."""

        async def purge(job_id: str) -> None:
            await self.nomad("DELETE", f"job/{job_id}", purge="true")
            await self.vault_delete(f"kv/metadata/opencode/{job_id}")

        await self.for_each(await self.job_ids(), purge)
        async with asyncio.timeout(_PATIENCE):
            while any(each["ClientStatus"] in _LIVE for each in await self.allocations()):  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.1)
            while await self.allocations():
                await self.nomad("PUT", "system/gc")
                await asyncio.sleep(0.2)

    async def for_each(self, items: Iterable[Item], act: Callable[[Item], Awaitable[None]]) -> None:
        """Do *act* with each of *items*, so many at once."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def limited(item: Item) -> None:
            async with limit:
                await act(item)

        await asyncio.gather(*(limited(item) for item in items))

    async def index(self) -> int:
        """Return Nomad's index of now."""
        headers = {"X-Nomad-Token": self.cluster.nomad_token}
        async with self.session.get(f"{self.cluster.nomad_address}/v1/jobs", headers=headers) as answer:
            return int(answer.headers["X-Nomad-Index"])

    async def until_running(self, count: int, connected: asyncio.Event) -> None:
        """Return as soon as Nomad's event stream has shown *count* allocations that run."""
        headers = {"X-Nomad-Token": self.cluster.nomad_token}
        query = {"topic": "Allocation", "namespace": NAMESPACE, "index": str(await self.index())}
        running: set[str] = set()
        async with self.session.get(
            f"{self.cluster.nomad_address}/v1/event/stream",
            headers=headers,
            params=query,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=_PATIENCE),
            read_bufsize=_LONGEST_EVENT,
        ) as answer:
            answer.raise_for_status()
            connected.set()
            async for line in answer.content:
                if b'"running"' not in line:
                    continue
                for event in json.loads(line).get("Events") or ():
                    allocation = event["Payload"].get("Allocation") or {}
                    if allocation.get("ClientStatus") == "running":
                        running.add(allocation["ID"])
                if len(running) >= count:
                    return


@asynccontextmanager
async def operator(cluster: RealCluster) -> AsyncIterator[Operator]:
    timeout = aiohttp.ClientTimeout(total=_PATIENCE)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=64)) as session:
        yield Operator(cluster, session)
