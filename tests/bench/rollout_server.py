"""
The service as it is in production, but for the runtimes, which are simulated.

To a line that it is told it answers with how many stacks at most were without a working runtime, of all that were counted
ten times a second since the line before, and how often it counted.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from bench import serving
from bench.simulated import SimulatedRuntimes
from opencode_lifecycle import application
from opencode_lifecycle.lifecycle.control_plane import ControlPlane
from opencode_lifecycle.lifecycle.neighbours import Neighbours
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.settings import Settings

PAUSE = 0.1


class Counter:
    """Counts in the memory of a control plane, from which its API answers, whom nobody could use now."""

    def __init__(self) -> None:
        self.most = 0
        self.times = 0

    def count(self, stacks: list[Stack]) -> None:
        self.most = max(self.most, sum(not is_usable(stack) for stack in stacks))
        self.times += 1

    def answer(self, _: str) -> str:
        found = {"most": self.most, "times": self.times}
        self.most = self.times = 0
        return json.dumps(found)


def is_usable(stack: Stack) -> bool:
    """Whether a backend that asks for its address is given one."""
    runtime = stack.status.runtime
    return stack.status.phase is Phase.RUNNING and runtime is not None and runtime.address is not None


def put_in_place(runtimes: SimulatedRuntimes, counter: Counter) -> None:
    """Have this process's application work with *runtimes*, and count in the plane that it makes."""
    real = application._neighbours

    async def neighbours(settings: Settings, stack: AsyncExitStack) -> Neighbours:
        return runtimes.among(await real(settings, stack))

    class CountedPlane(ControlPlane):
        @asynccontextmanager
        async def running(self, content: Any) -> AsyncIterator[None]:
            async with super().running(content):
                counting = asyncio.create_task(self._count(), name="counting")
                try:
                    yield
                finally:
                    counting.cancel()

        async def _count(self) -> None:
            while True:
                counter.count([known.stack for known in self.fleet])
                await asyncio.sleep(PAUSE)

    application._neighbours = neighbours
    application.ControlPlane = CountedPlane  # type: ignore[misc]  # of this process alone


if __name__ == "__main__":
    counter = Counter()
    put_in_place(SimulatedRuntimes(), counter)
    serving.run(counter.answer)
