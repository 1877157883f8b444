"""
Rollouts: a paced set of migrations, how far each got, and what became of each stack in it.

A rollout changes only what stacks are wanted to be. Each stack's own reconciler does the work and reports in its row.
What a rollout is asked to do is `model.rollout_specification`; what it would do is a `RolloutPlan` there is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from opencode_lifecycle.model.identifiers import PlanId, ReleaseId, RolloutId, UserId
from opencode_lifecycle.model.migration import DataPolicy, MigrationClass
from opencode_lifecycle.model.rollout_specification import RolloutSpecification
from opencode_lifecycle.model.staleness import Staleness
from opencode_lifecycle.model.transitions import check_transition


class RolloutState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    """Nobody else is moved; whoever has begun to be moved finishes. Resuming goes on in the same direction."""
    ABORTED = "aborted"
    """Nobody else is moved, for good. It has ended when whoever was being replaced has finished."""
    ROLLING_BACK = "rolling_back"
    """Whoever was moved is ordered back, at the same pace."""
    ROLLED_BACK = "rolled_back"
    SUCCEEDED = "succeeded"
    """Everybody was seen to: moved, or left out with a reason."""
    FAILED = "failed"
    """Its canaries did not pass, and were taken back. The fleet's target is what it was."""


ROLLOUT_MOVES: Final[Mapping[RolloutState, frozenset[RolloutState]]] = {
    RolloutState.RUNNING: frozenset(
        {
            RolloutState.PAUSED,
            RolloutState.ABORTED,
            RolloutState.ROLLING_BACK,
            RolloutState.SUCCEEDED,
            RolloutState.FAILED,
        }
    ),
    RolloutState.PAUSED: frozenset({RolloutState.RUNNING, RolloutState.ABORTED, RolloutState.ROLLING_BACK}),
    RolloutState.ABORTED: frozenset({RolloutState.ROLLING_BACK}),
    RolloutState.ROLLING_BACK: frozenset(
        {RolloutState.PAUSED, RolloutState.ABORTED, RolloutState.ROLLED_BACK, RolloutState.FAILED}
    ),
    RolloutState.ROLLED_BACK: frozenset(),
    RolloutState.SUCCEEDED: frozenset({RolloutState.ROLLING_BACK}),
    RolloutState.FAILED: frozenset(),
}
"""
From each state of a rollout, where it may go. Staying is always legal. Abort and rollback are legal while it is paused.

One that was aborted or has succeeded can be rolled back while nothing newer became the fleet's target.
"""


def check_rollout_move(rollout_id: RolloutId, current: RolloutState, to: RolloutState) -> None:
    """Raise `IllegalTransition` unless a rollout may go from *current* to *to*."""
    check_transition(rollout_id, "state", ROLLOUT_MOVES, current, to)


class RolloutReason(StrEnum):
    """Why a rollout is paused, was taken back or failed. Absent when nothing needs saying."""

    OPERATOR = "operator"
    """Somebody asked for it."""
    FAILURES = "failures"
    """More stacks failed than the failure budget allows."""
    CANARY_FAILED = "canary_failed"
    """A canary failed, was not healthy, or did not answer the prompt."""
    NO_CANARY = "no_canary"
    """No canary could be moved, or none that was is left to be judged, so nothing is known of the release."""
    INCONCLUSIVE = "inconclusive"
    """What was moved can be called neither healthy nor failed: it cannot be seen, or a neighbour is away."""
    UNAVAILABLE = "unavailable"
    """As many stacks are without a working runtime as may be, so nobody else can be moved."""


class MemberState(StrEnum):
    WAITING = "waiting"
    """It has not been ordered, or gave its place to another because its agent is at work."""
    ORDERED = "ordered"
    MIGRATED = "migrated"
    SKIPPED = "skipped"
    """Its agent was at work until the deadline; it was left as it is."""
    HELD = "held"
    """The same, and it waits for an operator."""
    FAILED = "failed"
    """It could not be moved and runs what it ran before, or it was not healthy afterwards."""
    LEFT_OUT = "left_out"
    """It is none of the rollout's business any more; the reason says why."""
    TAKEN_BACK = "taken_back"
    """It is as it was before the rollout."""


MEMBER_MOVES: Final[Mapping[MemberState, frozenset[MemberState]]] = {
    MemberState.WAITING: frozenset({MemberState.ORDERED, MemberState.MIGRATED, MemberState.LEFT_OUT}),
    MemberState.ORDERED: frozenset(set(MemberState) - {MemberState.ORDERED}),
    MemberState.MIGRATED: frozenset(
        {MemberState.FAILED, MemberState.ORDERED, MemberState.TAKEN_BACK, MemberState.LEFT_OUT}
    ),
    MemberState.SKIPPED: frozenset({MemberState.ORDERED, MemberState.TAKEN_BACK, MemberState.LEFT_OUT}),
    MemberState.HELD: frozenset({MemberState.ORDERED, MemberState.TAKEN_BACK, MemberState.LEFT_OUT}),
    MemberState.FAILED: frozenset({MemberState.ORDERED, MemberState.TAKEN_BACK, MemberState.LEFT_OUT}),
    MemberState.LEFT_OUT: frozenset({MemberState.ORDERED, MemberState.TAKEN_BACK}),
    MemberState.TAKEN_BACK: frozenset({MemberState.ORDERED, MemberState.LEFT_OUT}),
}
"""
From each state of a member, where it may go. Who has been moved, or was to be, is ordered once more to go back; so is who
was taken back and came to the release again before all are, unless a pin of its group keeps it there.
"""


class MemberReason(StrEnum):
    """Why a member is in its state, or a stack was left out of a plan."""

    PINNED = "pinned"
    """It is pinned to another release."""
    HELD = "held"
    """An operator holds it."""
    DELETED = "deleted"
    STOPPED = "stopped"
    """It was stopped meanwhile, and starts on what is wanted then."""
    NOT_RUNNING = "not_running"
    """Nothing of it runs, so it only starts on what is wanted now."""
    RECREATED = "recreated"
    """It was recreated meanwhile."""
    MOVED = "moved"
    """Somebody else wanted it to be something else meanwhile, or it is there already."""
    ORDERED_BY_ANOTHER = "ordered_by_another"
    """It is being migrated by another order."""
    CHANGED = "changed"
    """It changed after the plan was made."""
    CONDITION = "condition"
    """A standing condition holds back what would be done to it."""
    AT_WORK = "at_work"
    """Its agent is at work."""
    UNHEALTHY = "unhealthy"
    """It was moved, and is not healthy."""
    NO_ANSWER = "no_answer"
    """It was moved, and did not answer the prompt of the gate."""
    UNSEEN = "unseen"
    """A neighbour was away, so nothing can be said of it."""
    ROLLOUT_ENDED = "rollout_ended"
    """The rollout was aborted or taken back before its turn came."""
    CAME_LATER = "came_later"
    """It was not in the rollout; it came to the release while that was the fleet's target, and is taken back with it."""


class PromptVerdict(StrEnum):
    ANSWERED = "answered"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It could not be asked; it is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """
    One stack in a rollout. *wave* 0 is that of the canaries.

    *generation* is the stack's when it was made a member, or of the rollout's own last change of it. *release_before* is
    what it was wanted to be before. *orders* is the number of the last order that it was given, 0 before the first. A stack
    of that user that was made at another time than *stack_created_at* is another one.
    """

    rollout_id: RolloutId
    user_id: UserId
    stack_created_at: datetime
    wave: int
    state: MemberState = MemberState.WAITING
    migration_class: MigrationClass | None = None
    release_before: ReleaseId | None = None
    generation: int
    orders: int = 0
    goes_back: bool = False
    """Whether its last order is the one back."""
    first_ordered_at: datetime | None = None
    ordered_at: datetime | None = None
    prompt: PromptVerdict | None = None
    reason: str | None = None
    """A `MemberReason`, or the stack's own reason where that says it."""
    message: str = ""
    changed_at: datetime

    def moved_to(self, state: MemberState, **changes: Any) -> Self:
        """Return it in *state* with *changes*, or raise `IllegalTransition`: the one way in which a member moves."""
        check_transition(f"{self.user_id} in {self.rollout_id}", "state", MEMBER_MOVES, self.state, state)
        return replace(self, state=state, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """
    One rollout. It is active, and the only one that is, until *finished_at*.

    *wave* is the one that is being moved, of *waves* after the canaries, which are wave 0. After the last one come, as one
    more, those whose agents were at work when it was their turn. *settled_at* is when the last stack of the wave was seen to
    its end: from then on it soaks. *version* counts changes; whoever saves names the one it read.
    """

    id: RolloutId
    specification: RolloutSpecification
    state: RolloutState = RolloutState.RUNNING
    entered_at: datetime
    """When it came to be in that state."""
    target_before: ReleaseId | None = None
    """The fleet's target before it; what a rollback restores."""
    reason: RolloutReason | None = None
    message: str = ""
    goes_back: bool = False
    """Whether it is on its way back; a pause keeps the direction."""
    turned_for: RolloutReason | None = None
    """Why it turned back, in a word and in prose: what it ends with, also when it was paused on that way."""
    turned_because: str = ""
    rollback_data: DataPolicy = DataPolicy.KEEP
    """What becomes on that way of what was written since OpenCode's data was migrated."""
    promoted_at: datetime | None = None
    """When its release became the fleet's target; None before that, and after it was taken back."""
    wave: int = 0
    waves: int = 0
    settled_at: datetime | None = None
    forgiven: int = 0
    """How many failures an operator has let pass by resuming."""
    counts: Mapping[MemberState, int] = field(default_factory=dict)
    """Its members by state, as of the last save."""
    created_by: str
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    version: int = 0

    @property
    def release(self) -> ReleaseId | None:
        return self.specification.release

    @property
    def is_active(self) -> bool:
        return self.finished_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveCount:
    """How many members of one wave are in each state; states in which none is are left out."""

    wave: int
    counts: Mapping[MemberState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """A rollout as it is shown: wave by wave, in their order."""

    rollout: Rollout
    waves: Sequence[WaveCount]


class BusyState(StrEnum):
    """Whether an agent was at work in a runtime when that was last seen. What cannot be seen counts as busy."""

    BUSY = "busy"
    IDLE = "idle"
    UNKNOWN = "unknown"


class Placement(StrEnum):
    """Whether Nomad could place the job that is to follow, by its own plan."""

    POSSIBLE = "possible"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """It was not asked, or could not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStack:
    """
    What a rollout would do with one stack, and why. With *left_out*, nothing.

    *generation* and *revision* are what the plan is bound to: who has another by the time it is applied is left out.
    """

    user_id: UserId
    generation: int
    revision: str | None
    """Of what runs; None when nothing does."""
    release: ReleaseId | None
    """What runs; None when nothing does."""
    why: Sequence[Staleness] = ()
    migration_class: MigrationClass | None = None
    """None when it only starts on what is wanted, or is left out."""
    busy: BusyState = BusyState.UNKNOWN
    placement: Placement = Placement.UNKNOWN
    wave: int | None = None
    """In which wave it would be moved, 0 being that of the canaries; None when it is left out."""
    left_out: MemberReason | None = None
    message: str = ""
    """Nomad's account where it cannot place the job, or why the stack is left out, in prose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """What a rollout would do, for every stack that its selector names. Bound to what there was at *created_at*."""

    id: PlanId
    specification: RolloutSpecification
    target_before: ReleaseId | None
    """The fleet's target when it was made."""
    waves: int
    stacks: Sequence[PlannedStack]
    created_by: str
    created_at: datetime
    lapses_at: datetime

    @property
    def to_move(self) -> Sequence[PlannedStack]:
        return [each for each in self.stacks if each.left_out is None]

    @property
    def left_out(self) -> Sequence[PlannedStack]:
        return [each for each in self.stacks if each.left_out is not None]

    @property
    def changes_target(self) -> bool:
        """Whether the fleet's target would be another."""
        return self.specification.release not in {None, self.target_before}

    @property
    def has_changes(self) -> bool:
        return bool(self.to_move) or self.changes_target
