"""Rollouts in memory, enough to hold the HTTP layer to its contract: nothing is ever moved by them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from api.in_memory import NOW, RELEASE
from opencode_lifecycle.model.errors import (
    InvalidBody,
    NothingToDo,
    PlanLapsed,
    PlanNotFound,
    RollbackImpossible,
    RolloutActive,
    RolloutFinished,
    RolloutNotFound,
)
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import (
    PlanId,
    ReleaseId,
    RolloutId,
    UserId,
    new_plan_id,
    new_rollout_id,
)
from opencode_lifecycle.model.migration import DataPolicy, MigrationClass
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.rollout import (
    ROLLOUT_MOVES,
    BusyState,
    Member,
    MemberReason,
    MemberState,
    Placement,
    PlannedStack,
    Rollout,
    RolloutPlan,
    RolloutReason,
    RolloutState,
    RolloutView,
    WaveCount,
)
from opencode_lifecycle.model.rollout_specification import RolloutSpecification, validate
from opencode_lifecycle.model.staleness import Severity, Staleness
from opencode_lifecycle.model.view import Page

NEXT_RELEASE = ReleaseId("rel_01JABCDEFGHJKMNPQRSTVWXYZ1")
PRUNED_RELEASE = ReleaseId("rel_01JABCDEFGHJKMNPQRSTVWXYZ9")


def a_planned_stack(user_id: str, **changes: object) -> PlannedStack:
    """Return a stack that would be restarted for its image in the first wave, except for *changes*."""
    image = Staleness(facet=Facet.IMAGE, have="v1", want="v2", severity=Severity.WARNING, restart=True)
    values = {
        "user_id": UserId(user_id),
        "generation": 3,
        "revision": "feedfacefeedface",
        "release": RELEASE,
        "why": (image,),
        "migration_class": MigrationClass.RESTART,
        "busy": BusyState.IDLE,
        "placement": Placement.POSSIBLE,
        "wave": 1,
    }
    return PlannedStack(**{**values, **changes})


def left_out(user_id: str, reason: MemberReason) -> PlannedStack:
    return a_planned_stack(user_id, migration_class=None, wave=None, left_out=reason, why=())


def a_member(rollout_id: RolloutId, user_id: str, **changes: object) -> Member:
    values = {
        "rollout_id": rollout_id,
        "user_id": UserId(user_id),
        "stack_created_at": NOW,
        "wave": 1,
        "migration_class": MigrationClass.RESTART,
        "release_before": RELEASE,
        "generation": 3,
        "changed_at": NOW,
    }
    return Member(**{**values, **changes})


@dataclass
class MemoryRollouts:
    """Keeps what it is told. `planned` is what every plan finds; `calls` counts what reached it."""

    target: ReleaseId = RELEASE
    releases: set[ReleaseId] = field(default_factory=lambda: {RELEASE, NEXT_RELEASE})
    planned: Sequence[PlannedStack] = field(default_factory=lambda: [a_planned_stack("ada")])
    rollouts: dict[RolloutId, Rollout] = field(default_factory=dict)
    plans: dict[PlanId, RolloutPlan] = field(default_factory=dict)
    members_of: dict[RolloutId, list[Member]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    lapsed: bool = False

    def given(self, **changes: object) -> Rollout:
        """Have a rollout that runs, except for *changes*."""
        values = {
            "id": new_rollout_id(),
            "specification": RolloutSpecification(),
            "entered_at": NOW,
            "target_before": RELEASE,
            "created_by": "operator",
            "created_at": NOW,
            "updated_at": NOW,
        }
        rollout = Rollout(**{**values, **changes})
        self.rollouts[rollout.id] = rollout
        self.members_of.setdefault(rollout.id, [])
        return rollout

    def given_member(self, rollout: Rollout, user_id: str, **changes: object) -> Member:
        member = a_member(rollout.id, user_id, **changes)
        self.members_of[rollout.id].append(member)
        return member

    async def plan(self, specification: RolloutSpecification, *, by: Principal) -> RolloutPlan:
        self.calls.append("plan")
        self._judge(specification)
        plan = RolloutPlan(
            id=new_plan_id(),
            specification=specification,
            target_before=self.target,
            waves=1,
            stacks=self.planned,
            created_by=by.name,
            created_at=NOW,
            lapses_at=NOW + timedelta(hours=1),
        )
        self.plans[plan.id] = plan
        return plan

    async def find_plan(self, plan_id: PlanId) -> RolloutPlan:
        if plan_id not in self.plans:
            raise PlanNotFound(plan=plan_id)
        return self.plans[plan_id]

    async def start(self, specification: RolloutSpecification, *, by: Principal) -> Rollout:
        self.calls.append("start")
        self._judge(specification)
        return self._begin(specification, by)

    async def apply(self, plan_id: PlanId, *, by: Principal) -> Rollout:
        self.calls.append("apply")
        if plan_id not in self.plans:
            raise PlanNotFound(plan_id=plan_id)
        if self.lapsed:
            raise PlanLapsed(plan_id=plan_id)
        return self._begin(self.plans[plan_id].specification, by)

    async def find(self, *, after: RolloutId | None, limit: int) -> Page[Rollout]:
        ids = sorted((each for each in self.rollouts if after is None or each < after), reverse=True)
        found = [self.rollouts[each] for each in ids]
        return Page(items=found[:limit], next_cursor=found[limit - 1].id if len(found) > limit else None)

    async def get(self, rollout_id: RolloutId) -> RolloutView:
        rollout = self._rollout(rollout_id)
        waves = sorted({member.wave for member in self.members_of[rollout_id]})
        counts = [
            WaveCount(
                wave=wave,
                counts=Counter(each.state for each in self.members_of[rollout_id] if each.wave == wave),
            )
            for wave in waves
        ]
        return RolloutView(rollout=rollout, waves=counts)

    async def members(
        self,
        rollout_id: RolloutId,
        *,
        state: MemberState | None,
        user: UserId | None,
        after: UserId | None,
        limit: int,
    ) -> Page[Member]:
        self._rollout(rollout_id)
        found = [
            member
            for member in sorted(self.members_of[rollout_id], key=lambda each: each.user_id)
            if state in {None, member.state}
            and user in {None, member.user_id}
            and (after is None or member.user_id > after)
        ]
        return Page(items=found[:limit], next_cursor=found[limit - 1].user_id if len(found) > limit else None)

    async def pause(self, rollout_id: RolloutId, *, by: Principal) -> Rollout:
        return self._move(rollout_id, "pause", RolloutState.PAUSED)

    async def resume(self, rollout_id: RolloutId, *, by: Principal) -> Rollout:
        return self._move(rollout_id, "resume", RolloutState.RUNNING)

    async def abort(self, rollout_id: RolloutId, *, by: Principal) -> Rollout:
        return self._move(rollout_id, "abort", RolloutState.ABORTED)

    async def rollback(self, rollout_id: RolloutId, *, by: Principal, data: DataPolicy) -> Rollout:
        self.rolled_back_with = data
        before = self._rollout(rollout_id).target_before
        if before not in self.releases:
            raise RollbackImpossible(f"The release {before} is not kept any more.", release=before)
        return self._move(rollout_id, "rollback", RolloutState.ROLLING_BACK)

    def _judge(self, specification: RolloutSpecification) -> None:
        faults = validate(specification, is_release=self.releases.__contains__)
        if faults:
            raise InvalidBody(faults)

    def _begin(self, specification: RolloutSpecification, by: Principal) -> Rollout:
        for rollout in self.rollouts.values():
            if rollout.is_active:
                raise RolloutActive(rollout_id=rollout.id)
        moves = any(each.left_out is None for each in self.planned)
        if not moves and specification.release in {None, self.target}:
            raise NothingToDo
        return self.given(specification=specification, created_by=by.name)

    def _rollout(self, rollout_id: RolloutId) -> Rollout:
        if rollout_id not in self.rollouts:
            raise RolloutNotFound(rollout_id=rollout_id)
        return self.rollouts[rollout_id]

    def _move(self, rollout_id: RolloutId, call: str, to: RolloutState) -> Rollout:
        self.calls.append(call)
        rollout = self._rollout(rollout_id)
        if to is not rollout.state and to not in ROLLOUT_MOVES[rollout.state]:
            raise RolloutFinished(f"The rollout is {rollout.state}.", state=rollout.state)
        reason = None if to is RolloutState.RUNNING else RolloutReason.OPERATOR
        self.rollouts[rollout_id] = replace(rollout, state=to, reason=reason)
        return self.rollouts[rollout_id]
