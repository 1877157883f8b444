"""A real Vault, as its operator sees it, and our password store in front of it."""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from opencode_lifecycle.adapters.blocking import BlockingCalls
from opencode_lifecycle.adapters.vault.password_store import VaultPasswordStore
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.password import Password

MOUNT = "kv"
POLICY = f"""
path "{MOUNT}/data/opencode/*" {{ capabilities = ["create", "read", "update"] }}
path "{MOUNT}/metadata/opencode/*" {{ capabilities = ["read", "delete"] }}
path "sys/wrapping/wrap" {{ capabilities = ["update"] }}
path "auth/token/lookup-self" {{ capabilities = ["read"] }}
path "auth/token/renew-self" {{ capabilities = ["update"] }}
"""
"""What the password store needs, and no more."""


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
            {"policies": ["password-store"], "no_default_policy": True, "no_parent": True} | options,
        )
        return str(answer["auth"]["client_token"])


@pytest.fixture(scope="session")
def vault_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    """A Vault of the tests' own, in memory, so that they may seal it and break its tokens."""
    binary = shutil.which("vault")
    assert binary is not None, "These tests need the `vault` program on PATH."
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("vault")
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                "server",
                "-dev",
                "-dev-no-store-token",
                "-dev-root-token-id=root",
                f"-dev-listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
            env=os.environ | {"HOME": str(home)},
        )
        try:
            server = VaultServer(f"http://127.0.0.1:{port}", "root")
            asyncio.run(_prepare(server, process))
            yield server
        finally:
            process.kill()
            process.wait()


async def _prepare(server: VaultServer, process: "subprocess.Popen[bytes]") -> None:
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            assert process.poll() is None, "vault ended at once"
            try:
                async with session.get(f"{server.url}/v1/sys/health") as response:
                    if response.status == 200:
                        break
            except aiohttp.ClientConnectorError:
                pass
            await asyncio.sleep(0.05)
    await server.request("POST", f"sys/mounts/{MOUNT}", {"type": "kv", "options": {"version": "2"}})
    await server.request("PUT", "sys/policies/acl/password-store", {"policy": POLICY})


@dataclass(frozen=True, slots=True)
class RealVault:
    """The store under test, and what an operator may do behind its back."""

    server: VaultServer
    store: VaultPasswordStore
    token_file: Path

    async def put(self, job_id: JobId, data: Mapping[str, object]) -> int:
        answer = await self.server.request("POST", f"{MOUNT}/data/opencode/{job_id}", {"data": dict(data)})
        return int(answer["data"]["version"])

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
async def real_vault(vault_server: VaultServer, tmp_path: Path) -> AsyncIterator[RealVault]:
    token_file = tmp_path / "vault-token"
    token_file.write_text(await vault_server.make_token() + "\n")
    calls = BlockingCalls(threads=8, name="vault")
    store = VaultPasswordStore(calls=calls, address=vault_server.url, token_file=token_file, mount=MOUNT)
    yield RealVault(vault_server, store, token_file)
    calls.close()
    store.close()
