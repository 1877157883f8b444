"""Releases and rollouts as an operator asks for them over HTTP, and what Nomad itself has of each runtime that was rolled."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from end_to_end.servers import Servers
from end_to_end.service_process import ServiceProcess, until

AT_ONCE = {"canary": "1", "waves": ["100%"], "max_in_flight": 2, "soak": "0s"}
ENDED = {"succeeded", "failed", "aborted", "paused", "rolled_back"}


async def a_release(service: ServiceProcess, **content: object) -> str:
    answer = await service.call("POST", "/v1/releases", content, role="operator")
    assert answer.status in {200, 201}, answer.body
    return answer.body["id"]


async def target(service: ServiceProcess) -> str:
    listed = await service.call("GET", "/v1/releases", role="operator", limit="500")
    [current] = [each["id"] for each in listed.body["items"] if each["is_current"]]
    return current


async def begin(service: ServiceProcess, release: str | None, **changes: object) -> str:
    body = {"strategy": {**AT_ONCE, **changes}, **({"release": release} if release else {})}
    answer = await service.call("POST", "/v1/rollouts", body, role="operator")
    assert answer.status == 201, answer.body
    return answer.body["id"]


async def rollout_of(service: ServiceProcess, rollout_id: str) -> dict[str, Any]:
    answer = await service.call("GET", f"/v1/rollouts/{rollout_id}", role="operator", limit="500")
    assert answer.status == 200, answer.body
    return answer.body


async def end_of(service: ServiceProcess, rollout_id: str, seconds: float = 240) -> dict[str, Any]:
    """Return the rollout when it is over, or waits for a person."""
    return await until(
        lambda: rollout_of(service, rollout_id), lambda found: found["state"] in ENDED, seconds
    )


def count(rollout: Mapping[str, Any], *states: str) -> int:
    return sum(rollout["counts"].get(state, 0) for state in states)


# --- what Nomad has


@dataclass(frozen=True, slots=True)
class Placed:
    """How often Nomad took a job, and how many allocations it made of it."""

    versions: int
    allocations: int


async def placed(servers: Servers, job_id: str) -> Placed:
    job = await servers.job(job_id)
    return Placed(versions=job["Version"] + 1, allocations=len(await servers.allocations(job_id)))


@dataclass(slots=True)
class Watched:
    """The most that was seen at any moment."""

    running: dict[str, int] = field(default_factory=dict)
    """Allocations of each job that run. The next one of a job is there before, and waits until that which runs has ended."""
    ordered: int = 0
    """Stacks with an order that is not done."""


@asynccontextmanager
async def watched(
    servers: Servers, services: Iterable[ServiceProcess], jobs: Iterable[str]
) -> AsyncIterator[Watched]:
    """Look again and again at each of *jobs*, and at whoever is in flight by whatever of *services* answers."""
    seen, jobs, services = Watched(), list(jobs), list(services)

    async def look() -> None:
        while True:
            for job_id in jobs:
                running = [
                    each for each in await servers.allocations(job_id) if each["ClientStatus"] == "running"
                ]
                seen.running[job_id] = max(seen.running.get(job_id, 0), len(running))
            for service in services:
                seen.ordered = max(seen.ordered, await _in_flight(service))
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()
        [ended] = await asyncio.gather(looking, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


async def _in_flight(service: ServiceProcess) -> int:
    try:
        async with (
            asyncio.timeout(1),
            service.client("operator") as client,
            client.get("/v1/stacks", params={"limit": "500"}) as response,
        ):
            stacks = json.loads(await response.read())["items"]
    except (aiohttp.ClientError, OSError, TimeoutError):
        return 0
    return sum(1 for each in stacks if (each["migration"] or {}).get("order"))
