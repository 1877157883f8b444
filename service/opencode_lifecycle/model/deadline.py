"""A named time budget, passed down through every call that may wait."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from opencode_lifecycle.model.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """
    The moment, on a monotonic clock, by which *purpose* must be done.

    Wall clocks step; a budget must not grow or vanish with them.
    """

    purpose: str
    ends_at: float
    clock: Callable[[], float] = field(default=monotonic, repr=False, compare=False)

    @classmethod
    def after(cls, seconds: float, purpose: str, clock: Callable[[], float] = monotonic) -> "Deadline":
        """Start a budget of *seconds* now."""
        return cls(purpose, clock() + seconds, clock)

    def left(self) -> float:
        """Seconds that remain, never negative."""
        return max(0.0, self.ends_at - self.clock())

    @asynccontextmanager
    async def enforce(self) -> AsyncIterator[None]:
        """Cancel the body when the budget is spent and raise `DeadlineExceeded` in its place."""
        try:
            async with asyncio.timeout(self.left()):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded(self.purpose) from error
