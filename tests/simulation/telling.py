"""What a fault that is told is: how it goes, what must hold, and how many control planes there are."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from opencode_lifecycle.model.identifiers import UserId, job_id_of
from opencode_lifecycle.model.observation import AllocationSeen
from opencode_lifecycle.model.states import Phase
from simulation.invariants import Violation
from simulation.schedule import Schedule, Script


@dataclass(frozen=True, slots=True)
class Scenario:
    """One told fault. With *has_rollouts* it is told of a fleet."""

    fault: str
    must_hold: str
    story: Callable[[Schedule], Awaitable[None]]
    replicas: int = 1
    has_rollouts: bool = False

    def script(self) -> Script:
        return Script(scenario=self.story, replicas=self.replicas, has_rollouts=self.has_rollouts)


def hold(condition: bool, sentence: str) -> None:  # noqa: FBT001 - as `assert`
    if not condition:
        raise Violation(sentence)


async def comes_to(schedule: Schedule, user: UserId, phase: Phase, *, within: float) -> bool:
    """Wait for the phase and return whether it came *within* that many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while schedule.cluster.store.rows[user].stack.status.phase is not phase:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.5)
            return True
    return False


def live_of(schedule: Schedule, user: UserId) -> list[AllocationSeen]:
    return schedule.cluster.nomad._live(job_id_of("main", user))
