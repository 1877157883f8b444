"""
Records what a real Nomad answers about jobs of our own template, for the loopback Nomad to replay.

    PYTHONPATH=tests .venv/bin/python -m bench.record

The jobs are those of the raw_exec template with Nomad's mock driver in place of the program, registered by the service
itself. Recorded are the answers to our reads, and the event stream of two lives: one that is stopped and purged, and one
that is restarted. Tokens are never in what Nomad answers to these; addresses and ids are those of a private cluster.
"""

import asyncio
import gzip
import json
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from bench import servers
from bench.recording import FILE
from bench.servers import NAMESPACE, Operator
from bench.service import INSTALLATION, service, settings_of
from cluster_fixture import RealCluster
from opencode_lifecycle.model.identifiers import UserId, job_id_of
from opencode_lifecycle.settings import ResourceClassSettings
from opencode_lifecycle.shipped import shipped

USERS = ("ada", "grace", "mary")
TOO_LARGE = "atlas"
_PATIENCE = 60.0


def mock_template() -> str:
    """Return our raw_exec template with the mock driver in place of the program that it starts."""
    text = shipped("nomad_jobs/opencode-raw-exec.nomad.hcl").read_text()
    text = text.replace('driver       = "raw_exec"', 'driver       = "mock_driver"')
    text, configs = re.subn(
        r"config \{\n\s+command = .*?\]\)\n\s+\}",
        'config {\n        run_for = "24h"\n      }',
        text,
        flags=re.DOTALL,
    )
    # The program and where it works are not used any more, and Nomad refuses what it cannot evaluate, not what is idle.
    assert configs == 1, "the template's config block is not as expected"
    return text


async def _until(condition: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not await condition():  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.1)


class _Recorder:
    def __init__(self, cluster: RealCluster, by: Operator) -> None:
        self._cluster = cluster
        self._operator = by
        self._token = cluster.nomad_token_file.read_text().strip()
        self.lines: list[Any] = []

    async def answer(self, path: str, **query: str) -> dict[str, Any]:
        """Ask as the service does, with its own token, and keep what of the answer it reads."""
        parameters = {"namespace": NAMESPACE, "region": "global", **query}
        url = f"{self._cluster.nomad_address}/v1/{path}?{urlencode(parameters)}"
        async with self._operator.session.get(url, headers={"X-Nomad-Token": self._token}) as answer:
            assert answer.status == 200, (path, answer.status, await answer.text())
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name.startswith("X-Nomad") or name in {"Content-Type", "Content-Encoding"}
            }
            return {"headers": kept, "body": await answer.json()}

    async def consul(self, path: str) -> Any:
        headers = {"X-Consul-Token": self._cluster.consul_token}
        url = f"{self._cluster.consul_address}/v1/{path}"
        async with self._operator.session.get(url, headers=headers) as answer:
            assert answer.status == 200, path
            return await answer.json()

    async def vault(self, path: str) -> Any:
        headers = {"X-Vault-Token": self._cluster.vault_token}
        url = f"{self._cluster.vault_address}/v1/{path}"
        async with self._operator.session.get(url, headers=headers) as answer:
            assert answer.status == 200, path
            return await answer.json()

    async def listen(self, index: int) -> None:
        query = [("namespace", NAMESPACE), ("index", str(index))]
        query += [("topic", topic) for topic in ("Job", "Allocation", "Evaluation")]
        url = f"{self._cluster.nomad_address}/v1/event/stream?{urlencode(query)}"
        timeout = aiohttp.ClientTimeout(total=None)
        headers = {"X-Nomad-Token": self._token}
        async with self._operator.session.get(url, headers=headers, timeout=timeout) as answer:
            async for line in answer.content:
                self.lines.append(json.loads(line))


async def record(cluster: RealCluster, directory: Path) -> dict[str, Any]:
    template = directory / "mock.nomad.hcl"
    template.write_text(mock_template())
    settings = settings_of(
        cluster,
        directory,
        job_template=template,
        opencode_path=template,
        resource_classes={
            "small": ResourceClassSettings(cpu=1, memory=10, memory_max=10),
            "vast": ResourceClassSettings(cpu=1, memory=10**9, memory_max=10**9),
        },
    )
    async with servers.operator(cluster) as by:
        await by.clean_up()
        recorder = _Recorder(cluster, by)
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(recorder.listen(await by.index()))
            async with service(settings, directory) as running, running.session() as session:
                for user in (*USERS, TOO_LARGE):
                    body = {"resources": "vast" if user == TOO_LARGE else "small"}
                    async with session.put(f"/v1/stacks/{user}", json=body) as answer:
                        assert answer.status == 202, await answer.text()
                recorded = await _reads(recorder, by)
            # Without the service, which would put right what is done to its jobs now.
            recorded["events"] = await _lives(recorder, by, listening)
        await by.clean_up()
    return recorded


async def _reads(recorder: _Recorder, by: Operator) -> dict[str, Any]:
    ada, atlas = (job_id_of(INSTALLATION, UserId(user)) for user in (USERS[0], TOO_LARGE))

    async def all_run() -> bool:
        found = await by.allocations()
        return len([each for each in found if each["ClientStatus"] == "running"]) == len(USERS)

    await _until(all_run)
    await _until(lambda: by.nomad("GET", "evaluations", status="blocked"), "one is blocked")
    await asyncio.sleep(7)  # so that the client has told of its volumes, and health of the services is known
    stubs = (await recorder.answer("allocations", resources="true", task_states="true"))["body"]
    [allocation] = [stub["ID"] for stub in stubs if stub["JobID"] == ada]
    volumes = await recorder.answer("volumes", type="host")
    [volume] = [each["ID"] for each in volumes["body"] if each["Name"] == ada]
    return {
        "specimen": {
            "user": USERS[0],
            "job": ada,
            "allocation": allocation,
            "volume": volume,
            "blocked": atlas,
        },
        "jobs": await recorder.answer("jobs", prefix="oc-", meta="true"),
        "jobs page": await recorder.answer("jobs", prefix="oc-", meta="true", per_page="2"),
        "job statuses": await recorder.answer("jobs/statuses", prefix="oc-"),
        "job": await recorder.answer(f"job/{ada}"),
        "job allocations": await recorder.answer(f"job/{ada}/allocations", all="true"),
        "job evaluations": await recorder.answer(f"job/{ada}/evaluations"),
        "blocked job": await recorder.answer(f"job/{atlas}"),
        "blocked job evaluations": await recorder.answer(f"job/{atlas}/evaluations"),
        "allocations": await recorder.answer("allocations", resources="true", task_states="true"),
        "allocations page": await recorder.answer(
            "allocations", resources="true", task_states="true", per_page="2"
        ),
        "allocation": await recorder.answer(f"allocation/{allocation}"),
        "blocked evaluations": await recorder.answer("evaluations", status="blocked"),
        "mark": await recorder.answer(f"var/opencode/installations/{INSTALLATION}"),
        "pointers": await recorder.answer("vars", prefix="nomad/jobs/oc-"),
        "pointer": await recorder.answer(f"var/nomad/jobs/{ada}/opencode/server"),
        "volumes": volumes,
        "volume": await recorder.answer(f"volume/host/{volume}"),
        "leader": await recorder.answer("status/leader"),
        "consul health": await recorder.consul(f"health/service/{ada}"),
        "consul nodes": await recorder.consul("catalog/nodes"),
        "consul services": await recorder.consul("catalog/node-services/opencode"),
        "vault metadata": await recorder.vault(f"kv/metadata/opencode/{ada}"),
        "agent": {"version": (await by.nomad("GET", "agent/self"))["config"]["Version"]["Version"]},
    }


async def _lives(recorder: _Recorder, by: Operator, listening: "asyncio.Task[None]") -> list[Any]:
    """Stop and purge one job, restart another's task, and return every line that the stream gave."""
    ada, grace = (job_id_of(INSTALLATION, UserId(user)) for user in USERS[:2])
    [allocation] = [each["ID"] for each in await by.allocations() if each["JobID"] == grace]
    await by.nomad("PUT", f"client/allocation/{allocation}/restart", {"AllTasks": False})

    async def restarted() -> bool:
        found = await by.nomad("GET", f"allocation/{allocation}")
        return found["TaskStates"]["server"]["Restarts"] > 0 and found["ClientStatus"] == "running"

    await _until(restarted)
    await by.nomad("DELETE", f"job/{ada}")
    await asyncio.sleep(2)
    await by.nomad("DELETE", f"job/{ada}", purge="true")
    await asyncio.sleep(2)
    listening.cancel()
    return [line for line in recorder.lines if line.get("Events")]


def main() -> None:
    with servers.cluster() as cluster, tempfile.TemporaryDirectory(prefix="oc-record-") as name:
        recorded = asyncio.run(record(cluster, Path(name)))
        text = json.dumps(recorded, separators=(",", ":"), sort_keys=True)
        text = text.replace(str(cluster.directory), "/srv/cluster").replace(name, "/srv/service")
    FILE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    sys.stderr.write(f"{FILE}: {len(text)} bytes, {FILE.stat().st_size} compressed\n")


if __name__ == "__main__":
    main()
