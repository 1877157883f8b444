"""Who has an allocation that runs, as Nomad's event stream tells it, and how many at most had none at once."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from bench.servers import NAMESPACE, Operator

PAUSE: Final = 0.1
"""Between two counts."""
_LONGEST_EVENT: Final = 16 * 1024 * 1024


class Availability:
    """Of *jobs*, which all run at first."""

    def __init__(self, jobs: Collection[str]) -> None:
        self._jobs = frozenset(jobs)
        self._running: defaultdict[str, set[str]] = defaultdict(set)
        self.most = 0
        """How many had no allocation that runs, at most, of all counts."""
        self.times = 0

    def take_in(self, allocations: Collection[Mapping[str, Any]]) -> None:
        """Learn from allocations, or stubs of them, as Nomad shows them now."""
        for each in allocations:
            if each["JobID"] in self._jobs:
                running = self._running[each["JobID"]]
                (running.add if each["ClientStatus"] == "running" else running.discard)(each["ID"])

    @property
    def unavailable(self) -> int:
        return sum(not self._running[job_id] for job_id in self._jobs)

    def count(self) -> None:
        self.most = max(self.most, self.unavailable)
        self.times += 1


@asynccontextmanager
async def watched(by: Operator, jobs: Collection[str]) -> AsyncIterator[Availability]:
    """Yield the availability of *jobs*, counted ten times a second until the body ends."""
    availability = Availability(jobs)
    headers = {"X-Nomad-Token": by.cluster.nomad_token}
    query = {"topic": "Allocation", "namespace": NAMESPACE, "index": str(await by.index())}
    availability.take_in(await by.allocations())
    assert availability.unavailable == 0, "all of them run at first"
    async with by.session.get(
        f"{by.cluster.nomad_address}/v1/event/stream",
        headers=headers,
        params=query,
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=_LONGEST_EVENT,
    ) as stream:
        stream.raise_for_status()

        async def listen() -> None:
            async for line in stream.content:
                events = json.loads(line).get("Events") or ()
                availability.take_in([event["Payload"]["Allocation"] for event in events])

        async def count() -> None:
            while True:
                availability.count()
                await asyncio.sleep(PAUSE)

        tasks = [asyncio.create_task(listen()), asyncio.create_task(count())]
        try:
            yield availability
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
