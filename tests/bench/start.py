"""Figure 3: from an ensure of a new user to a proven address, against starting the same program by hand."""

import asyncio
import contextlib
import itertools
import os
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from statistics import median

import aiohttp

from bench.bare_server import BareServer
from bench.figures import Figure, ratio_of, spread
from bench.machine import cpu_seconds
from bench.proof import PATIENCE, PAUSE, until_proven
from bench.rounds import alternate
from bench.servers import Operator, operator
from bench.service import INSTALLATION, Service, service, settings_of
from bench.show import say
from cluster_fixture import RealCluster
from opencode_lifecycle.cluster.opencode_package import ensure_opencode
from opencode_lifecycle.model.identifiers import UserId, job_id_of
from opencode_lifecycle.settings import Rate, Rates
from real_opencode import VERSION

BLOCKS, SPARE = 4, 1
BAR = 1.25


class _Bench:
    def __init__(self, running: Service, by: Operator, program: Path, directory: Path) -> None:
        self._service = running
        self._operator = by
        self._program = program
        self._directory = directory
        self._numbers = itertools.count(1)
        self.parts: defaultdict[str, list[float]] = defaultdict(list)
        self.bare_listens: list[float] = []
        self.bare_cpu: list[float] = []

    async def ours(self) -> float:
        """Return seconds from the request to the first answer that holds an address."""
        user = f"start-{next(self._numbers)}"
        async with self._service.session() as session:
            asked_at = time.time()
            begun = time.perf_counter()
            async with session.put(f"/v1/stacks/{user}") as answer:
                assert answer.status == 202, await answer.text()
            accepted = time.perf_counter() - begun
            address = await self._until_addressed(session, user)
            took = time.perf_counter() - begun
            await self._check(session, user, address)
            await self._note(user, asked_at, accepted, took)
            await self._delete(session, user)
        return took

    async def _until_addressed(self, session: aiohttp.ClientSession, user: str) -> str:
        async with asyncio.timeout(PATIENCE):
            while True:
                async with session.get(f"/v1/stacks/{user}/address") as answer:
                    if answer.status == 200:
                        return str((await answer.json())["url"])
                    assert answer.status == 409, await answer.text()
                await asyncio.sleep(PAUSE)

    async def _check(self, session: aiohttp.ClientSession, user: str, address: str) -> None:
        """Hold what was handed out to the neutral proof, outside of the time."""
        async with session.post(f"/v1/stacks/{user}/credentials") as answer:
            assert answer.status == 200, await answer.text()
            password = (await answer.json())["password"]
        begun = time.perf_counter()
        await until_proven(address, password, "/tmp")
        self.parts["neutral proof afterwards"].append(time.perf_counter() - begun)

    async def _delete(self, session: aiohttp.ClientSession, user: str) -> None:
        async with session.delete(f"/v1/stacks/{user}", params={"workspace": "delete"}) as answer:
            assert answer.status == 202, await answer.text()
            where = answer.headers["Location"]
        async with asyncio.timeout(PATIENCE):
            while True:
                async with session.get(where) as answer:
                    if (await answer.json())["state"] == "succeeded":
                        return
                await asyncio.sleep(0.2)

    async def _note(self, user: str, asked_at: float, accepted: float, took: float) -> None:
        """Write down when each thing happened, in seconds after the request."""
        job_id = job_id_of(INSTALLATION, UserId(user))
        moments = {"accepted": accepted}
        for entry in self._service.log():
            if entry.get("job_id") == job_id:
                at = datetime.fromisoformat(entry["timestamp"]).timestamp() - asked_at
                name = entry.get("step") or entry.get("phase")
                moments.setdefault(f"{entry['event']} {name}", at)
        allocations = await self._operator.nomad("GET", f"job/{job_id}/allocations")
        allocation = await self._operator.nomad("GET", f"allocation/{allocations[0]['ID']}")
        moments["allocation placed"] = allocation["CreateTime"] / 1e9 - asked_at
        for event in allocation["TaskStates"]["server"]["Events"]:
            moments.setdefault(f"task {event['Type']}", event["Time"] / 1e9 - asked_at)
        moments["program executed"] = _executed_at(self._program) - asked_at
        moments["address"] = took
        for name, moment in moments.items():
            self.parts[name].append(moment)

    async def bare(self) -> float:
        """Return seconds from starting the program to its proof."""
        server = BareServer(self._program, self._directory / f"home{next(self._numbers)}")
        begun = time.perf_counter()
        await server.start()
        try:
            moments = await until_proven(server.url, server.password, server.project)
            self.bare_cpu.append(cpu_seconds(server.pid))
        finally:
            await server.kill()
        self.bare_listens.append(moments["listens"] - begun)
        return moments["proven"] - begun


def _executed_at(program: Path) -> float:
    """Return when the youngest process of *program* began."""
    ticks = os.sysconf("SC_CLK_TCK")
    began = 0.0
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "exe").readlink() == program:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                began = max(began, int(fields[19]) / ticks)
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + began


async def measure(cluster: RealCluster, directory: Path) -> list[Figure]:
    say("start: from an ensure to a proven address, against the same program by hand")
    program = await ensure_opencode(VERSION)
    place = directory / "start"
    place.mkdir()
    fast = Rate(per_second=1000, burst=1000)
    settings = settings_of(
        cluster,
        place,
        opencode_path=program,
        log_level="debug",
        rates=Rates(read=fast, ensure=fast, lifecycle=fast),
    )
    async with AsyncExitStack() as stack:
        by = await stack.enter_async_context(operator(cluster))
        running = await stack.enter_async_context(service(settings, place))
        bench = _Bench(running, by, program, place)
        await bench.bare()  # reads the program from disk once, for both
        blocks = await alternate(
            ours=bench.ours,
            bare=bench.bare,
            blocks=BLOCKS,
            spare=SPARE,
            disk=cluster.directory,
            unit="s",
        )
    ours = [seconds for block in blocks for seconds in block.ours]
    bare = [seconds for block in blocks for seconds in block.bare]
    ratio = ratio_of(blocks)
    return [
        Figure(
            name="start: ensure to proven address",
            value=round(ratio, 3),
            unit="x",
            bar=f"<= {BAR}",
            holds=ratio <= BAR,
            details={
                "ratio_of_blocks": spread([block.ratio for block in blocks]),
                "ratio_of_all_medians": round(median(ours) / median(bare), 3),
                "ours_seconds": spread(ours, 2),
                "bare_seconds": spread(bare, 2),
                "bare_seconds_until_it_listens": spread(bench.bare_listens, 2),
                "bare_cpu_seconds": spread(bench.bare_cpu, 2),
                "ours_seconds_after_the_request": dict(
                    sorted(
                        ((name, round(median(at), 3)) for name, at in bench.parts.items()),
                        key=lambda item: item[1],
                    )
                ),
                "noisy_blocks_kept": [block.noise for block in blocks if block.noise],
            },
        )
    ]
