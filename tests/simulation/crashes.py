"""
Every point at which the control plane can die during one operation: before and after each external effect.

At each of them the call can also only fail, before it took effect or with its reply lost after it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from simulation.schedule import Crash, Outcome, Schedule, Script

OPERATIONS = {
    "ensure": ("ensure",),
    "stop": ("ensure", "stop"),
    "recreate": ("ensure", "recreate"),
    "delete": ("ensure", "delete"),
    "delete with its data": ("ensure", "delete_all"),
    "rotate": ("ensure", "rotate"),
}
"""Each with what goes before it."""

_BACKGROUND = frozenset({"database.claim", "database.put_orphans", "database.append", "vault.mark"})
"""Effects that are not of the operation, or that have none by themselves."""
_LIVES = 4
"""A point may not be reached in the first order of things that is tried."""


@dataclass(frozen=True, slots=True)
class Point:
    operation: str
    crash: Crash

    def script(self, replicas: int = 1) -> Script:
        return Script(operations=OPERATIONS[self.operation], crash=self.crash, replicas=replicas)

    def __str__(self) -> str:
        when = "after" if self.crash.after else "before"
        what = "fails" if self.crash.only_fails else "dies"
        return f"{self.operation}: {what} {when} {self.crash.method} number {self.crash.nth}"


def points() -> list[Point]:
    """Run each operation once in peace, and name every effect of it, before and after."""
    found = []
    for operation, script in OPERATIONS.items():
        schedule = Schedule(0, Script(operations=script, calm=True))
        outcome = schedule.run()
        assert outcome.violation is None, f"{operation}, in peace: {outcome.violation}"
        seen: Counter[tuple[str, bool]] = Counter()
        for effect in outcome.effects[schedule.first_effect :]:
            if effect[0] in _BACKGROUND:
                continue
            seen[effect] += 1
            found += [
                Point(operation, Crash(*effect, seen[effect], only_fails)) for only_fails in (False, True)
            ]
    return found


def die_at(point: Point, *, seeds: int, replicas: int = 1) -> Iterator[tuple[Outcome, bool]]:
    """Die or fail there under *seeds* orders of things; with each outcome comes whether it really came to that."""
    for seed in range(seeds * _LIVES):
        outcome = Schedule(seed, point.script(replicas)).run()
        yield outcome, outcome.failed if point.crash.only_fails else outcome.crashes > 0
