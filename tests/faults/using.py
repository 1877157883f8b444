"""A runtime in use while something is done to its surroundings, and the processes behind it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from end_to_end.servers import Servers, status_of
from end_to_end.service_process import ServiceProcess


@dataclass(slots=True)
class Use:
    answered: int = 0
    failures: list[str] = field(default_factory=list)


@asynccontextmanager
async def in_use(url: str, password: str) -> AsyncIterator[Use]:
    """Ask the runtime one thing after another, as its user does, and note whatever is not answered."""
    use = Use()

    async def ask() -> None:
        while True:
            try:
                status = await status_of(url, password)
            except (aiohttp.ClientError, TimeoutError) as error:
                use.failures.append(repr(error))
            else:
                use.answered += 1
                if status != 200:
                    use.failures.append(str(status))
            await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask())
    try:
        yield use
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking


async def log_of(service: ServiceProcess, user: str) -> str:
    answer = await service.call("GET", f"/v1/stacks/{user}/logs", role="operator", tail="1000")
    assert answer.status == 200, answer.body
    return answer.raw.decode()


async def conditions(service: ServiceProcess) -> dict[str, dict[str, Any]]:
    """Return the conditions that stand, by kind."""
    answer = await service.call("GET", "/v1/conditions", role="operator", standing="true")
    assert answer.status == 200, answer.body
    return {each["kind"]: each for each in answer.body["items"]}


async def reconciled(service: ServiceProcess, *, dry_run: bool = True) -> dict[str, Any]:
    answer = await service.call("POST", "/v1/reconcile", {}, role="operator", dry_run=str(dry_run).lower())
    assert answer.status == 200, answer.body
    return answer.body


async def events_of(service: ServiceProcess, user: str) -> Sequence[dict[str, Any]]:
    answer = await service.call("GET", f"/v1/stacks/{user}/events", role="operator", limit="500")
    assert answer.status == 200, answer.body
    return answer.body["items"]


async def nothing_is_left(servers: Servers, job_id: str) -> bool:
    """Whether neither Nomad, Consul nor Vault has anything of that name."""
    return (
        await servers.job(job_id) is None
        and not await servers.variables(job_id)
        and not await servers.volumes(job_id)
        and not await servers.instances(job_id)
        and await servers.secret_metadata(job_id) is None
    )
