"""What a fault that is told is: how it goes, what must hold, and how many control planes there are."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

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
