"""Figure 1: an ensure of a stack that is running and current, against a bare handler of the same bytes."""

import asyncio
import json
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from bench.figures import Block, Figure, ratio_of, spread
from bench.hot_server import USER
from bench.processes import Program, cores, output_of, program
from bench.rounds import alternate
from bench.show import say

PATH = f"/v1/stacks/{USER}"
BLOCKS, SPARE = 5, 3
SECONDS = 3
CONNECTIONS = 32
BAR = 0.5
_WRK = """
wrk.method = "PUT"
wrk.headers["Authorization"] = "Bearer {token}"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("counted %d %d %d\\n", summary.requests, summary.duration, e.status + e.read + e.write + e.timeout))
end
"""


class _Arm:
    """One server under load: its rate, and the CPU time it takes for a request."""

    def __init__(self, server: Program, address: str, token: str, directory: Path, core: int) -> None:
        self._server = server
        self._address = address
        self._token = token
        self._core = core
        self._script = directory / f"{server.pid}.lua"
        self._script.write_text(_WRK.format(token=token))
        self._script.chmod(0o600)
        self.cpu_us: list[float] = []
        self.requests = 0

    async def run(self) -> float:
        before = self._server.cpu_seconds()
        requests, seconds, failed = await self._load()
        if failed:
            raise RuntimeError(f"{failed} of {requests} requests were not answered with 200")
        self.cpu_us.append((self._server.cpu_seconds() - before) / requests * 1e6)
        self.requests += requests
        return requests / seconds

    async def _load(self) -> tuple[int, float, int]:
        pinned = ["taskset", "-c", str(self._core)]
        wrk = shutil.which("wrk")
        if wrk is None:
            command = [sys.executable, "-m", "bench.load", self._address, PATH, self._token]
            answer = json.loads(await output_of([*pinned, *command, str(SECONDS), str(CONNECTIONS)]))
            return int(answer["rate"] * SECONDS), float(SECONDS), int(answer["others"])
        command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(self._script)]
        said = await output_of([*pinned, *command, f"{self._address}{PATH}"])
        counted = re.search(r"^counted (\d+) (\d+) (\d+)$", said, re.MULTILINE)
        assert counted is not None, said
        return int(counted[1]), int(counted[2]) / 1e6, int(counted[3])


async def measure(directory: Path) -> list[Figure]:
    """Measure the rate, and count what reaches database and neighbours meanwhile."""
    say("hot ensure: the whole application against a bare handler")
    server_core, load_core = cores()
    for name in ("quiet", "logging"):
        (directory / name).mkdir()
    async with AsyncExitStack() as stack:
        ours, arm = await _our_server(stack, directory / "quiet", "info", server_core, load_core)
        _, logging_arm = await _our_server(stack, directory / "logging", "debug", server_core, load_core)
        body = directory / "body"
        bare = await stack.enter_async_context(
            program("bench.bare_handler", str(body), errors=directory / "bare.log", core=server_core)
        )
        bare_arm = _Arm(bare, bare.said, "none", directory, load_core)
        for each in (arm, bare_arm, logging_arm):
            await each.run()
        counted = await _count(ours, arm)
        arm.cpu_us.clear()
        bare_arm.cpu_us.clear()
        blocks = await alternate(
            ours=arm.run, bare=bare_arm.run, blocks=BLOCKS, spare=SPARE, unit="requests/s"
        )
        with_log = [await logging_arm.run() for _ in range(2)]
    return [_counted(counted), _rate(blocks, arm, bare_arm, with_log)]


async def _our_server(
    stack: AsyncExitStack, directory: Path, log_level: str, core: int, load_core: int
) -> tuple[Program, _Arm]:
    server = await stack.enter_async_context(
        program("bench.hot_server", str(directory), log_level, errors=directory / "access.log", core=core)
    )
    said = json.loads(server.said)
    body = await _until_hot(said["address"], said["token"])
    (directory.parent / "body").write_bytes(body)
    return server, _Arm(server, said["address"], said["token"], directory, load_core)


async def _until_hot(address: str, token: str) -> bytes:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        async with session.put(f"{address}{PATH}?wait=20s") as response:
            assert response.status == 200, await response.text()
        async with session.put(f"{address}{PATH}") as response:
            assert response.status == 200, await response.text()
            return await response.read()


async def _ask(server: Program) -> dict[str, Any]:
    await server.tell("counted?")
    answer: dict[str, Any] = json.loads(await server.line())
    return answer


async def _count(server: Program, arm: _Arm) -> dict[str, Any]:
    """
    Count calls and statements under load, and apart from it.

    Calls are told apart by the task that makes them. Statements are not: the service's own loops claim what is due once
    a second, so what one such claim costs is learnt from an idle time, and taken off.
    """
    first = await _ask(server)
    await asyncio.sleep(SECONDS)
    idle = await _ask(server)
    arm.requests = 0
    for _ in range(2):
        await arm.run()
    loaded = await _ask(server)
    claims = idle["service"]["store.claim"] - first["service"]["store.claim"]
    per_claim = (idle["statements"] - first["statements"]) / claims
    own = (loaded["service"]["store.claim"] - idle["service"]["store.claim"]) * per_claim
    return {
        "requests": arm.requests,
        "upstream_calls": _difference(idle["request"], loaded["request"]),
        "statements": loaded["statements"] - idle["statements"] - own,
        "statements_of_the_services_own_loops": own,
        "calls_of_the_services_own_loops": _difference(idle["service"], loaded["service"]),
    }


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {
        name: times - before.get(name, 0) for name, times in after.items() if times != before.get(name, 0)
    }


def _counted(counted: dict[str, Any]) -> Figure:
    calls = sum(counted["upstream_calls"].values()) + counted["statements"]
    return Figure(
        name="hot ensure: calls of neighbours and database statements",
        value=calls,
        unit="calls",
        bar="= 0",
        holds=calls == 0 and counted["requests"] > 0,
        details=counted,
    )


def _rate(blocks: Sequence[Block], ours: _Arm, bare: _Arm, with_log: Sequence[float]) -> Figure:
    ratio = ratio_of(blocks)
    return Figure(
        name="hot ensure: rate of a bare handler",
        value=round(ratio, 3),
        unit="x",
        bar=f">= {BAR}",
        holds=ratio >= BAR,
        details={
            "ratio": spread([block.ratio for block in blocks]),
            "ours_requests_per_second": spread([rate for block in blocks for rate in block.ours], 0),
            "bare_requests_per_second": spread([rate for block in blocks for rate in block.bare], 0),
            "ours_cpu_us_per_request": spread(ours.cpu_us, 1),
            "bare_cpu_us_per_request": spread(bare.cpu_us, 1),
            "ratio_by_cpu": round(median(bare.cpu_us) / median(ours.cpu_us), 3),
            "with_a_debug_line_per_request": [round(rate) for rate in with_log],
            "noisy_blocks_kept": [block.noise for block in blocks if block.noise],
            "load": "wrk" if shutil.which("wrk") else "asyncio",
            "connections": CONNECTIONS,
        },
    )
