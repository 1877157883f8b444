"""Figures 4 to 6: what 10,000 stacks cost that run and are current: a pass over them, a restart, and memory."""

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median

import aiohttp

from bench import machine
from bench.at_rest import AtRest, at_rest
from bench.figures import Figure, spread
from bench.service import Service
from bench.show import say

STACKS = 10_000
FEW = 20
"""A fleet that weighs nothing, to tell what the program weighs by itself."""
RESTARTS = 3
PASSES = 6
FULL_PASSES = 3
PASS_BAR, READS_BAR, READY_BAR, MEMORY_BAR = 1.5, 12, 5.0, 8.0
_INTERVAL = timedelta(seconds=3)
_PATIENCE = 120.0
_PAUSE = 0.02


@dataclass(slots=True)
class _Measured:
    ready: list[float] = field(default_factory=list)
    listening: list[float] = field(default_factory=list)
    start_cpu: list[float] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    """Requests that would have changed something at a neighbour."""
    cpu_of_a_pass: float = 0.0
    reads_of_a_pass: Mapping[str, float] = field(default_factory=dict)
    statements_of_a_pass: float = 0.0
    database_changed: bool = True
    full_cpu: list[float] = field(default_factory=list)
    full_seconds: list[float] = field(default_factory=list)
    needy: int = 0
    resident: int = 0


async def measure(directory: Path) -> list[Figure]:
    say(f"fleet: {STACKS} stacks that run and are current")
    async with at_rest(directory / "fleet", STACKS, resync_interval=_INTERVAL) as fleet:
        many = await _measure(fleet, restarts=RESTARTS)
    async with at_rest(directory / "few", FEW, resync_interval=_INTERVAL) as fleet:
        few = await _measure(fleet, restarts=1)
    return [_pass(many), _restart(many, few), _memory(many, few)]


async def _measure(fleet: AtRest, *, restarts: int) -> _Measured:
    measured = _Measured()
    for number in range(restarts):
        begun = time.perf_counter()
        async with fleet.service() as running, running.session() as session:
            measured.listening.append(time.perf_counter() - begun)
            await _until_ready(session)
            measured.ready.append(time.perf_counter() - begun)
            measured.start_cpu.append(running.program.cpu_seconds())
            say(f"  ready after {measured.ready[-1]:.2f} s, {measured.start_cpu[-1]:.2f} CPU-s")
            measured.phases += await _phases(session)
            if number == restarts - 1:
                await _passes(fleet, running, measured)
                await _full_passes(running, session, measured)
                measured.phases += await _phases(session)
        measured.written.update((await fleet.ask("counted?"))["written"])
    return measured


async def _until_ready(session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(_PATIENCE):
        while True:
            async with session.get("/readyz") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(_PAUSE)


async def _phases(session: aiohttp.ClientSession) -> Counter[str]:
    """Count all stacks by what the API says of them now."""
    found: Counter[str] = Counter()
    query = {"limit": "500"}
    while True:
        async with session.get("/v1/stacks", params=query) as answer:
            assert answer.status == 200, await answer.text()
            page = await answer.json()
        found.update(f"{item['phase']}, {item['health']}" for item in page["items"])
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


async def _passes(fleet: AtRest, running: Service, measured: _Measured) -> None:
    """
    Watch passes of the periodic listing in which nothing changed.

    First until what belongs to a start is over: the listing that follows the opening of the stream, and the first sweep.
    """
    await asyncio.sleep(3 * _INTERVAL.total_seconds())
    watching = sqlite3.connect(fleet.directory / "service.db")
    asked: Counter[str] = Counter()
    measured.written.update((await fleet.ask("counted?"))["written"])
    before = (running.program.cpu_seconds(), await _statements(running), _version(watching))
    async with asyncio.timeout(_PATIENCE):
        while asked["evaluations"] < PASSES:
            await asyncio.sleep(0.5)
            counted = await fleet.ask("counted?")
            asked.update(counted["asked"])
            measured.written.update(counted["written"])
    cpu, statements, version = running.program.cpu_seconds(), await _statements(running), _version(watching)
    watching.close()
    passes = asked["evaluations"]
    measured.cpu_of_a_pass = (cpu - before[0]) / passes
    measured.statements_of_a_pass = (statements - before[1]) / passes
    measured.database_changed = version != before[2]
    listing = ("jobs", "allocations", "evaluations", "variable", "job statuses", "job", "allocation")
    measured.reads_of_a_pass = {name: asked[name] / passes for name in listing if asked[name]}
    measured.resident = machine.resident_kib(running.program.pid)


async def _full_passes(running: Service, session: aiohttp.ClientSession, measured: _Measured) -> None:
    """Have everything compared on demand: Nomad, the plan of every stack, and every other neighbour for orphans."""
    for _ in range(FULL_PASSES):
        cpu, begun = running.program.cpu_seconds(), time.perf_counter()
        async with session.post("/v1/reconcile", params={"dry_run": "true"}) as answer:
            assert answer.status == 200, await answer.text()
            report = await answer.json()
        measured.full_cpu.append(running.program.cpu_seconds() - cpu)
        measured.full_seconds.append(time.perf_counter() - begun)
        measured.needy += len(report["stacks"]) + report["not_shown"] + len(report["orphans"])
    measured.resident = max(measured.resident, machine.resident_kib(running.program.pid))


async def _statements(running: Service) -> int:
    await running.program.tell("statements?")
    return int(await running.program.line())


def _version(database: sqlite3.Connection) -> int:
    """Return what is another number after every commit that changed anything."""
    return int(database.execute("PRAGMA data_version").fetchone()[0])


def _untouched(measured: _Measured) -> bool:
    return not measured.written and not measured.database_changed


def _pass(many: _Measured) -> Figure:
    reads = sum(many.reads_of_a_pass.values())
    return Figure(
        name=f"fleet: a pass over {STACKS} stacks in which nothing changed",
        value=round(many.cpu_of_a_pass, 3),
        unit="CPU-s",
        bar=f"<= {PASS_BAR}, <= {READS_BAR} reads, no writes",
        holds=many.cpu_of_a_pass <= PASS_BAR and reads <= READS_BAR and _untouched(many) and many.needy == 0,
        details={
            "reads": {name: round(times, 2) for name, times in many.reads_of_a_pass.items()},
            "reads_together": round(reads, 2),
            "statements_meanwhile": round(many.statements_of_a_pass, 1),
            "statements_are": "the dispatcher's claim of what is due, once a second",
            "seconds_between_passes": _INTERVAL.total_seconds(),
            "written_to_neighbours": dict(many.written),
            "database_changed": many.database_changed,
            "kept_apart": "Vault's sweep, steady probes, memory of runtimes, comparison with Consul",
            "on_demand_with_all_plans_and_every_other_neighbour": {
                "cpu_seconds": spread(many.full_cpu, 2),
                "seconds": spread(many.full_seconds, 2),
                "stacks_and_orphans_with_something_to_do": many.needy,
            },
        },
    )


def _restart(many: _Measured, few: _Measured) -> Figure:
    ready = median(many.ready)
    others = {phase: times for phase, times in many.phases.items() if not phase.startswith("running,")}
    return Figure(
        name=f"fleet: restart to ready with {STACKS} stacks",
        value=round(ready, 2),
        unit="s",
        bar=f"<= {READY_BAR}, none called stopped",
        holds=ready <= READY_BAR and not others and not many.written,
        details={
            "ready_seconds": spread(many.ready, 2),
            "listening_seconds": spread(many.listening, 2),
            "cpu_seconds": spread(many.start_cpu, 2),
            f"ready_seconds_with_{FEW}": spread(few.ready, 2),
            f"cpu_seconds_with_{FEW}": spread(few.start_cpu, 2),
            "shown_by_the_api": dict(many.phases),
            "written_to_neighbours": dict(many.written),
        },
    )


def _memory(many: _Measured, few: _Measured) -> Figure:
    per_stack = (many.resident - few.resident) / (STACKS - FEW)
    return Figure(
        name="fleet: memory of an idle stack",
        value=round(per_stack, 2),
        unit="KiB",
        bar=f"<= {MEMORY_BAR}",
        holds=per_stack <= MEMORY_BAR,
        details={
            "resident_mib": {
                str(STACKS): round(many.resident / 1024, 1),
                str(FEW): round(few.resident / 1024, 1),
            },
            "measured": "resident after the passes above, the larger of before and after those on demand",
        },
    )
