"""What operators ask of the whole: how stale it is, what would be done, what stands in the way, what has no row."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

from opencode_lifecycle.lifecycle.braking.conditions import Conditions
from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.orphans.sweep import OrphanSweep
from opencode_lifecycle.lifecycle.reconciling.aims import Aims
from opencode_lifecycle.lifecycle.reconciling.dispatcher import Dispatcher
from opencode_lifecycle.lifecycle.reconciling.effects import Effects
from opencode_lifecycle.lifecycle.reconciling.forecast import forecast
from opencode_lifecycle.lifecycle.reconciling.passes import Pass
from opencode_lifecycle.lifecycle.reconciling.steps import Limits, Step, Work
from opencode_lifecycle.lifecycle.reconciling.work import Desk
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.condition import Condition
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    StackNotFound,
    UpstreamError,
)
from opencode_lifecycle.model.identifiers import ConditionId, OrphanId, UserId
from opencode_lifecycle.model.orphan import Orphan
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.staleness import StalenessSummary
from opencode_lifecycle.model.view import NextLook, OrphanPlan, Page, ReconcileReport, StackPlan, StackView
from opencode_lifecycle.ports.orchestrator import Listing
from opencode_lifecycle.ports.stores import Claimed, OrphanStore, StackStore

NEXT_SECONDS = 15.0
"""For the plan of one stack, before its caller gives up."""
REPORT_SECONDS = 90.0
"""After so long a reconcile plans no more and answers: before its caller gives up, and before its key lapses."""
_PLANNED_AT_ONCE = 16
"""Stacks whose plans may read from neighbours at the same time."""
NOT_PLANNED = "not planned in time"
"""Stands for the steps of a stack that there was no time to plan."""
_BREATH = 200
"""Stacks that are judged before others get their turn."""


class Oversight:
    """The use cases of operators."""

    def __init__(
        self,
        *,
        stacks: StackStore,
        orphans: OrphanStore,
        conditions: Conditions,
        sweep: OrphanSweep,
        fleet: Fleet,
        aims: Aims,
        effects: Effects,
        dispatcher: Dispatcher,
        desk: Desk,
        limits: Limits,
        inspect: Callable[[UserId], Awaitable[StackView]],
        watch_ages: Callable[[], Mapping[str, float | None]],
        list_once: Callable[[], Awaitable[Listing]],
        now: Clock,
    ) -> None:
        self._stacks = stacks
        self._orphans = orphans
        self._conditions = conditions
        self._sweep = sweep
        self._fleet = fleet
        self._aims = aims
        self._effects = effects
        self._dispatcher = dispatcher
        self._desk = desk
        self._limits = limits
        self._inspect = inspect
        self._watch_ages = watch_ages
        self._list_once = list_once
        self._now = now

    async def staleness(self) -> StalenessSummary:
        return await self._stacks.staleness_summary()

    def watch_ages(self) -> Mapping[str, float | None]:
        """Return how old, in seconds, what each watch last saw is; None for one that saw nothing yet."""
        return self._watch_ages()

    def standing_conditions(self) -> Sequence[Condition]:
        return self._conditions.standing()

    def orphan_counts(self) -> Mapping[tuple[str, bool], int]:
        """Return how many orphans the last comparison found, by kind and whether they are proven ours."""
        return Counter((orphan.find.kind.value, orphan.proven) for orphan in self._sweep.last)

    # --- conditions

    async def conditions(self, *, standing: bool, after: ConditionId | None, limit: int) -> Page[Condition]:
        return await self._conditions.find(standing=standing, after=after, limit=limit)

    async def confirm_condition(self, condition_id: ConditionId, *, by: Principal) -> Condition:
        return await self._conditions.confirm(condition_id, by=by)

    # --- orphans

    async def orphans(self, *, after: OrphanId | None, limit: int) -> Page[Orphan]:
        return await self._orphans.find_orphans(after=after, limit=limit)

    async def adopt_orphan(self, orphan_id: OrphanId, *, by: Principal) -> StackView:
        return await self._inspect(await self._sweep.adopt(orphan_id, by=by.name))

    async def delete_orphan(self, orphan_id: OrphanId, *, by: Principal) -> None:
        await self._sweep.delete(orphan_id, by=by.name)

    # --- reconcile

    async def reconcile(self, *, dry_run: bool, by: Principal) -> ReconcileReport:
        """
        List everything now, and say what is done for each stack and each orphan.

        A dry run takes in what it sees, as every listing does, and begins nothing. What there was no time to plan is
        named nevertheless, and says so. With Vault or Consul away it is said of the stacks that need them that they wait,
        and orphans are looked for another time. Raises `UpstreamError` or `DeadlineExceeded` with Nomad away.
        """
        del by
        deadline = Deadline.after(REPORT_SECONDS, "plan what is to be done")
        orphans: Sequence[OrphanPlan] = ()
        unseen = None
        try:
            listing, orphans = await (self._sweep.compare() if dry_run else self._sweep.sweep_once())
        except (UpstreamError, DeadlineExceeded) as error:
            # If it is Nomad that is away, there is nothing to compare with.
            listing, unseen = await self._list_once(), error.message
        needy: list[Known] = []
        for number, known in enumerate(self._fleet):
            if self._dispatcher.needs_attention(known):
                needy.append(known)
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        turns = asyncio.Semaphore(_PLANNED_AT_ONCE)
        plans = await asyncio.gather(*(self._plan_in_turn(known, turns, deadline) for known in needy))
        if not dry_run:
            for known in needy:
                self._dispatcher.hint(known.stack.user_id)
        return ReconcileReport(
            dry_run=dry_run,
            at=self._now(),
            index=listing.index,
            compared=len(self._fleet),
            frozen=bool(self._fleet.frozen),
            conditions=self._conditions.standing(),
            stacks=[plan for plan in plans if plan.steps],
            orphans=orphans,
            orphans_unseen=unseen,
        )

    async def _plan_in_turn(
        self, known: Known, turns: asyncio.Semaphore, deadline: Deadline, *, at: datetime | None = None
    ) -> StackPlan:
        """Plan the stack as of *at*, or of now."""
        try:
            async with deadline.enforce(), turns:
                return await self._plan(known, at)
        except DeadlineExceeded:
            stack = known.stack
            return StackPlan(
                user_id=stack.user_id,
                job_id=stack.job_id,
                phase=stack.status.phase,
                reason=stack.status.reason,
                steps=[NOT_PLANNED],
                message="its neighbours took too long to be asked; ask again for its plan",
                staleness=(),
            )

    async def next_look(self, user_id: UserId) -> NextLook:
        """Say when the stack is taken up next, and what is done then if all is as it is now. Begins nothing."""
        await self._inspect(user_id)
        known, due = self._fleet.get(user_id), await self._stacks.due(user_id)
        if known is None or due is None:
            raise StackNotFound(user_id=user_id)
        now = self._now()
        due_at = max(due.at, now) if due.at is not None else None
        deadline = Deadline.after(NEXT_SECONDS, "plan what is to be done")
        plan = await self._plan_in_turn(known, asyncio.Semaphore(), deadline, at=due_at)
        return NextLook(
            user_id=user_id,
            due_at=due_at,
            at_work=due.claimed_until is not None and due.claimed_until > now,
            steps=plan.steps,
            message=plan.message,
        )

    async def _plan(self, known: Known, at: datetime | None) -> StackPlan:
        stack = known.stack
        await self._aims.load(stack)
        work = self._desk.work_on(stack, known)
        assert work is not None, "its releases are in memory"

        async def read(work: Work, step: Step) -> Work:
            unclaimed = Claimed(stack=work.stack, token="", lapses_at=self._now() + timedelta(0))
            current = Pass(unclaimed, work, work.stack.status, {})
            await self._effects.apply(current, step)
            return current.work

        ahead = await forecast(work, read, self._desk.rework, now=at or self._now(), limits=self._limits)
        return StackPlan(
            user_id=stack.user_id,
            job_id=stack.job_id,
            phase=stack.status.phase,
            reason=stack.status.reason or ahead.status.reason,
            steps=ahead.words,
            message=ahead.status.message,
            staleness=self._aims.in_detail(ahead.staleness, stack),
        )
