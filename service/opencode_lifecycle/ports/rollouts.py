"""What is remembered of rollouts: how far each is, what became of each of its stacks, and plans that may be applied."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from opencode_lifecycle.model.identifiers import PlanId, RolloutId, UserId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.rollout import Member, MemberState, Rollout, RolloutPlan, WaveCount
from opencode_lifecycle.model.view import Page


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRollout:
    """A rollout, and the token under which alone it may be driven until the claim lapses."""

    rollout: Rollout
    token: str
    lapses_at: datetime


class RolloutStore(Protocol):
    async def create_rollout(
        self, rollout: Rollout, members: Sequence[Member], event: Event | None = None
    ) -> None:
        """Insert it whole, in one transaction, or raise `RolloutActive` while another is active."""
        ...

    async def get_rollout(self, rollout_id: RolloutId) -> Rollout | None: ...

    async def active_rollout(self) -> Rollout | None: ...

    async def find_rollouts(self, *, after: RolloutId | None, limit: int) -> Page[Rollout]:
        """Return one page, newest first; *after* and `next_cursor` are ids."""
        ...

    async def rollout_members(self, rollout_id: RolloutId) -> Sequence[Member]:
        """Return all members, in the order of user ids."""
        ...

    async def find_members(
        self,
        rollout_id: RolloutId,
        *,
        state: MemberState | None,
        user: UserId | None = None,
        after: UserId | None,
        limit: int,
    ) -> Page[Member]:
        """Return one page in the order of user ids: those in *state*, and only that of *user*, where these are named."""
        ...

    async def count_members(self, rollout_id: RolloutId) -> Sequence[WaveCount]:
        """Count members by wave and state, in the order of waves."""
        ...

    async def change_rollout(
        self,
        rollout_id: RolloutId,
        change: Callable[[Rollout], Rollout],
        *,
        members: Sequence[Member] = (),
        event: Event | None = None,
    ) -> Rollout:
        """
        Put what *change* makes of the row in its place, in one transaction, whoever drives it, and return it.

        *members* are added, each in the place of an earlier one of that user. What *change* leaves as it is is not written, nor is *event*. What it raises is passed on.
        Raises `RolloutNotFound`, and `RolloutActive` when it would be active while another is.
        """
        ...

    async def claim_rollout(self, *, now: datetime, lapses_at: datetime) -> ClaimedRollout | None:
        """Take exclusive charge of the active rollout; None when there is none, or another's claim has not lapsed at *now*."""
        ...

    async def save_rollout(
        self,
        claimed: ClaimedRollout,
        rollout: Rollout,
        members: Sequence[Member],
        *,
        lapses_at: datetime,
        event: Event | None = None,
        added: Sequence[Member] = (),
    ) -> ClaimedRollout:
        """
        Save what came of a turn and hold on to the claim until *lapses_at*.

        *members* are there already; those *added* are not, or take the place of an earlier one of that user.

        Writes nothing and raises `ClaimLost` when the claim is another's, or somebody has changed the rollout since it was
        read: what was concluded from the one before may be wrong then.
        """
        ...

    async def release_rollout(self, claimed: ClaimedRollout) -> None:
        """End the claim. One that is lost already is no error."""
        ...

    async def put_plan(self, plan: RolloutPlan) -> None: ...

    async def get_plan(self, plan_id: PlanId) -> RolloutPlan | None: ...

    async def prune_plans(self, now: datetime) -> int:
        """Forget plans that have lapsed at *now*, and return how many there were."""
        ...
