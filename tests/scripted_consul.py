"""A Consul that answers what a test wants, call by call, and our catalogue in front of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from hostile_server import HostileServer, Reply, SeenRequest, hostile_server, reply
from opencode_lifecycle.adapters.consul.service_catalog import ConsulServiceCatalog
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.service_catalog import ServiceInstance

JOB = JobId("oc-ada-aaaaaaaaaaaaaaaaaaaa")
ALLOCATION = AllocationId("11111111-2222-3333-4444-555555555555")
SERVICE_ID = f"_nomad-task-{ALLOCATION}-group-opencode-{JOB}-http"
INSTANCE = ServiceInstance(
    allocation_id=ALLOCATION,
    address=Address(host="127.0.0.1", port=24001),
    passing=True,
    service_id=SERVICE_ID,
    node="node-1",
    installation="main",
)
CLAIM = (JOB, ALLOCATION)
NODE_SERVICES = "/v1/catalog/node-services/"
AUTHORIZE = "/v1/internal/acl/authorize"
CRITICAL = "/v1/health/state/critical"


def service(**changes: object) -> dict[str, object]:
    known = {
        "ID": SERVICE_ID,
        "Service": JOB,
        "Address": "127.0.0.1",
        "Port": 24001,
        "Meta": {"installation": "main"},
    }
    return known | changes


def check(**changes: object) -> dict[str, object]:
    return {"ServiceName": JOB, "ServiceID": SERVICE_ID, "Status": "critical"} | changes


def node(name: str) -> dict[str, object]:
    return {"Node": name, "Address": "10.0.0.9"}


@dataclass
class Catalogue:
    """A Consul with these services on its nodes. Of `instead`, the first path that fits is answered as it says."""

    services: Mapping[str, Sequence[object]] = field(default_factory=lambda: {"node-1": [service()]})
    instead: dict[str, Reply] = field(default_factory=dict)

    def __call__(self, request: SeenRequest) -> Reply:
        path = urlsplit(request.path).path
        for beginning, answer in self.instead.items():
            if path.startswith(beginning):
                return answer
        if path == "/v1/catalog/nodes":
            return reply(200, [node(name) for name in self.services], X_Consul_Index="7")
        if path.startswith(NODE_SERVICES):
            name = unquote(path.removeprefix(NODE_SERVICES))
            found = self.services.get(name)
            whole = {"Node": node(name) if found is not None else None, "Services": found}
            return reply(
                200, whole, X_Consul_Index="7", X_Consul_Results_Filtered_By_ACLs="true"
            )  # as it does whenever there are services of others
        if path == AUTHORIZE:
            return reply(200, [right | {"Allow": True} for right in json.loads(request.body)])
        if path == "/v1/agent/self":
            return reply(200, {"Config": {"NodeName": "node-1"}})
        return reply(200, True)


class Pauses:
    """Stands in for sleeping."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await asyncio.sleep(0)


def soon() -> Deadline:
    return Deadline.after(10, "test")


def asked(consul: HostileServer, beginning: str = "") -> list[tuple[str, str]]:
    return [
        (request.method, request.path) for request in consul.requests if request.path.startswith(beginning)
    ]


async def follow(catalog: ConsulServiceCatalog, times: int) -> list[frozenset[tuple[JobId, AllocationId]]]:
    """Return what was told first, so many times."""
    told = []
    async with asyncio.timeout(10), aclosing(catalog.follow_critical()) as news:
        async for critical in news:
            told.append(critical)
            if len(told) == times:
                break
    return told


@pytest.fixture
async def consul() -> AsyncIterator[HostileServer]:
    async with hostile_server() as server:
        server.script = Catalogue()
        yield server


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("planted-1111-2222-3333-token")
    return path


@pytest.fixture
async def catalog(
    consul: HostileServer, token_file: Path, pauses: Pauses
) -> AsyncIterator[ConsulServiceCatalog]:
    catalog = ConsulServiceCatalog(address=consul.url, token_file=token_file, pause=pauses)
    yield catalog
    await catalog.close()
