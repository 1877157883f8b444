"""How many stacks may be moved at once, and who of those that wait is next. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from opencode_lifecycle.lifecycle.rollouts.standing import is_asleep, is_working
from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.rollout import BusyState, Member, MemberState, Rollout
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.staleness import needs_restart
from opencode_lifecycle.model.states import Desired, MigrationState, Phase

PATIENCE_WITH_AGENTS: Final = timedelta(seconds=30)
"""How long a stack that is not idle keeps its place while others wait for one; longer each time."""
MOST_PATIENCE: Final = timedelta(minutes=5)

_GENTLE: Final = frozenset({MigrationClass.LIVE, MigrationClass.RELOAD})
_ON_THE_WAY: Final = frozenset({Phase.STOPPING, Phase.PENDING, Phase.STARTING})
_WAITS: Final = frozenset({MigrationState.QUEUED, MigrationState.DRAINING})


@dataclass(frozen=True, slots=True)
class Case:
    """A member, and the row of its stack; None when there is no such stack."""

    member: Member
    stack: Stack | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sights:
    """
    What is known now of a stack, whether an agent was seen at work in it, what the fleet's target is, and what groups are
    pinned to.
    """

    stack: Callable[[UserId], Stack | None]
    busy: Callable[[UserId], BusyState]
    target: ReleaseId | None
    pins: Mapping[str, ReleaseId] = field(default_factory=dict)

    def is_pinned_elsewhere(self, rollout: Rollout, stack: Stack | None) -> bool:
        """Whether the group of the stack is pinned to another release than the one that the rollout moves to."""
        if rollout.release is None or stack is None:
            return False
        return self.pins.get(stack.intent.group, rollout.release) != rollout.release

    def is_kept_by_its_group(self, rollout: Rollout, stack: Stack | None) -> bool:
        """Whether the group of the stack is pinned to the very release that the rollout takes back, and it wants that."""
        if rollout.release is None or stack is None or stack.intent.wanted_release != rollout.release:
            return False
        return self.pins.get(stack.intent.group) == rollout.release


class Pace:
    """
    The places that a rollout has, and how many of them are taken.

    Whoever was ordered takes one until it was seen to its end, and keeps it on its way back to what ran before, if it
    failed. Of those that need a restart each counts as unavailable from its order on, since it may be stopped at any
    moment: nobody else is ordered in the hope that it will not be.
    """

    def __init__(self, rollout: Rollout, cases: Sequence[Case]) -> None:
        strategy = rollout.specification.strategy
        self.places = strategy.max_in_flight
        self.taken = sum(1 for case in cases if case.member.state is MemberState.ORDERED)
        self._returning = sum(map(_is_returning, cases))
        allowed = strategy.max_unavailable
        self._allowed = None if allowed is None else max(1, allowed.at_most(_counted(cases)))
        self._unavailable = sum(map(_is_unavailable, cases)) if allowed is not None else 0

    @property
    def is_full(self) -> bool:
        return self.taken + self._returning >= self.places

    def lets(self, case: Case) -> bool:
        """Whether one more may be moved, and that one."""
        if self.is_full:
            return False
        if self._allowed is None or _is_gentle(case):
            return True
        return self._unavailable < self._allowed

    def take(self, case: Case) -> None:
        self.taken += 1
        if not _is_gentle(case):
            self._unavailable += 1


def in_turn(cases: Iterable[Case], sights: Sights) -> list[Case]:
    """Return who waits in the order of their turns: those that gave their place to others, or are at work, last."""
    return sorted(
        cases,
        key=lambda case: (case.member.orders, sights.busy(case.member.user_id) is BusyState.BUSY),
    )


def gives_its_place(case: Case, deadline: timedelta, now: datetime) -> bool:
    """
    Whether the stack waits until it is idle, and has done so for long enough.

    With its *deadline* behind it, counted from its first order, it stays: its last order brings it to an end.
    """
    member, stack = case.member, case.stack
    return (
        member.ordered_at is not None
        and now >= member.ordered_at + patience_with(member)
        and now < (member.first_ordered_at or member.ordered_at) + deadline
        and stack is not None
        and stack.status.phase is Phase.RUNNING
        and stack.status.migration_state in _WAITS
    )


def patience_with(member: Member) -> timedelta:
    """Return how long the agent of *member* keeps the place of its stack."""
    return min(PATIENCE_WITH_AGENTS * max(1, member.orders), MOST_PATIENCE)


def _is_gentle(case: Case) -> bool:
    """
    Whether the process runs on while the stack is moved.

    1. A release with another prompt is rolled out, under which everything runs on.
    2. Amid that, somebody rotates secrets, and whoever is moved is restarted for his at the same time.
    """
    if case.member.migration_class not in _GENTLE:
        return False
    status = case.stack.status if case.stack is not None else None
    return status is None or not any(
        needs_restart(facet, edits_restart=status.edits_restart) for facet in status.stale
    )


def _is_returning(case: Case) -> bool:
    """Whether it was stopped for what has failed, and what ran before does not run again yet."""
    stack = case.stack
    return (
        case.member.state is MemberState.FAILED
        and stack is not None
        and stack.intent.desired is Desired.RUNNING
        and stack.is_refused
        and stack.status.phase in _ON_THE_WAY
    )


def _is_unavailable(case: Case) -> bool:
    member, stack = case.member, case.stack
    if member.orders == 0 or member.state is MemberState.LEFT_OUT or stack is None:
        return False
    if stack.intent.desired is not Desired.RUNNING or is_asleep(stack):
        return False
    may_be_stopped = member.state is MemberState.ORDERED and not _is_gentle(case)
    return may_be_stopped or not is_working(stack)


def _counted(cases: Sequence[Case]) -> int:
    return sum(1 for case in cases if case.member.state is not MemberState.LEFT_OUT)
