"""
Figure 7: how soon a change of an allocation shows in our API, counted from when a bare reader of the same stream has it.

A change is the restart of a task. It shows when `GET /v1/stacks/{user}` does not call the stack running and well any more,
or names the new run. The neighbours are those of the loopback, where 50 changes a second cost little; `visibility_real`
measures the same with a real Nomad, which on two cores is itself the limit.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any

import aiohttp

from bench.at_rest import AtRest, at_rest
from bench.figures import Figure, spread
from bench.replay import allocation_id_of
from bench.show import say

CHANGES = 1000
PER_SECOND = 50
BAR_MS = 250
CUT_CHANGES = 12
CUT_PER_SECOND = 1.0
_RESYNC = timedelta(seconds=5)
_PAUSE = 0.03
"""Between two reads of the same stack: what the service is asked is a part of its load."""
_WELL = frozenset({"healthy", "degraded"})
_PATIENCE = 60.0
_LONGEST_EVENT = 16 * 1024 * 1024


class Watcher:
    """Asks our API for stacks until they show a change. *users* are the users by their allocations."""

    def __init__(self, session: aiohttp.ClientSession, users: Mapping[str, str]) -> None:
        self._session = session
        self._user_of = users
        self.asked = 0

    async def until_shown(self, allocation_id: str, restarts: int) -> float:
        """Return the moment at which our API showed that the allocation is in its run number *restarts*."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                self.asked += 1
                async with self._session.get(f"/v1/stacks/{self._user_of[allocation_id]}") as answer:
                    assert answer.status == 200, await answer.text()
                    stack = await answer.json()
                now = time.monotonic()
                runtime = stack["runtime"]
                is_well = stack["phase"] == "running" and stack["health"] in _WELL
                if not is_well or (runtime and runtime["restarts"] >= restarts):
                    return now
                await asyncio.sleep(_PAUSE)


async def measure(directory: Path) -> list[Figure]:
    say(f"visibility: {CHANGES} changes, {PER_SECOND} a second")
    async with (
        at_rest(directory / "visible", CHANGES + CUT_CHANGES, resync_interval=_RESYNC) as fleet,
        fleet.service() as running,
        running.session() as session,
    ):
        await asyncio.sleep(2 * _RESYNC.total_seconds())  # until the start is over
        watcher = Watcher(session, {allocation_id_of(each.job_id): each.user_id for each in fleet.members()})
        cpu, begun = running.program.cpu_seconds(), time.monotonic()
        took = await _with_stream(fleet, watcher)
        share = (running.program.cpu_seconds() - cpu) / (time.monotonic() - begun)
        asked = watcher.asked
        cut, period = await _without_stream(fleet, watcher)
    return [_of_stream(took, share, asked), _of_listing(cut, period)]


async def _with_stream(fleet: AtRest, watcher: Watcher) -> list[float]:
    """Return, for each change, the seconds between the line of the stream and our API."""
    took: list[float] = []
    opened = asyncio.Event()

    async def measured(allocation_id: str, restarts: int, told: float) -> None:
        took.append(await watcher.until_shown(allocation_id, restarts) - told)

    async with asyncio.TaskGroup() as tasks:

        async def read() -> None:
            heard = 0
            async for moment, line in _lines(fleet.addresses["nomad"], opened):
                for allocation in _restarted_in(line):
                    restarts = allocation["TaskStates"]["server"]["Restarts"]
                    tasks.create_task(measured(allocation["ID"], restarts, moment))
                    heard += 1
                if heard == CHANGES:
                    return

        reading = tasks.create_task(read())
        await opened.wait()
        order = {"numbers": list(range(CHANGES)), "per_second": PER_SECOND}
        await fleet.ask(f"change {json.dumps(order)}")
        async with asyncio.timeout(_PATIENCE):
            await reading
    return took


async def _lines(port: int, opened: asyncio.Event) -> Any:
    """Yield each line of the event stream with the moment at which it was there: the barest reader."""
    query = {"topic": "Allocation", "index": "1000000000"}
    url = f"http://127.0.0.1:{port}/v1/event/stream"
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=_LONGEST_EVENT) as session,
        session.get(url, params=query) as answer,
    ):
        async for line in answer.content:
            moment = time.monotonic()
            opened.set()
            yield moment, line


def _restarted_in(line: bytes) -> list[Mapping[str, Any]]:
    events = json.loads(line).get("Events") or []
    return [event["Payload"]["Allocation"] for event in events if event["Topic"] == "Allocation"]


async def _without_stream(fleet: AtRest, watcher: Watcher) -> tuple[list[float], float]:
    """
    Cut the stream, refuse every new one, and return the seconds between each change and our API.

    With them, the longest time that passed meanwhile from the beginning of one listing to that of the next.
    """
    await fleet.ask("cut")
    await fleet.ask("listings?")
    numbers = list(range(CHANGES, CHANGES + CUT_CHANGES))
    ids = [allocation_id_of(member.job_id) for member in fleet.members()]
    shown: dict[int, asyncio.Task[float]] = {
        number: asyncio.create_task(watcher.until_shown(ids[number], 1)) for number in numbers
    }
    order = {"numbers": numbers, "per_second": CUT_PER_SECOND}
    moments = await fleet.ask(f"change {json.dumps(order)}")
    ends = await asyncio.gather(*shown.values())
    begun = await fleet.ask("listings?")
    period = max(later - earlier for earlier, later in pairwise(begun))
    await fleet.ask("mend")
    return [end - moment for end, moment in zip(ends, moments, strict=True)], period


def _of_stream(took: Sequence[float], share: float, asked: int) -> Figure:
    points = percentiles(took)
    return Figure(
        name=f"visibility: a change of an allocation, {PER_SECOND} a second",
        value=points["p99"],
        unit="ms (p99)",
        bar=f"<= {BAR_MS}",
        holds=points["p99"] <= BAR_MS and len(took) == CHANGES,
        details={
            "milliseconds_after_a_bare_reader": points,
            "changes": len(took),
            "stacks": CHANGES + CUT_CHANGES,
            "reads_of_our_api": asked,
            "share_of_a_core_the_service_used": round(share, 2),
            "each_change_also_costs": "a claim, two saves, a look at Consul, a read of Vault and a proof of the new run",
        },
    )


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return milliseconds."""
    points = quantiles([each * 1000 for each in seconds], n=100)
    found = {"p50": points[49], "p90": points[89], "p99": points[98], "max": max(seconds) * 1000}
    return {name: round(value, 1) for name, value in found.items()}


def _of_listing(took: Sequence[float], period: float) -> Figure:
    worst = max(took)
    return Figure(
        name="visibility: a change while the stream is cut",
        value=round(worst, 2),
        unit="s",
        bar=f"<= one resync period ({period:.2f} s) and {BAR_MS} ms",
        holds=worst <= period + BAR_MS / 1000,
        details={
            "seconds": spread(took, 2),
            "resync_interval_seconds": _RESYNC.total_seconds(),
            "from_listing_to_listing_seconds": round(period, 2),
        },
    )
