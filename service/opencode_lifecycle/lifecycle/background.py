"""Loops that must not end. Each has a name, a pulse that shows its age, and is started again when it fails; and how they wait."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from time import monotonic

import structlog

from opencode_lifecycle.lifecycle.backoff import Backoff

log = structlog.get_logger(__name__)


class Pulse:
    """When something last went well, on a monotonic clock."""

    def __init__(self) -> None:
        self._at: float | None = None

    def beat(self) -> None:
        self._at = monotonic()

    def age(self) -> float | None:
        """Seconds since the last beat, or None before the first."""
        return None if self._at is None else monotonic() - self._at


def _time() -> float:
    return asyncio.get_running_loop().time()


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Return when *event* is set. After *seconds* it is, by us, which spares a cancellation for each wait that ends so."""
    alarm = asyncio.get_running_loop().call_later(seconds, event.set)
    try:
        await event.wait()
    finally:
        alarm.cancel()


async def keep_going(
    name: str, once: Callable[[], Awaitable[None]], *, backoff: Backoff, random: Random
) -> None:
    """
    Run *once* again and again until cancelled.

    *once* sets its own pace. When it raises, that is logged, and it is run again after a growing pause; it is never
    given up. What went on for longer than the longest pause before it failed has not failed in a row.
    """
    failures = 0
    while True:
        began = _time()
        try:
            await once()
            failures = 0
        except Exception as error:  # noqa: BLE001 - whatever it was, the loop goes on and says so
            failures = failures + 1 if _time() - began <= backoff.most else 1
            pause = backoff.seconds(failures, random)
            log.warning(
                "loop failed", loop=name, error=str(error), kind=type(error).__name__, pause=round(pause, 2)
            )
            await asyncio.sleep(pause)
