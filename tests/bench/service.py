"""The real service as a process of its own, on a database of its own, against the private cluster."""

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.processes import Program, program
from cluster_fixture import RealCluster
from opencode_lifecycle import application
from opencode_lifecycle.cluster import configuration
from opencode_lifecycle.cluster.bootstrap_vault import WORKLOAD_ROLE
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.settings import Settings

INSTALLATION = "bench"


@dataclass(frozen=True, slots=True)
class Service:
    program: Program
    address: str
    token: str
    directory: Path

    def session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self.address,
            headers={"Authorization": f"Bearer {self.token}"},
            connector=aiohttp.TCPConnector(limit=0),
        )

    def log(self) -> list[dict[str, Any]]:
        """Return its log so far."""
        lines = (self.directory / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def settings_of(cluster: RealCluster, directory: Path, **more: Any) -> Settings:
    return Settings(
        installation=INSTALLATION,
        listen_port=0,
        database_url=f"sqlite:///{directory / 'service.db'}",
        nomad_address=cluster.nomad_address,
        nomad_token_file=cluster.nomad_token_file,
        nomad_namespace=configuration.NAMESPACE,
        vault_address=cluster.vault_address,
        vault_token_file=cluster.vault_token_file,
        vault_workload_role=WORKLOAD_ROLE,
        consul_address=cluster.consul_address,
        consul_token_file=cluster.consul_token_file,
        driver="raw_exec",
        **more,
    )


@asynccontextmanager
async def service(
    settings: Settings,
    directory: Path,
    *,
    environment: Mapping[str, str] = {},
    role: Role = Role.BACKEND,
    token: str = "",
    module: str = "bench.serving",
) -> AsyncIterator[Service]:
    """
    Run the service with *settings*, by the program *module*; entered when it listens.

    Without a *token* it is given one of *role*.
    """
    token = token or await application.issue_token(settings, name="bench", role=role, subject=None)
    file = directory / f"settings-{secrets.token_hex(4)}.json"
    file.write_text(settings.model_dump_json(exclude_defaults=True))
    async with program(module, str(file), errors=directory / "log", environment=environment) as running:
        yield Service(running, running.said, token, directory)
