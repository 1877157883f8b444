"""Rollouts: what one would do, how far it is, and what became of each stack in it."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Self

from pydantic import ConfigDict, Field

from opencode_lifecycle.api.schemas.rollout_specification import SpecificationShape
from opencode_lifecycle.api.schemas.shapes import ListShape, Mirror, Outgoing
from opencode_lifecycle.api.schemas.stacks import StalenessShape
from opencode_lifecycle.model.migration import DataPolicy, MigrationClass
from opencode_lifecycle.model.rollout import (
    BusyState,
    Member,
    MemberReason,
    MemberState,
    Placement,
    PlannedStack,
    PromptVerdict,
    Rollout,
    RolloutPlan,
    RolloutReason,
    RolloutState,
    RolloutView,
)

_SHOWN_AT_ONCE: Final = 500
_INTERRUPTS: Final = frozenset({MigrationClass.RELOAD, MigrationClass.RESTART})


class PlannedStackShape(Outgoing):
    """
    What would be done with one stack, and why; with `left_out`, nothing.

    `wave` 0 is that of the canaries. `class` null is a stack that only starts on what is wanted. `busy` and `placement` are
    `unknown` where nothing could be seen; unknown counts as busy.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    user_id: str
    generation: int
    revision: str | None
    release: str | None
    why: Sequence[StalenessShape]
    migration_class: MigrationClass | None = Field(alias="class")
    busy: BusyState
    placement: Placement
    wave: int | None
    left_out: MemberReason | None
    message: str

    @classmethod
    def from_domain(cls, stack: PlannedStack) -> Self:
        return cls(
            user_id=stack.user_id,
            generation=stack.generation,
            revision=stack.revision,
            release=stack.release,
            why=[StalenessShape.from_domain(reason) for reason in stack.why],
            migration_class=stack.migration_class,
            busy=stack.busy,
            placement=stack.placement,
            wave=stack.wave,
            left_out=stack.left_out,
            message=stack.message,
        )


class PlanTotalsShape(Outgoing):
    """
    Of `stacks` that are selected, `to_move` are moved and `left_out` are not; the others count those to be moved.

    `busy` are those that are interrupted and not seen to be idle: they are waited for.
    """

    stacks: int
    to_move: int
    left_out: int
    live: int
    reload: int
    restart: int
    busy: int
    not_placeable: int

    @classmethod
    def from_domain(cls, plan: RolloutPlan) -> Self:
        moved = plan.to_move
        classes = [stack.migration_class for stack in moved]
        return cls(
            stacks=len(plan.stacks),
            to_move=len(moved),
            left_out=len(plan.stacks) - len(moved),
            live=classes.count(MigrationClass.LIVE),
            reload=classes.count(MigrationClass.RELOAD),
            restart=classes.count(MigrationClass.RESTART),
            busy=sum(
                stack.busy is not BusyState.IDLE and stack.migration_class in _INTERRUPTS for stack in moved
            ),
            not_placeable=sum(stack.placement is Placement.REFUSED for stack in moved),
        )


class RolloutPlanShape(Outgoing):
    """
    What a rollout would do. Applied until `lapses_at`, it leaves out whoever changed since it was made.

    `target_before` is the release of the fleet now, `waves` how many come after the canaries.
    """

    id: str
    specification: SpecificationShape
    target_before: str | None
    changes_target: bool
    has_changes: bool
    waves: int
    totals: PlanTotalsShape
    stacks: Sequence[PlannedStackShape]
    created_by: str
    created_at: datetime
    lapses_at: datetime

    @classmethod
    async def from_domain(cls, plan: RolloutPlan) -> Self:
        """Show some stacks at a time, so that no other request waits until all of a fleet are shown."""
        stacks: list[PlannedStackShape] = []
        for place in range(0, len(plan.stacks), _SHOWN_AT_ONCE):
            some = plan.stacks[place : place + _SHOWN_AT_ONCE]
            stacks += [PlannedStackShape.from_domain(stack) for stack in some]
            await asyncio.sleep(0)
        return cls(
            id=plan.id,
            specification=SpecificationShape.from_domain(plan.specification),
            target_before=plan.target_before,
            changes_target=plan.changes_target,
            has_changes=plan.has_changes,
            waves=plan.waves,
            totals=PlanTotalsShape.from_domain(plan),
            stacks=stacks,
            created_by=plan.created_by,
            created_at=plan.created_at,
            lapses_at=plan.lapses_at,
        )


class RolloutShape(Outgoing):
    """
    How far a rollout is. `wave` is the one that is being moved, of `waves` after the canaries, which are wave 0; `counts`
    are its members by state. `goes_back` says that it takes back what it moved, `rollback_data` what becomes then of what
    was written since OpenCode's data was migrated, `promoted_at` since when its release is
    the fleet's target, `soaks_until` that its wave is done and is looked at until then.
    """

    id: str
    state: RolloutState
    reason: RolloutReason | None
    message: str
    release: str | None
    target_before: str | None
    promoted_at: datetime | None
    goes_back: bool
    rollback_data: DataPolicy
    wave: int
    waves: int
    soaks_until: datetime | None
    counts: Mapping[MemberState, int]
    specification: SpecificationShape
    created_by: str
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    @classmethod
    def from_domain(cls, rollout: Rollout) -> Self:
        return cls(**_shown(rollout))


class WaveShape(Mirror):
    wave: int
    counts: Mapping[MemberState, int]


class MemberShape(Outgoing):
    """
    One stack in a rollout. `deadline` is until when its agent is waited for, counted from the first order on.

    `reason` is why it is in its state: that of the rollout, or the stack's own.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    user_id: str
    wave: int
    state: MemberState
    reason: str | None
    message: str
    migration_class: MigrationClass | None = Field(alias="class")
    release_before: str | None
    goes_back: bool
    ordered_at: datetime | None
    deadline: datetime | None
    prompt: PromptVerdict | None
    changed_at: datetime

    @classmethod
    def from_domain(cls, member: Member, waits: timedelta) -> Self:
        """Show *member* of a rollout whose agents are waited for so long."""
        first = member.first_ordered_at
        return cls(
            user_id=member.user_id,
            wave=member.wave,
            state=member.state,
            reason=member.reason,
            message=member.message,
            migration_class=member.migration_class,
            release_before=member.release_before,
            goes_back=member.goes_back,
            ordered_at=member.ordered_at,
            deadline=first + waits if first is not None else None,
            prompt=member.prompt,
            changed_at=member.changed_at,
        )


class RolloutDetailShape(RolloutShape):
    """A rollout with its members wave by wave in numbers, and one page of them by name."""

    wave_counts: Sequence[WaveShape]
    members: ListShape[MemberShape]

    @classmethod
    def of(cls, view: RolloutView, members: ListShape[MemberShape]) -> Self:
        return cls(
            **_shown(view.rollout),
            wave_counts=[WaveShape.from_domain(each) for each in view.waves],
            members=members,
        )


def _shown(rollout: Rollout) -> Mapping[str, Any]:
    settled_at = rollout.settled_at
    is_moving = rollout.state in {RolloutState.RUNNING, RolloutState.ROLLING_BACK}
    return {
        "id": rollout.id,
        "state": rollout.state,
        "reason": rollout.reason,
        "message": rollout.message,
        "release": rollout.release,
        "target_before": rollout.target_before,
        "promoted_at": rollout.promoted_at,
        "goes_back": rollout.goes_back,
        "rollback_data": rollout.rollback_data,
        "wave": rollout.wave,
        "waves": rollout.waves,
        "soaks_until": settled_at + rollout.specification.strategy.soak
        if settled_at is not None and is_moving
        else None,
        "counts": {state: count for state, count in rollout.counts.items() if count},
        "specification": SpecificationShape.from_domain(rollout.specification),
        "created_by": rollout.created_by,
        "created_at": rollout.created_at,
        "updated_at": rollout.updated_at,
        "finished_at": rollout.finished_at,
    }
