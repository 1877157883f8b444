"""A client that uses one runtime all the time, as a backend does: it reads the address anew before each use."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from bench.proof import PAUSE, is_healthy, refuses_strangers

_PATIENCE = 10.0
"""Seconds for one request. What takes longer counts as failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One try: the address read, and what is there held to the neutral proof."""

    begun: float
    ended: float
    why: str = ""
    """Why it did not work; empty when it did."""

    @property
    def worked(self) -> bool:
        return not self.why


@dataclass(slots=True)
class Uses:
    """All tries of a time, in their order."""

    tries: list[Use] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(not each.worked for each in self.tries)

    @property
    def reasons(self) -> Mapping[str, int]:
        """Return why any did not work, and how many."""
        return Counter(each.why for each in self.tries if each.why)

    @property
    def longest(self) -> float:
        """Return the seconds of the slowest that worked."""
        return max(each.ended - each.begun for each in self.tries if each.worked)

    @property
    def interruption(self) -> float:
        """Return the seconds from the last use that worked before any failed to the first that worked after all that did."""
        return interruption(self.tries)


def interruption(tries: Sequence[Use]) -> float:
    failed = [place for place, each in enumerate(tries) if not each.worked]
    if not failed:
        return 0.0
    first, last = failed[0], failed[-1]
    assert first > 0, "the first use has to work"
    assert last + 1 < len(tries), "it has to work again at the end"
    return tries[last + 1].ended - tries[first - 1].ended


@asynccontextmanager
async def in_use(
    service: aiohttp.ClientSession, user: str, password: str, directory: str
) -> AsyncIterator[Uses]:
    """Use the runtime of *user* until the body ends, and once more until that works."""
    uses = Uses()
    working = asyncio.Event()

    async def use_again_and_again() -> None:
        while True:
            begun = time.perf_counter()
            why = await _why_not(service, user, password, directory)
            uses.tries.append(Use(begun=begun, ended=time.perf_counter(), why=why))
            if not why:
                working.set()
            await asyncio.sleep(PAUSE)

    using = asyncio.create_task(use_again_and_again())
    try:
        await working.wait()
        yield uses
        working.clear()
        await working.wait()
    finally:
        using.cancel()
        await asyncio.gather(using, return_exceptions=True)


async def _why_not(service: aiohttp.ClientSession, user: str, password: str, directory: str) -> str:
    """Use the runtime once, and return why that did not work; nothing when it did."""
    try:
        async with service.get(f"/v1/stacks/{user}/address") as answer:
            if answer.status != 200:
                return f"no address: {answer.status}"
            address = (await answer.json())["url"]
        timeout = aiohttp.ClientTimeout(total=_PATIENCE)
        async with aiohttp.ClientSession(address, timeout=timeout) as runtime:
            if not await refuses_strangers(runtime, seconds=_PATIENCE):
                return "it did not refuse a stranger"
            return "" if await is_healthy(runtime, password, directory) else "it was not healthy"
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__
