"""
Figure of rollouts: how long a plan for 10,000 stacks takes, and what an ensure waits meanwhile.

The plan is asked for over HTTP of the real service on SQLite, and is done when its whole answer is read: who is stale and
why, in which wave, and the plan stored for its apply. One release changes the texts, so that Nomad is asked nothing; the
other changes the image, and for the first 200 Nomad would be asked whether it could place them: the loopback one refuses
to say, at once, so that this costs the asking alone. Meanwhile one backend ensures one stack after another.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import aiohttp

from bench.at_rest import AtRest, at_rest
from bench.figures import Figure, spread
from bench.service import Service
from bench.show import say
from opencode_lifecycle import application
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.principal import Role

STACKS: Final = 10_000
REPETITIONS: Final = 7
BAR: Final = 2.0
_PAUSE: Final = 0.002
"""Between two ensures of the one who waits for them."""


@dataclass(slots=True)
class _Measured:
    seconds: list[float] = field(default_factory=list)
    longest_ensure: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    totals: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0


async def measure(directory: Path) -> list[Figure]:
    say(f"planning: a rollout of {STACKS} stacks")
    async with at_rest(directory / "planning", STACKS) as fleet:
        releases = await _releases(fleet)
        token = await application.issue_token(fleet.settings, name="backend", role=Role.BACKEND, subject=None)
        async with (
            fleet.service() as running,
            running.session() as operator,
            backend_of(running, token) as backend,
        ):
            await _until_ready(operator)
            idle = await _ensures(backend, 1.0)
            found = {
                name: await _plans(operator, backend, release, running.program.cpu_seconds)
                for name, release in releases.items()
            }
    return [_figure(found, idle)]


async def _releases(fleet: AtRest) -> dict[str, str]:
    """Store releases of which the whole fleet is stale, as if they had been made and checked before."""
    database = Database(url=fleet.settings.database_url, exclusive=True)
    await database.open()
    try:
        content = application.release_content(fleet.settings)
        contents = {
            "texts": replace(content, instructions="Always mention the word marzipan."),
            "image": replace(content, image="registry.example/opencode@sha256:fedcba9876543210"),
        }
        made = {
            name: await database.add_release(each.release(now=utc_now(), created_by="bench"))
            for name, each in contents.items()
        }
    finally:
        await database.close()
    return {name: release.id for name, release in made.items()}


def backend_of(running: Service, token: str) -> aiohttp.ClientSession:
    return replace(running, token=token).session()


async def _until_ready(session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(120):
        while True:
            async with session.get("/readyz") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.1)


async def _plans(
    operator: aiohttp.ClientSession, backend: aiohttp.ClientSession, release: str, cpu: Callable[[], float]
) -> _Measured:
    measured = _Measured()
    for number in range(REPETITIONS + 1):
        ensuring = asyncio.create_task(_longest_ensure(backend))
        used, begun = cpu(), time.perf_counter()
        async with operator.post("/v1/rollouts/plan", json={"release": release}) as answer:
            body = await answer.read()
            took = time.perf_counter() - begun
            assert answer.status == 200, body[:300]
        ensuring.cancel()
        longest = await ensuring
        if number == 0:
            # The first one reads the release, and shows that the whole fleet is in it.
            measured.totals = (await answer.json())["totals"]
            assert measured.totals["to_move"] == STACKS, measured.totals
            continue
        measured.seconds.append(took)
        measured.longest_ensure.append(longest)
        measured.cpu.append(cpu() - used)
        measured.size = len(body)
    say(f"  {median(measured.seconds):.2f} s, an ensure waits {max(measured.longest_ensure) * 1000:.0f} ms")
    return measured


async def _longest_ensure(session: aiohttp.ClientSession) -> float:
    """Ensure one stack again and again until cancelled, and return how long the slowest answer took."""
    longest = 0.0
    begun = time.perf_counter()
    with suppress(asyncio.CancelledError):
        while True:
            begun = time.perf_counter()
            async with session.put("/v1/stacks/user-000042@example.org") as answer:
                await answer.read()
                assert answer.status == 200, answer.status
            longest = max(longest, time.perf_counter() - begun)
            begun = time.perf_counter()
            await asyncio.sleep(_PAUSE)
            begun = time.perf_counter()
    return max(longest, time.perf_counter() - begun)


async def _ensures(session: aiohttp.ClientSession, seconds: float) -> float:
    """Return the slowest ensure of a time in which nothing is planned."""
    ensuring = asyncio.create_task(_longest_ensure(session))
    await asyncio.sleep(seconds)
    ensuring.cancel()
    return await ensuring


def _figure(found: Mapping[str, _Measured], idle: float) -> Figure:
    slowest = max(median(each.seconds) for each in found.values())
    return Figure(
        name=f"planning: a rollout of {STACKS} stacks",
        value=round(slowest, 3),
        unit="s",
        bar=f"<= {BAR}",
        holds=slowest <= BAR,
        details={
            "by_what_the_release_changes": {
                name: {
                    "seconds": spread(each.seconds),
                    "cpu_seconds_of_the_service": spread(each.cpu, 2),
                    "longest_ensure_meanwhile_ms": spread([s * 1000 for s in each.longest_ensure], 1),
                    "totals": dict(each.totals),
                    "answer_mib": round(each.size / 2**20, 2),
                }
                for name, each in found.items()
            },
            "longest_ensure_without_a_plan_ms": round(idle * 1000, 1),
            "longest_ensure_is": "one backend that ensures one running stack after another while the plan is made",
        },
    )
