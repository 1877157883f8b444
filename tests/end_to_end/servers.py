"""What Nomad, Consul and Vault themselves say, read with management tokens and without any code of the service."""

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp

from cluster_fixture import RealCluster
from end_to_end.service_process import until

NAMESPACE = "opencode"
TERMINAL = ("complete", "failed", "lost")


class Servers:
    def __init__(self, cluster: RealCluster) -> None:
        self.cluster = cluster

    # --- Nomad

    async def nomad(self, path: str, method: str = "GET", body: object = None, **query: str) -> Any:
        """Return what Nomad answers, None for 404."""
        headers = {"X-Nomad-Token": self.cluster.nomad_token}
        return await _exchange(
            self.cluster.nomad_address + path, method, headers, {"namespace": NAMESPACE, **query}, body
        )

    async def job(self, job_id: str) -> Any:
        return await self.nomad(f"/v1/job/{job_id}")

    async def allocations(self, job_id: str) -> Sequence[Any]:
        return await self.nomad(f"/v1/job/{job_id}/allocations", all="true")

    async def live(self, job_id: str) -> Sequence[Any]:
        return [each for each in await self.allocations(job_id) if each["ClientStatus"] not in TERMINAL]

    async def volumes(self, name: str) -> Sequence[Any]:
        volumes = await self.nomad("/v1/volumes", type="host")
        return [each for each in volumes if each["Name"] == name]

    async def variables(self, job_id: str) -> Sequence[str]:
        found = await self.nomad("/v1/vars", prefix=f"nomad/jobs/{job_id}")
        return [each["Path"] for each in found]

    async def jobs(self, installation: str) -> Sequence[Any]:
        found = await self.nomad("/v1/jobs", meta="true")
        return [each for each in found if (each["Meta"] or {}).get("installation") == installation]

    # --- Consul

    async def consul(self, path: str, **query: str) -> Any:
        headers = {"X-Consul-Token": self.cluster.consul_token}
        return await _exchange(self.cluster.consul_address + path, "GET", headers, query)

    async def consul_write(self, path: str, body: object) -> None:
        headers = {"X-Consul-Token": self.cluster.consul_token}
        await _exchange(self.cluster.consul_address + path, "PUT", headers, {}, body)

    async def instances(self, job_id: str) -> Sequence[Any]:
        return await self.consul(f"/v1/health/service/{job_id}")

    # --- Vault

    async def vault(self, path: str, method: str = "GET", body: object = None, *, patch: bool = False) -> Any:
        headers = {"X-Vault-Token": self.cluster.vault_token}
        if patch:
            headers["Content-Type"] = "application/merge-patch+json"
        return await _exchange(f"{self.cluster.vault_address}/v1/{path}", method, headers, {}, body)

    async def secret(self, job_id: str, version: int = 0) -> Any:
        """Return data and metadata of the secret's version, None when there is none."""
        query = f"?version={version}" if version else ""
        answer = await self.vault(f"kv/data/opencode/{job_id}{query}")
        return answer and answer["data"]

    async def secret_metadata(self, job_id: str) -> Any:
        answer = await self.vault(f"kv/metadata/opencode/{job_id}")
        return answer and answer["data"]

    # --- tidying up

    async def remove(self, installation: str) -> None:
        """Remove every job of the installation and what belongs to it."""
        await both(*(self._remove(each["ID"]) for each in await self.jobs(installation)))

    async def _remove(self, job_id: str) -> None:
        """Purge the job when nothing of it runs any more, so that no claim on its volume is left."""
        await self.nomad(f"/v1/job/{job_id}", "DELETE")
        await until(lambda: self.live(job_id), lambda live: not live)
        await self.nomad(f"/v1/job/{job_id}", "DELETE", purge="true")
        for path in await self.variables(job_id):
            await self.nomad(f"/v1/var/{path}", "DELETE")
        for volume in await self.volumes(job_id):
            await self.nomad(f"/v1/volume/host/{volume['ID']}/delete", "DELETE")
        await self.vault(f"kv/metadata/opencode/{job_id}", "DELETE")


async def _exchange(
    url: str, method: str, headers: dict[str, str], query: dict[str, str], body: object = None
) -> Any:
    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        aiohttp.ClientSession(timeout=timeout) as client,
        client.request(method, url, headers=headers, params=query, json=body) as response,
    ):
        if response.status == 404:
            return None
        text = await response.text()
        assert response.status < 300, f"{method} {url}: {response.status} {text}"
        return await response.json() if "json" in response.content_type else text


async def status_of(url: str, password: str | None = None) -> int:
    """Ask a runtime for its health and return the status."""
    headers = {} if password is None else {"Authorization": aiohttp.encode_basic_auth("opencode", password)}
    timeout = aiohttp.ClientTimeout(total=20)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as client,
        client.get(f"{url}/global/health") as response,
    ):
        return response.status


async def both(*awaitables: Any) -> list[Any]:
    """Wait for all of them at the same time."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(each) for each in awaitables]
    return [each.result() for each in started]
