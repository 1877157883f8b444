"""A real Consul, as Nomad sees it, and our catalogue in front of it."""

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import aiohttp
import pytest

from cluster_fixture import RealCluster
from opencode_lifecycle.adapters.consul.service_catalog import ConsulServiceCatalog
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.stack import Address


@dataclass(frozen=True, slots=True)
class RealConsul:
    """Registers instances the way Nomad does, with a check that says what it is told."""

    url: str
    management_token: str
    catalog: ConsulServiceCatalog
    registered: set[str] = field(default_factory=set)

    async def register(
        self, job_id: JobId, allocation_id: AllocationId, address: Address, *, passing: bool = True
    ) -> None:
        await self.register_service(
            service_id(job_id, allocation_id),
            job_id,
            address.port,
            Address=address.host,
            Meta={"installation": "main"},
            Check={"TTL": "1h", "Status": "passing" if passing else "critical"},
        )

    async def register_service(self, service: str, name: str, port: int, **more: object) -> None:
        self.registered.add(service)
        await self.put("agent/service/register", {"ID": service, "Name": name, "Port": port} | more)

    async def set_passing(self, job_id: JobId, allocation_id: AllocationId, *, passing: bool) -> None:
        status = "passing" if passing else "critical"
        check = f"service:{service_id(job_id, allocation_id)}"
        await self.put(f"agent/check/update/{check}", {"Status": status})

    async def deregister(self, job_id: JobId, allocation_id: AllocationId) -> None:
        await self.forget(service_id(job_id, allocation_id))

    async def forget(self, service: str) -> None:
        """Let the agent forget it. One that it does not have is no error."""
        self.registered.discard(service)
        if service in await self.services_of_agent():
            await self.put(f"agent/service/deregister/{service}", None)

    async def services_of_agent(self) -> Mapping[str, object]:
        """Return what the agent itself has, by id."""
        services: Mapping[str, object] = json.loads(await self.request("GET", "agent/services"))
        return services

    async def make_token(self, rules: str) -> str:
        """Return a token that has the rights of *rules* alone."""
        policy = json.loads(
            await self.put("acl/policy", {"Name": f"test-{uuid.uuid4().hex[:12]}", "Rules": rules})
        )
        token = json.loads(await self.put("acl/token", {"Policies": [{"ID": policy["ID"]}]}))
        return str(token["SecretID"])

    async def put(self, path: str, body: object) -> str:
        return await self.request("PUT", path, body)

    async def request(self, method: str, path: str, body: object = None) -> str:
        async with (
            aiohttp.ClientSession(headers={"X-Consul-Token": self.management_token}) as session,
            session.request(method, f"{self.url}/v1/{path}", json=body) as response,
        ):
            assert response.status == 200, f"{method} {path}: {response.status} {await response.text()}"
            return await response.text()


def service_id(job_id: JobId, allocation_id: AllocationId) -> str:
    """Name an instance as Nomad does for a service of a task group."""
    return f"_nomad-task-{allocation_id}-group-opencode-{job_id}-http"


@pytest.fixture
async def real_consul(cluster: RealCluster) -> AsyncIterator[RealConsul]:
    catalog = ConsulServiceCatalog(address=cluster.consul_address, token_file=cluster.consul_token_file)
    real = RealConsul(cluster.consul_address, cluster.consul_token, catalog)
    yield real
    for service in tuple(real.registered):
        await real.forget(service)
    await catalog.close()
