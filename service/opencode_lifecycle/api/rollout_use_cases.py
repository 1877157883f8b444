"""What the calls on rollouts need of the service behind them. The lifecycle layer provides it; tests bring their own."""

from typing import Protocol

from opencode_lifecycle.model.identifiers import PlanId, RolloutId, UserId
from opencode_lifecycle.model.migration import DataPolicy
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.rollout import Member, MemberState, Rollout, RolloutPlan, RolloutView
from opencode_lifecycle.model.rollout_specification import RolloutSpecification
from opencode_lifecycle.model.view import Page


class Rollouts(Protocol):
    """
    Every refusal and failure is an error of `model.errors`.

    A specification is judged here (`model.rollout_specification.validate`): `InvalidBody` with all of its faults.
    """

    async def plan(self, specification: RolloutSpecification, *, by: Principal) -> RolloutPlan:
        """Work out what a rollout would do, and keep it under an id for `apply`. Changes nothing else."""
        ...

    async def find_plan(self, plan_id: PlanId) -> RolloutPlan:
        """Return what was planned, as it was told then; `PlanNotFound` for what was never planned or is kept no longer."""
        ...

    async def start(self, specification: RolloutSpecification, *, by: Principal) -> Rollout:
        """Begin a rollout. `RolloutActive` while another one is, `NothingToDo` when it would move and change nothing."""
        ...

    async def apply(self, plan_id: PlanId, *, by: Principal) -> Rollout:
        """
        Begin the rollout that was planned, without whoever changed since. Raises as `start` does.

        `PlanNotFound` for no such plan, `PlanLapsed` for one that is too old.
        """
        ...

    async def find(self, *, after: RolloutId | None, limit: int) -> Page[Rollout]:
        """Return rollouts, the newest first; with *after* those that are older than it."""
        ...

    async def get(self, rollout_id: RolloutId) -> RolloutView:
        """Return how it stands, wave by wave, or raise `RolloutNotFound`."""
        ...

    async def members(
        self,
        rollout_id: RolloutId,
        *,
        state: MemberState | None,
        user: UserId | None,
        after: UserId | None,
        limit: int,
    ) -> Page[Member]:
        """Return its members in the order of their user ids, only that of *user* when it is named, or raise `RolloutNotFound`."""
        ...

    async def pause(self, rollout_id: RolloutId, *, by: Principal) -> Rollout:
        """Move nobody else until `resume`. Pausing twice is pausing once; `RolloutFinished` where there is nothing to pause."""
        ...

    async def resume(self, rollout_id: RolloutId, *, by: Principal) -> Rollout:
        """Go on, letting pass what made it pause. Raises as `pause` does."""
        ...

    async def abort(self, rollout_id: RolloutId, *, by: Principal) -> Rollout:
        """Move nobody else, for good. Raises as `pause` does."""
        ...

    async def rollback(self, rollout_id: RolloutId, *, by: Principal, data: DataPolicy) -> Rollout:
        """
        Bring back whoever was moved, and the fleet's target to what it was. Raises as `pause` does.

        *data* says what becomes of what was written since OpenCode's data was migrated.

        `RollbackImpossible` when what it would go back to is not there any more.
        """
        ...
