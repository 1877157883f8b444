"""What a turn of a rollout is made of: what is to be done to stacks, and what is so now."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from opencode_lifecycle.lifecycle.rollouts.pace import Case, Sights
from opencode_lifecycle.lifecycle.rollouts.standing import observed
from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.rollout import (
    Member,
    MemberReason,
    MemberState,
    Rollout,
    RolloutReason,
    RolloutState,
    check_rollout_move,
)
from opencode_lifecycle.model.stack import Stack

_MOVED: Final = frozenset(
    {MemberState.MIGRATED, MemberState.SKIPPED, MemberState.HELD, MemberState.FAILED, MemberState.TAKEN_BACK}
)
_ENDS: Final = frozenset({RolloutState.SUCCEEDED, RolloutState.ROLLED_BACK, RolloutState.FAILED})


@dataclass(frozen=True, slots=True)
class Order:
    """Order the stack to be migrated."""

    member: Member


@dataclass(frozen=True, slots=True)
class OrderBack:
    """Order the stack back."""

    member: Member


@dataclass(frozen=True, slots=True)
class Release:
    """Take the order back from a stack whose migration has not begun."""

    member: Member


@dataclass(frozen=True, slots=True)
class Prepare:
    """Have a stack of which nothing runs start on what the rollout moves to."""

    member: Member


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Have a stack want what it wanted before, where that disturbs nothing that runs."""

    member: Member


@dataclass(frozen=True, slots=True)
class Ask:
    """Put the prompt of the gate to the runtime."""

    member: Member


@dataclass(frozen=True, slots=True)
class UseRelease:
    """Make it the fleet's target; with *back*, it was that before the rollout."""

    release: ReleaseId
    back: bool


Action = Order | OrderBack | Release | Prepare | TakeBack | Ask | UseRelease


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """
    What is so now, and what is to be done. *members* are those that changed.

    Both are to be saved whether or not the actions succeed; each is looked at again in the next turn. *again_at* is when to
    look again without any news.
    """

    rollout: Rollout
    members: Sequence[Member]
    actions: Sequence[Action]
    again_at: datetime | None


def entered(
    rollout: Rollout,
    state: RolloutState,
    *,
    now: datetime,
    reason: RolloutReason | None = None,
    message: str = "",
) -> Rollout:
    """
    Return *rollout* in *state*, or raise `IllegalTransition`: the one way in which a rollout changes its state.

    One that is aborted has ended only when nothing of it is in flight any more; one that has ended and goes back begins
    anew. Failures on the way there say nothing of the way back.

    Why it turned back is what it goes back for, also when that was paused and goes on.
    """
    check_rollout_move(rollout.id, rollout.state, state)
    turns = state is RolloutState.ROLLING_BACK and not rollout.goes_back
    if turns:
        rollout = replace(rollout, turned_for=reason, turned_because=message)
    elif state is RolloutState.ROLLING_BACK and reason is None:
        reason, message = rollout.turned_for, rollout.turned_because
    return replace(
        rollout,
        state=state,
        entered_at=now,
        reason=reason,
        message=message,
        goes_back=rollout.goes_back or state is RolloutState.ROLLING_BACK,
        forgiven=0 if turns else rollout.forgiven,
        settled_at=None if turns else rollout.settled_at,
        finished_at=now if state in _ENDS else None,
    )


class Quiet:
    """
    Of whom the last turn found nothing new. That holds until their rows, or the rollout, are others.

    Of a large fleet few are moved at a time, and to judge all of it each time would take longer than all the rest.
    """

    def __init__(self) -> None:
        self._ground: object = None
        self._found: dict[UserId, tuple[Member, Stack | None]] = {}

    def stand_on(self, rollout: Rollout, sights: Sights) -> None:
        """Forget everybody unless the rollout, its counts apart, and what groups are pinned to are as before."""
        ground = (replace(rollout, counts={}, updated_at=rollout.created_at, version=0), dict(sights.pins))
        if ground != self._ground:
            self._ground = ground
            self._found.clear()

    def has(self, member: Member, stack: Stack | None) -> bool:
        found = self._found.get(member.user_id)
        return found is not None and found[0] is member and found[1] is stack

    def add(self, member: Member, stack: Stack | None) -> None:
        self._found[member.user_id] = member, stack


def _stays(rollout: Rollout, member: Member, stack: Stack | None, sights: Sights) -> bool:
    """
    Whether a member that was moved stays where it is, though the rollout goes back.

    1. Stacks are moved to a release. An operator pins their group to it.
    2. The rollout is taken back. Brought back with it, they would come to the release again at their next start.
    """
    was_moved = member.state in _MOVED and not member.goes_back
    return rollout.goes_back and was_moved and sights.is_kept_by_its_group(rollout, stack)


class Making:
    """A turn in the making: what is known, and what comes of it so far."""

    def __init__(
        self, rollout: Rollout, members: Sequence[Member], sights: Sights, now: datetime, quiet: Quiet
    ) -> None:
        self.rollout, self.sights, self.now = rollout, sights, now
        self.cases: list[Case] = []
        self.actions: list[Action] = []
        self._changed: dict[UserId, Member] = {}
        self._again_at: datetime | None = None
        quiet.stand_on(rollout, sights)
        for member in members:
            stack = sights.stack(member.user_id)
            if quiet.has(member, stack):
                self.cases.append(Case(member, stack))
                continue
            seen = observed(rollout, member, stack, now)
            if seen.state is MemberState.WAITING and sights.is_pinned_elsewhere(rollout, stack):
                seen = seen.moved_to(MemberState.LEFT_OUT, reason=MemberReason.PINNED.value, changed_at=now)
            elif _stays(rollout, seen, stack, sights):
                seen = seen.moved_to(
                    MemberState.LEFT_OUT, reason=MemberReason.PINNED.value, message="", changed_at=now
                )
            if seen is not member:
                self._changed[member.user_id] = seen
            else:
                quiet.add(member, stack)
            self.cases.append(Case(seen, stack))

    def with_state(self, *states: MemberState) -> list[Case]:
        return [case for case in self.cases if case.member.state in states]

    def change(self, member: Member) -> None:
        self._changed[member.user_id] = member

    def look_again(self, at: datetime | None) -> None:
        if at is not None and at > self.now and (self._again_at is None or at < self._again_at):
            self._again_at = at

    def enter(self, state: RolloutState, reason: RolloutReason | None = None, message: str = "") -> None:
        self.rollout = entered(self.rollout, state, now=self.now, reason=reason, message=message)

    def turn(self) -> Turn:
        return Turn(
            rollout=self.rollout,
            members=tuple(self._changed.values()),
            actions=tuple(self.actions),
            again_at=self._again_at,
        )
