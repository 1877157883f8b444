"""The raw_exec job with the real OpenCode, on the real servers: secrets, live files, stop."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from contracts.orchestrator_worlds import OWNER, new_job_id, soon, until
from opencode_lifecycle import entrypoint, workspace_data
from opencode_lifecycle.adapters.nomad.nomad import Nomad
from opencode_lifecycle.cluster.opencode_package import ensure_opencode
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import AllocationSeen, ClientStatus, TaskTrouble
from opencode_lifecycle.model.snapshot import REPORT_BYTES, REPORT_PATH, DataReport, report_of
from opencode_lifecycle.shipped import shipped

pytestmark = [pytest.mark.servers, pytest.mark.opencode]

TEMPLATE = shipped("nomad_jobs/opencode-raw-exec.nomad.hcl").read_text()
PASSWORD = "planted_Password-0123456789"
AWKWARD = "quote \" back \\ ${HOME} {{ key }} # ' <&>\nsecond line é"
MANAGED = json.dumps(
    {"instructions": ["{env:OPENCODE_LIVE_DIR}/instructions/AGENTS.md"], "share": "disabled"}
)


@dataclass
class Site:
    """One job's worth of everything, on the real servers."""

    cluster: Any
    nomad: Nomad
    job_id: JobId
    program: Path
    http: aiohttp.ClientSession

    async def write_secret(self, **data: Any) -> None:
        url = f"{self.cluster.vault_address}/v1/kv/data/opencode/{self.job_id}"
        headers = {"X-Vault-Token": self.cluster.vault_token}
        async with self.http.post(url, json={"data": data}, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def point(self, instructions: str) -> None:
        digests = [await self.nomad.live_files.publish(text, soon()) for text in (instructions, MANAGED)]
        await self.nomad.live_files.point(
            self.job_id, OWNER, instructions=digests[0], managed=digests[1], deadline=soon()
        )

    async def register(self, **changes: Any) -> str:
        """Register the job and return the path of its workspace."""
        workspace = await self.nomad.workspaces.ensure(self.job_id, soon())
        variables = {
            "job_id": self.job_id,
            "user_id": "ada",
            "opencode_version": "1.18.34",
            "workspace_path": workspace.path,
            "entrypoint": [sys.executable, "-I", "-S", str(Path(entrypoint.__file__))],
            "opencode_path": str(self.program),
            "memory": 256,
            **changes,
        }
        job = await self.nomad.render(TEMPLATE, variables, soon())
        await self.nomad.register(job, expected_index=0, deadline=soon())
        return workspace.path

    async def allocation(self, status: ClientStatus, trouble: TaskTrouble | None = None) -> AllocationSeen:
        found: list[AllocationSeen] = []

        async def is_so() -> bool:
            seen = await self.nomad.observe(self.job_id, soon())
            found[:] = [a for a in seen.allocations if a.client_status is status and a.trouble is trouble]
            return bool(found)

        await until(is_so, f"an allocation is {status} with trouble {trouble}", 60)
        return found[0]

    async def get(
        self, allocation: AllocationSeen, path: str, password: str | None = None, *, seconds: float = 15
    ) -> tuple[int, Any]:
        assert allocation.address is not None
        headers = {"Authorization": aiohttp.encode_basic_auth("opencode", password)} if password else {}
        limit = aiohttp.ClientTimeout(total=seconds)
        async with self.http.get(f"{allocation.address.url}{path}", headers=headers, timeout=limit) as answer:
            return answer.status, await answer.json() if answer.status == 200 else None

    async def report(self, allocation: AllocationSeen) -> DataReport:
        """Return what the entrypoint said of the data, read through Nomad."""
        body = await self.nomad.read_file(allocation.id, REPORT_PATH, limit=REPORT_BYTES, deadline=soon())
        report = report_of(body) if body is not None else None
        assert report is not None
        return report

    async def answers(self, allocation: AllocationSeen) -> None:
        """Wait for the server. One that has just begun to listen never answers its first request."""

        async def is_so() -> bool:
            try:
                return (await self.get(allocation, "/global/health", seconds=1))[0] == 401
            except (aiohttp.ClientError, TimeoutError):
                return False

        await until(is_so, "the server refuses requests without a password", 90)


@pytest.fixture
async def site(cluster) -> AsyncIterator[Site]:
    nomad = Nomad(address=cluster.nomad_address, token_file=cluster.nomad_token_file, namespace="opencode")
    program = await ensure_opencode("1.18.34")
    async with aiohttp.ClientSession() as http:
        site = Site(cluster, nomad, new_job_id(), program, http)
        try:
            yield site
            await nomad.deregister(site.job_id, purge=False, deadline=soon())

            async def has_ended() -> bool:
                return not (await nomad.observe(site.job_id, soon())).live

            await until(has_ended, "nothing of the job runs", 60)
            await nomad.deregister(site.job_id, purge=True, deadline=soon())
            await nomad.live_files.clear(site.job_id, soon())
            workspace = await nomad.workspaces.find(site.job_id, soon())
            if workspace is not None:
                await nomad.workspaces.destroy(workspace.volume_id, soon())
        finally:
            await nomad.close()


def processes_of(workspace: str) -> list[dict[str, str]]:
    """Return the environment of every process whose HOME lies in *workspace*."""
    found = []
    for each in Path("/proc").iterdir():
        if not each.name.isdigit():
            continue
        try:
            pairs = [pair.partition("=") for pair in (each / "environ").read_bytes().decode().split("\0")]
        except (OSError, UnicodeDecodeError):
            continue
        environment = {name: value for name, _, value in pairs}
        if environment.get("HOME", "").startswith(workspace):
            found.append(environment)
    return found


async def test_the_server_has_its_secrets_and_follows_its_live_files(site):
    await site.write_secret(password=PASSWORD, env={"MODEL_KEY": AWKWARD, "NOT_ALLOWED": "x"})
    await site.point("Answer in rhyme.")
    workspace = await site.register(secret_environment=["MODEL_KEY", "ABSENT_KEY"])
    allocation = await site.allocation(ClientStatus.RUNNING)
    await site.answers(allocation)

    report = await site.report(allocation)
    assert (report.version, report.snapshots, report.refused) == ("1.18.34", (), None)
    status, health = await site.get(allocation, "/global/health", PASSWORD)
    assert (status, health) == (200, {"healthy": True, "version": "1.18.34"})
    status, config = await site.get(allocation, f"/config?directory={workspace}/project", PASSWORD)
    instructions = Path(config["instructions"][-1])
    assert await asyncio.to_thread(instructions.read_text) == "Answer in rhyme."
    assert config["share"] == "disabled"
    server = next(each for each in processes_of(workspace) if "OPENCODE_SERVER_PASSWORD" in each)
    assert server["MODEL_KEY"] == AWKWARD
    assert not {"NOT_ALLOWED", "ABSENT_KEY", "VAULT_TOKEN"} & server.keys()

    await site.point("Answer in prose.")

    async def has_followed() -> bool:
        return await asyncio.to_thread(instructions.read_text) == "Answer in prose."

    await until(has_followed, "the instructions follow their pointer", 30)
    assert (await site.allocation(ClientStatus.RUNNING)).restarts == 0

    await site.nomad.deregister(site.job_id, purge=False, deadline=soon())
    await site.allocation(ClientStatus.COMPLETE)
    assert processes_of(workspace) == []
    assert os.path.isdir(f"{workspace}/project")  # noqa: PTH112, ASYNC240 - the workspace outlives the server


async def test_a_secret_version_that_is_not_there_is_said(site):
    await site.write_secret(password=PASSWORD)
    await site.point("x")
    await site.register(secret_version=9)

    allocation = await site.allocation(ClientStatus.PENDING, TaskTrouble.SECRET)
    assert "vault" in allocation.trouble_message


async def test_an_empty_password_starts_no_server(site):
    await site.write_secret(password="")
    await site.point("x")
    workspace = await site.register()

    allocation = await site.allocation(ClientStatus.PENDING, TaskTrouble.SECRET)
    assert "78" in allocation.trouble_message
    assert processes_of(workspace) == []


async def test_a_version_that_is_older_than_the_data_is_refused_and_says_why(site):
    await site.write_secret(password=PASSWORD)
    await site.point("x")
    workspace = await site.nomad.workspaces.ensure(site.job_id, soon())
    record = Path(workspace.path) / workspace_data.PLACE / workspace_data.RECORD

    def leave_newer_data() -> None:
        record.parent.mkdir()
        record.write_text('{"last": "1.99.0"}')

    await asyncio.to_thread(leave_newer_data)
    await site.register(restore_snapshot="01ARZ3NDEKTSV4RRFFQ69G5FAV")

    allocation = await site.allocation(ClientStatus.PENDING, TaskTrouble.DATA_NEWER)
    assert "65" in allocation.trouble_message
    refused = (await site.report(allocation)).refused
    assert refused is not None
    assert "1.99.0" in refused.reason
    assert "01ARZ3NDEKTSV4RRFFQ69G5FAV" in refused.reason
    assert processes_of(workspace.path) == []


async def test_an_executable_that_is_not_there_is_said(site):
    await site.write_secret(password=PASSWORD)
    await site.point("x")
    await site.register(opencode_path="/nowhere/opencode")

    allocation = await site.allocation(ClientStatus.PENDING, TaskTrouble.EXITED)
    assert "127" in allocation.trouble_message
