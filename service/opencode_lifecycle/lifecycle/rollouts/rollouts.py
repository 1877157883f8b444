"""The use cases of rollouts: plan, start, steer and look. What is decided here the driver does."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.reconciling.wanted import Site, wanted_facets
from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.lifecycle.rollouts.gates import keeps_its_data
from opencode_lifecycle.lifecycle.rollouts.latecomers import latecomers
from opencode_lifecycle.lifecycle.rollouts.placing import Place, placed
from opencode_lifecycle.lifecycle.rollouts.planning import (
    PLANNED_AT_ONCE,
    Ground,
    member_of,
    plan_of,
    planned,
    what_changed,
)
from opencode_lifecycle.lifecycle.rollouts.turns import entered
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.errors import (
    InvalidBody,
    LifecycleError,
    NothingToDo,
    PlanLapsed,
    PlanNotFound,
    ReleaseNotFound,
    RollbackImpossible,
    RolloutFinished,
    RolloutNotFound,
)
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.identifiers import (
    PlanId,
    ReleaseId,
    RolloutId,
    UserId,
    new_event_id,
    new_plan_id,
    new_rollout_id,
)
from opencode_lifecycle.model.migration import DataPolicy
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.rollout import (
    ROLLOUT_MOVES,
    Member,
    MemberReason,
    MemberState,
    PlannedStack,
    Rollout,
    RolloutPlan,
    RolloutReason,
    RolloutState,
    RolloutView,
)
from opencode_lifecycle.model.rollout_specification import RolloutSpecification, validate
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.rollouts import RolloutStore

PLANS_KEPT: Final = timedelta(hours=1)


class Rollouts:
    """Everything an operator may ask of rollouts. Writes are seen by the driver at its next action."""

    def __init__(
        self,
        *,
        store: RolloutStore,
        fleet: Fleet,
        releases: Releases,
        pins: Callable[[], Mapping[str, ReleaseId]],
        site: Site,
        now: Clock,
        told: Callable[[], None],
        place: Place | None = None,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._releases = releases
        self._pins = pins
        self._site = site
        self._now = now
        self._told = told
        self._place = place

    # --- looking

    async def is_active(self) -> bool:
        """Return whether a rollout is under way: nobody else may change what the fleet is wanted to be."""
        return await self._store.active_rollout() is not None

    async def get(self, rollout_id: RolloutId) -> RolloutView:
        rollout = await self._existing(rollout_id)
        return RolloutView(rollout=rollout, waves=await self._store.count_members(rollout_id))

    async def find(self, *, after: RolloutId | None, limit: int) -> Page[Rollout]:
        return await self._store.find_rollouts(after=after, limit=limit)

    async def members(
        self,
        rollout_id: RolloutId,
        *,
        state: MemberState | None,
        user: UserId | None = None,
        after: UserId | None,
        limit: int,
    ) -> Page[Member]:
        await self._existing(rollout_id)
        return await self._store.find_members(rollout_id, state=state, user=user, after=after, limit=limit)

    # --- planning

    async def plan(self, specification: RolloutSpecification, *, by: Principal) -> RolloutPlan:
        """Work out what a rollout would do, and keep it for `apply`. Nothing else is changed."""
        plan = await self._plan(specification, by)
        if self._place is not None:
            stacks = await placed(plan.stacks, specification.release, fleet=self._fleet, place=self._place)
            plan = replace(plan, stacks=stacks)
        await self._store.prune_plans(plan.created_at)
        await self._store.put_plan(plan)
        return plan

    async def find_plan(self, plan_id: PlanId) -> RolloutPlan:
        """Return what was planned, or raise `PlanNotFound`."""
        plan = await self._store.get_plan(plan_id)
        if plan is None:
            raise PlanNotFound(plan=plan_id)
        return plan

    async def _plan(self, specification: RolloutSpecification, by: Principal) -> RolloutPlan:
        await self._check(specification)
        target = await self._target()
        now = self._now()
        if specification.release is None:
            # What stacks want may have been made, and wanted, on another replica.
            for wanted in {known.stack.intent.wanted_release for known in self._fleet}:
                await self._releases.get(wanted)
        ground = self._ground(target, now)
        stacks, waves = await planned(self._fleet, specification, ground)
        return RolloutPlan(
            id=new_plan_id(),
            specification=specification,
            target_before=ground.target,
            waves=waves,
            stacks=stacks,
            created_by=by.name,
            created_at=now,
            lapses_at=now + PLANS_KEPT,
        )

    def _ground(self, target: Release | None, now: datetime) -> Ground:
        return Ground(
            target=target.id if target is not None else None,
            pins=self._pins(),
            facets_on=self._facets_on,
            now=now,
        )

    async def _check(self, specification: RolloutSpecification) -> None:
        """Raise `InvalidBody` with everything that is wrong, and have the release in memory."""
        release, is_known = specification.release, True
        if release is not None:
            try:
                await self._releases.find(release)
            except ReleaseNotFound:
                is_known = False
        faults = validate(specification, is_release=lambda _: is_known)
        if faults:
            raise InvalidBody(faults)

    def _facets_on(self, stack: Stack, release_id: ReleaseId | None) -> Facets | None:
        found = self._releases.peek(release_id or stack.intent.wanted_release)
        if found is None:
            return None
        return wanted_facets(stack, found[0], self._site, secret_version=stack.status.secret_version or 0)

    # --- starting

    async def start(self, specification: RolloutSpecification, *, by: Principal) -> Rollout:
        """Begin a rollout. `RolloutActive` while another one is, `NothingToDo` when nothing would change."""
        return await self._begin(await self._plan(specification, by), by, bound=False)

    async def apply(self, plan_id: PlanId, *, by: Principal) -> Rollout:
        """
        Begin the rollout that was planned. Whoever changed since is left out, and named with that reason.

        `PlanNotFound` for no such plan, `PlanLapsed` for one that is too old, or was made for another target of the fleet.
        """
        plan = await self.find_plan(plan_id)
        target = await self._target()
        if plan.lapses_at <= self._now():
            raise PlanLapsed(plan=plan_id)
        if target is not None and target.id != plan.target_before:
            raise PlanLapsed("The fleet's target changed since the plan was made; plan anew.", plan=plan_id)
        await self._check(plan.specification)
        return await self._begin(plan, by, bound=True)

    async def _begin(self, plan: RolloutPlan, by: Principal, *, bound: bool) -> Rollout:
        if not plan.has_changes:
            raise NothingToDo
        now = self._now()
        rollout = Rollout(
            id=new_rollout_id(),
            specification=plan.specification,
            entered_at=now,
            target_before=plan.target_before,
            waves=plan.waves,
            created_by=by.name,
            created_at=now,
            updated_at=now,
        )
        ground = self._ground(await self._target(), now) if bound else None
        members = []
        for number, each in enumerate(plan.stacks):
            if number % PLANNED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if (member := self._member(rollout, each, ground)) is not None:
                members.append(member)
        _check_that_somebody_is_left(plan, members)
        rollout = replace(rollout, counts=dict(Counter(member.state for member in members)))
        await self._store.create_rollout(rollout, members, self._event(rollout, "started", by))
        self._told()
        return rollout

    def _member(self, rollout: Rollout, each: PlannedStack, ground: Ground | None) -> Member | None:
        """Return the member that *each* becomes; with a *ground* to plan on anew, only if that shows it as it was planned."""
        known = self._fleet.get(each.user_id)
        if known is None:
            return None
        stack = known.stack
        if each.left_out is not None:
            member = member_of(rollout, replace(each, wave=0), stack, rollout.created_at)
            return member.moved_to(
                MemberState.LEFT_OUT,
                wave=rollout.waves,
                reason=each.left_out.value,
                message=each.message,
            )
        member = member_of(rollout, each, stack, rollout.created_at)
        if ground is not None:
            by_now = plan_of(known, rollout.specification, ground)
            if change := what_changed(each, stack, by_now):
                changed = MemberReason.CHANGED.value
                return member.moved_to(MemberState.LEFT_OUT, reason=changed, message=change)
        return member

    # --- steering

    async def pause(self, rollout_id: RolloutId, *, by: Principal) -> Rollout:
        return await self._enter(rollout_id, RolloutState.PAUSED, by)

    async def abort(self, rollout_id: RolloutId, *, by: Principal) -> Rollout:
        return await self._enter(rollout_id, RolloutState.ABORTED, by)

    async def resume(self, rollout_id: RolloutId, *, by: Principal) -> Rollout:
        """Go on in the same direction, letting pass the failures that there are."""
        failed = [
            member
            for member in await self._store.rollout_members(rollout_id)
            if member.state is MemberState.FAILED and not keeps_its_data(member)
        ]

        def change(there: Rollout) -> Rollout:
            if there.state in {RolloutState.RUNNING, RolloutState.ROLLING_BACK}:
                return there
            if there.state is not RolloutState.PAUSED:
                raise RolloutFinished(f"The rollout is {there.state}, so there is nothing to resume.")
            back = there.goes_back
            state = RolloutState.ROLLING_BACK if back else RolloutState.RUNNING
            gone_on = entered(there, state, now=self._now())
            forgiven = sum(member.goes_back is back for member in failed)
            return replace(gone_on, forgiven=forgiven, updated_at=self._now())

        return await self._change(rollout_id, change, "resumed", by)

    async def rollback(
        self, rollout_id: RolloutId, *, by: Principal, data: DataPolicy = DataPolicy.KEEP
    ) -> Rollout:
        """
        Bring back whoever was moved, and the fleet's target to what it was before.

        *data* counts for whoever is ordered back from now on. Asked again, it can be changed to restore, and not back.
        """
        rollout = await self._existing(rollout_id)
        if rollout.release is None:
            raise NothingToDo("The rollout moves nobody to another release; there is nothing to take back.")
        await self._check_way_back(rollout)
        latecomers = await self._latecomers(rollout)

        def change(there: Rollout) -> Rollout:
            if there.state is RolloutState.ROLLING_BACK:
                restores = there.rollback_data is DataPolicy.KEEP and data is DataPolicy.RESTORE
                return replace(there, rollback_data=data, updated_at=self._now()) if restores else there
            if RolloutState.ROLLING_BACK not in ROLLOUT_MOVES[there.state]:
                raise RolloutFinished(f"The rollout is {there.state}, so it cannot be rolled back.")
            back = entered(
                there,
                RolloutState.ROLLING_BACK,
                now=self._now(),
                reason=RolloutReason.OPERATOR,
                message=f"by {by.name}",
            )
            return replace(back, rollback_data=data, updated_at=self._now())

        return await self._change(rollout_id, change, "rolling_back", by, members=latecomers)

    async def _check_way_back(self, rollout: Rollout) -> None:
        target, before = await self._target(), rollout.target_before
        if target is not None and target.id not in {rollout.release, before}:
            raise RolloutFinished(
                f"Since then {target.id} became the fleet's target; start a rollout to {before} instead."
            )
        if before is not None:
            try:
                await self._releases.find(before)
            except LifecycleError as error:
                if isinstance(error, ReleaseNotFound):
                    raise RollbackImpossible(release=before) from None
                raise

    async def _latecomers(self, rollout: Rollout) -> Sequence[Member]:
        members = {member.user_id: member for member in await self._store.rollout_members(rollout.id)}
        stacks = (known.stack for known in self._fleet)
        return latecomers(rollout, members, stacks, self._pins(), self._now())

    # --- parts

    async def _enter(self, rollout_id: RolloutId, state: RolloutState, by: Principal) -> Rollout:
        def change(there: Rollout) -> Rollout:
            if there.state is state:
                return there
            if state not in ROLLOUT_MOVES[there.state]:
                raise RolloutFinished(f"The rollout is {there.state}, so it cannot be {state}.")
            now = self._now()
            return replace(
                entered(there, state, now=now, reason=RolloutReason.OPERATOR, message=f"by {by.name}"),
                updated_at=now,
            )

        return await self._change(rollout_id, change, state.value, by)

    async def _change(
        self,
        rollout_id: RolloutId,
        change: Callable[[Rollout], Rollout],
        kind: str,
        by: Principal,
        members: Sequence[Member] = (),
    ) -> Rollout:
        event = self._event(await self._existing(rollout_id), kind, by)
        changed = await self._store.change_rollout(rollout_id, change, members=members, event=event)
        self._told()
        return changed

    async def _target(self) -> Release | None:
        """Return the fleet's target as it is now: another replica may have chosen it a moment ago."""
        await self._releases.refresh()
        return self._releases.current

    async def _existing(self, rollout_id: RolloutId) -> Rollout:
        rollout = await self._store.get_rollout(rollout_id)
        if rollout is None:
            raise RolloutNotFound(rollout=rollout_id)
        return rollout

    def _event(self, rollout: Rollout, kind: str, by: Principal) -> Event:
        return Event(
            id=new_event_id(),
            user_id=UserId(""),
            kind=f"rollout.{kind}",
            actor=by.name,
            at=self._now(),
            generation=0,
            data={"rollout": rollout.id, "release": rollout.release},
        )


def _check_that_somebody_is_left(plan: RolloutPlan, members: Sequence[Member]) -> None:
    """
    Raise `NothingToDo` when nobody of a plan is left to be moved, or nobody who could prove its release.

    1. A plan has one stack that runs, and others that only start on the release.
    2. Somebody changes that one. Applied now, the plan would make a release the fleet's target of which nothing is known.
    """
    left = {member.user_id for member in members if member.state is not MemberState.LEFT_OUT}
    if not left and (plan.to_move or not plan.changes_target):
        raise NothingToDo("Everybody who was to be moved changed since; plan anew.")
    running = {each.user_id for each in plan.to_move if each.migration_class is not None}
    is_proven = plan.changes_target and not plan.specification.strategy.canary.is_zero
    if is_proven and running and not running & left:
        raise NothingToDo("Whoever was to prove the release changed since; plan anew.")
