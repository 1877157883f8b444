"""Figure 2: ensures of many new users at once, against a plain loop that writes the same secrets and registers the same jobs."""

import asyncio
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Block, Figure, ratio_of, spread
from bench.processes import program
from bench.rounds import alternate
from bench.servers import Operator, cpu_of, operator
from bench.service import INSTALLATION, Service, service, settings_of
from bench.show import say
from cluster_fixture import RealCluster
from opencode_lifecycle.model.identifiers import UserId, job_id_of
from opencode_lifecycle.settings import Rate, Rates, ResourceClassSettings, Settings
from real_opencode import VERSION

USERS = 300
IN_FLIGHT = 32
BLOCKS, SPARE = 3, 1
BAR, AIM = 0.6, 0.9
TEMPLATE = Path(__file__).parent / "mock.nomad.hcl"
_PATIENCE = 180.0


class _Bench:
    """Both arms, on one cluster, each run with users that were never there before."""

    def __init__(self, cluster: RealCluster, directory: Path, by: Operator) -> None:
        self._cluster = cluster
        self._directory = directory
        self._operator = by
        self._runs = itertools.count(1)
        self.cpu: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.accepted: list[float] = []

    async def ours(self, environment: dict[str, str] | None = None) -> float:
        """Return users per second, from the first ensure to the last allocation that runs."""
        directory = self._fresh()
        async with service(self._settings(directory), directory, environment=environment or {}) as running:
            before = {**cpu_of(self._cluster), "service": running.program.cpu_seconds()}
            took = await self._timed(lambda: self._ensure_all(running, directory.name))
            after = {**cpu_of(self._cluster), "service": running.program.cpu_seconds()}
            if environment is None:
                self._note("ours", before, after)
        await self._operator.clean_up()
        return USERS / took

    async def bare(self) -> float:
        directory = self._fresh()
        file = await self._work_for_the_loop(directory)
        async with program("bench.raw_loop", str(file), errors=directory / "log") as loop:
            before = {**cpu_of(self._cluster), "loop": loop.cpu_seconds()}

            async def begin() -> None:
                await loop.tell("go")
                await loop.line()

            took = await self._timed(begin)
            self._note("bare", before, {**cpu_of(self._cluster), "loop": loop.cpu_seconds()})
        await self._operator.clean_up()
        return USERS / took

    def _fresh(self) -> Path:
        directory = self._directory / f"cold{next(self._runs)}"
        directory.mkdir()
        return directory

    def _note(self, arm: str, before: dict[str, float], after: dict[str, float]) -> None:
        for name, seconds in after.items():
            self.cpu[arm][name].append((seconds - before[name]) * 1000 / USERS)

    def _settings(self, directory: Path) -> Settings:
        return settings_of(
            self._cluster,
            directory,
            job_template=TEMPLATE,
            opencode_path=TEMPLATE,  # there must be one, and nothing starts it
            resource_classes={"small": ResourceClassSettings(cpu=1, memory=10, memory_max=10)},
            rates=Rates(ensure=Rate(per_second=1e5, burst=100_000)),
            start_deadline=timedelta(minutes=10),
        )

    async def _timed(self, begin: Any) -> float:
        connected = asyncio.Event()
        async with asyncio.timeout(_PATIENCE), asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._operator.until_running(USERS, connected))
            await connected.wait()
            begun = time.perf_counter()
            tasks.create_task(begin())
            await watching
            return time.perf_counter() - begun

    async def _ensure_all(self, running: Service, prefix: str) -> None:
        users = iter([f"{prefix}-user-{number}" for number in range(USERS)])
        begun = time.perf_counter()
        async with running.session() as session, asyncio.TaskGroup() as tasks:

            async def worker() -> None:
                for user in users:
                    async with session.put(f"/v1/stacks/{user}") as answer:
                        assert answer.status == 202, await answer.text()
                        await answer.read()

            for _ in range(IN_FLIGHT):
                tasks.create_task(worker())
        self.accepted.append(time.perf_counter() - begun)

    async def _work_for_the_loop(self, directory: Path) -> Path:
        """Have the same jobs parsed as the service would, before the clock runs."""
        limit = asyncio.Semaphore(IN_FLIGHT)

        async def parsed(number: int) -> Any:
            user = f"{directory.name}-user-{number}"
            values = {
                "job_id": job_id_of(INSTALLATION, UserId(user)),
                "installation": INSTALLATION,
                "user_id": user,
                "image": "",
                "opencode_version": VERSION,
                **dict.fromkeys(
                    ("template_digest", "environment_digest", "resources_digest", "revision"), "0" * 16
                ),
                "secret_version": 1,
                "secret_path": "",
                "cpu": 1,
                "memory": 10,
            }
            body = {"JobHCL": TEMPLATE.read_text(), "Variables": json.dumps(values), "Canonicalize": False}
            async with limit:
                return await self._operator.nomad("POST", "jobs/parse", body)

        work = {
            "nomad": self._cluster.nomad_address,
            "vault": self._cluster.vault_address,
            "nomad_token": self._cluster.nomad_token_file.read_text().strip(),
            "vault_token": self._cluster.vault_token_file.read_text().strip(),
            "in_flight": IN_FLIGHT,
            "jobs": await asyncio.gather(*(parsed(number) for number in range(USERS))),
        }
        file = directory / "work.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(work))
        return file


async def measure(cluster: RealCluster, directory: Path) -> list[Figure]:
    say(f"cold ensure: {USERS} users, {IN_FLIGHT} in flight, against a plain loop")
    async with operator(cluster) as by:
        await by.clean_up()
        bench = _Bench(cluster, directory, by)
        blocks = await alternate(
            ours=bench.ours,
            bare=bench.bare,
            blocks=BLOCKS,
            spare=SPARE,
            disk=cluster.directory,
            unit="users/s",
        )
        meter = directory / "meter.json"
        await bench.ours({"BENCH_METER": str(meter)})
    return [_figure(blocks, bench, json.loads(meter.read_text()))]


def _figure(blocks: Sequence[Block], bench: _Bench, metered: dict[str, Any]) -> Figure:
    ratio = ratio_of(blocks)
    return Figure(
        name="cold ensure: rate of a plain loop",
        value=round(ratio, 3),
        unit="x",
        bar=f">= {BAR} (aim {AIM})",
        holds=ratio >= BAR,
        details={
            "ratio": spread([block.ratio for block in blocks]),
            "ours_users_per_second": spread([rate for block in blocks for rate in block.ours], 1),
            "bare_users_per_second": spread([rate for block in blocks for rate in block.bare], 1),
            "ours_seconds_until_all_accepted": spread(bench.accepted, 2),
            "cpu_ms_per_user": {
                arm: {name: round(median(values), 2) for name, values in processes.items()}
                for arm, processes in bench.cpu.items()
            },
            "cpu_ms_per_user_by_part": {
                "main thread": {
                    name: {
                        "ms": round(part["ms"] / USERS, 3),
                        "times": round(part["times"] / USERS, 2),
                    }
                    for name, part in metered["main thread"].items()
                },
                "threads": {name: round(used / USERS, 3) for name, used in metered["threads"].items()},
            },
            "noisy_blocks_kept": [block.noise for block in blocks if block.noise],
            "users": USERS,
            "in_flight": IN_FLIGHT,
        },
    )
