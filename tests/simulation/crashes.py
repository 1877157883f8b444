"""
Every point at which the control plane can die during one operation: before and after each external effect.

At each of them the call can also only fail, before it took effect or with its reply lost after it.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from opencode_lifecycle.model.rollout import MemberState, RolloutState
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

OF_FLEETS = {
    "make a release": ("gather", "release restart"),
    "use a release": ("gather", "release restart", "use"),
    "plan and apply": ("gather", "release restart", "plan"),
    "roll out": ("gather", "release restart", "roll"),
    "roll out instructions": ("gather", "release live", "roll"),
    "roll out a configuration": ("gather", "release reload", "roll"),
    "roll out what is bad": ("gather", "release dud", "roll"),
    "pause and resume": ("gather", "release restart", "roll and pause"),
    "abort": ("gather", "release restart", "roll and abort"),
    "roll back midway": ("gather", "release restart", "roll and rollback"),
    "roll back": ("gather", "release restart", "roll", "rollback"),
    "recreate everybody": ("gather", "recreate all"),
    "rotate all passwords": ("gather", "rotate all"),
    "lease": ("gather", "lease"),
    "pin": ("gather", "release restart", "pin"),
    "let a group sleep": ("gather", "group"),
    "roll out what migrates the data": ("gather", "release newer", "roll"),
    "take back what migrates the data": ("gather", "release newer dud", "roll"),
    "drain a node": ("gather", "drain"),
}
"""The same, for a fleet."""

_END_WELL = frozenset(
    {
        "plan and apply",
        "roll out",
        "roll out instructions",
        "roll out a configuration",
        "roll out what migrates the data",
        "pause and resume",
        "recreate everybody",
        "rotate all passwords",
    }
)
"""What moves everybody, wherever whoever drives it dies, once it was begun."""
_ENGINE = (
    *("_rollout", "use_release", "add_release", "put_plan", "put_group", "extend_lease"),
    *("database.decide", "reload", "abort_turns", "put_snapshots"),
)
"""How the effects end that are those of orders, leases and rollouts."""

_BACKGROUND = frozenset(
    {"database.claim", "database.claim_rollout", "database.put_orphans", "database.append", "vault.mark"}
)
"""Effects that are not of the operation, or that have none by themselves."""
_LIVES = 4
"""A point may not be reached in the first order of things that is tried."""
_NAME = re.compile(
    r"(?P<operation>[^:]+): (?P<what>dies|fails) (?P<when>before|after) (?P<method>.+) number (?P<nth>[0-9]+)"
)
_EXAMPLE = "stop: dies after nomad.deregister number 1"


@dataclass(frozen=True, slots=True)
class Point:
    operation: str
    crash: Crash

    @property
    def is_of_a_fleet(self) -> bool:
        return self.operation in OF_FLEETS

    @property
    def is_of_the_engine(self) -> bool:
        """Whether it is a point of orders, leases or rollouts, not one of a stack on its way."""
        return self.is_of_a_fleet and self.crash.method.endswith(_ENGINE)

    @classmethod
    def named(cls, name: str) -> "Point":
        """Return the point that `str` tells of."""
        found = _NAME.fullmatch(name)
        if found is None:
            raise ValueError(f"{name!r} names no point; one is: {_EXAMPLE}")
        only_fails, after = found["what"] == "fails", found["when"] == "after"
        return cls(found["operation"], Crash(found["method"], after, int(found["nth"]), only_fails))

    def script(self, replicas: int = 1) -> Script:
        return _script(self.operation, crash=self.crash, replicas=replicas)

    def __str__(self) -> str:
        when = "after" if self.crash.after else "before"
        what = "fails" if self.crash.only_fails else "dies"
        return f"{self.operation}: {what} {when} {self.crash.method} number {self.crash.nth}"


def points() -> list[Point]:
    """Run each operation in peace, and name every effect of it, before and after."""
    found = []
    for operation in (*OPERATIONS, *OF_FLEETS):
        # How often a fleet saves something differs from one order of things to another.
        counts = [_effects_of(operation, seed) for seed in range(3 if operation in OF_FLEETS else 1)]
        found += [
            Point(operation, Crash(*effect, nth, only_fails))
            for effect in counts[0]
            for nth in range(1, min(count[effect] for count in counts) + 1)
            for only_fails in (False, True)
        ]
    return found


def quick_points() -> list[Point]:
    """Return those that must always hold: of fleets each effect of the engine itself, in the first operation that has it."""
    every = points()
    firsts = {point.crash: point for point in reversed(every) if point.is_of_the_engine}
    return [point for point in every if not point.is_of_a_fleet] + list(reversed(firsts.values()))


def _effects_of(operation: str, seed: int) -> Counter[tuple[str, bool]]:
    schedule = Schedule(seed, _script(operation, calm=True))
    outcome = schedule.run()
    assert outcome.violation is None, f"{operation}, in peace: {outcome.violation}"
    effects = outcome.effects[schedule.first_effect : schedule.last_effect]
    return Counter(effect for effect in effects if effect[0] not in _BACKGROUND)


def die_at(point: Point, *, seeds: int, replicas: int = 1) -> Iterator[tuple[Outcome, bool]]:
    """Die or fail there under *seeds* orders of things; with each outcome comes whether it really came to that."""
    for seed in range(seeds * _LIVES):
        yield run(point, seed, replicas=replicas)


def run(point: Point, seed: int, *, replicas: int = 1) -> tuple[Outcome, bool]:
    """Die or fail there under one order of things. Return its outcome, and whether it really came to that."""
    schedule = Schedule(seed, point.script(replicas))
    outcome = schedule.run()
    if outcome.violation is None and point.operation in _END_WELL:
        outcome.violation = _why_not_well(schedule)
    return outcome, outcome.failed if point.crash.only_fails else outcome.crashes > 0


def _script(operation: str, **values: object) -> Script:
    if operation in OF_FLEETS:
        return Script(operations=OF_FLEETS[operation], has_rollouts=True, **values)
    return Script(operations=OPERATIONS[operation], **values)


def _why_not_well(schedule: Schedule) -> str | None:
    """Return what is wrong with the rollout at its end, if it ever began; None where everybody was moved."""
    rollout = next(reversed(schedule.cluster.store.rollouts.values()), None)
    if rollout is None:
        return None
    if rollout.state is not RolloutState.SUCCEEDED:
        return f"I10: the rollout is {rollout.state}, {rollout.reason}: {rollout.message}"
    members = schedule.cluster.store.rollout_stacks[rollout.id].values()
    left = [member.user_id for member in members if member.state is not MemberState.MIGRATED]
    return f"I10: {', '.join(left)} were not moved" if left else None
