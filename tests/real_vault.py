"""A real Vault, as its operator sees it, and our password store in front of it."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cluster_fixture import RealCluster
from opencode_lifecycle.adapters.blocking import BlockingCalls
from opencode_lifecycle.adapters.vault.password_store import VaultPasswordStore
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.password import Password

MOUNT = "kv"


@dataclass(frozen=True, slots=True)
class VaultServer:
    url: str
    root_token: str

    async def request(self, method: str, path: str, body: object = None) -> Any:
        """Call Vault as root and return the JSON it answers, or None when it answers 404 or nothing."""
        async with (
            aiohttp.ClientSession(headers={"X-Vault-Token": self.root_token}) as session,
            session.request(method, f"{self.url}/v1/{path}", json=body) as response,
        ):
            if response.status in {204, 404}:
                return None
            assert response.status == 200, f"{method} {path}: {response.status} {await response.text()}"
            return await response.json()

    async def make_token(self, **options: object) -> str:
        """Return a token that holds the policy of the service alone."""
        answer = await self.request(
            "POST",
            "auth/token/create",
            {"policies": ["control-plane"], "no_default_policy": True, "no_parent": True} | options,
        )
        return str(answer["auth"]["client_token"])


@dataclass(frozen=True, slots=True)
class RealVault:
    """The store under test, and what an operator may do behind its back."""

    server: VaultServer
    store: VaultPasswordStore
    token_file: Path

    async def put(self, job_id: JobId, data: Mapping[str, object]) -> int:
        answer = await self.server.request("POST", f"{MOUNT}/data/opencode/{job_id}", {"data": dict(data)})
        return int(answer["data"]["version"])

    async def put_metadata(self, job_id: JobId, custom: Mapping[str, str]) -> None:
        await self.server.request(
            "POST", f"{MOUNT}/metadata/opencode/{job_id}", {"custom_metadata": dict(custom)}
        )

    async def data(self, job_id: JobId, version: int) -> Mapping[str, object]:
        answer = await self.server.request("GET", f"{MOUNT}/data/opencode/{job_id}?version={version}")
        data: Mapping[str, object] = answer["data"]["data"]
        return data

    async def delete_latest(self, job_id: JobId) -> None:
        await self.server.request("DELETE", f"{MOUNT}/data/opencode/{job_id}")

    async def destroy_version(self, job_id: JobId, version: int) -> None:
        await self.server.request("POST", f"{MOUNT}/destroy/opencode/{job_id}", {"versions": [version]})

    async def unwrap(self, token: Password) -> Mapping[str, str] | None:
        async with (
            aiohttp.ClientSession(headers={"X-Vault-Token": token.reveal()}) as session,
            session.post(f"{self.server.url}/v1/sys/wrapping/unwrap") as response,
        ):
            if response.status != 200:
                return None
            data: Mapping[str, str] = (await response.json())["data"]
            return data


@pytest.fixture
async def real_vault(cluster: RealCluster, tmp_path: Path) -> AsyncIterator[RealVault]:
    server = VaultServer(cluster.vault_address, cluster.vault_token)
    token_file = tmp_path / "vault-token"
    token_file.write_text(await server.make_token() + "\n")
    calls = BlockingCalls(threads=8, name="vault")
    store = VaultPasswordStore(calls=calls, address=server.url, token_file=token_file, mount=MOUNT)
    yield RealVault(server, store, token_file)
    calls.close()
    store.close()
