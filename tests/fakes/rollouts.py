"""Rollouts in memory: what `FakeStore` keeps of them. It passes the contract suite of the real store."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import count

from opencode_lifecycle.model.errors import ClaimLost, RolloutActive, RolloutNotFound
from opencode_lifecycle.model.identifiers import PlanId, RolloutId, UserId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.rollout import Member, MemberState, Rollout, RolloutPlan, WaveCount
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.rollouts import ClaimedRollout


class FakeRollouts:
    """The part of a store in memory that is about rollouts."""

    events: list[Event]
    _call: Callable[[str], contextlib.AbstractAsyncContextManager[None]]
    _announce: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.rollouts: dict[RolloutId, Rollout] = {}
        self.rollout_stacks: dict[RolloutId, dict[UserId, Member]] = {}
        self.rollout_claim: tuple[RolloutId, str, datetime] | None = None
        self.plans: dict[PlanId, RolloutPlan] = {}
        self._rollout_claims = count(1)

    async def create_rollout(
        self, rollout: Rollout, members: Sequence[Member], event: Event | None = None
    ) -> None:
        async with self._call("create_rollout"):
            self._check_that_none_is_active(rollout)
            self.rollouts[rollout.id] = rollout
            self.rollout_stacks[rollout.id] = {member.user_id: member for member in members}
            self.events += [event] if event is not None else []
            self._announce()

    async def get_rollout(self, rollout_id: RolloutId) -> Rollout | None:
        async with self._call("get_rollout"):
            return self.rollouts.get(rollout_id)

    async def active_rollout(self) -> Rollout | None:
        async with self._call("active_rollout"):
            return self.the_active()

    def the_active(self) -> Rollout | None:
        return next((each for each in self.rollouts.values() if each.is_active), None)

    async def find_rollouts(self, *, after: RolloutId | None, limit: int) -> Page[Rollout]:
        async with self._call("find_rollouts"):
            ids = sorted((each for each in self.rollouts if after is None or each < after), reverse=True)
            found = [self.rollouts[each] for each in ids[:limit]]
            return Page(items=found, next_cursor=found[-1].id if len(ids) > limit else None)

    async def rollout_members(self, rollout_id: RolloutId) -> Sequence[Member]:
        async with self._call("rollout_members"):
            return [member for _, member in sorted(self.rollout_stacks.get(rollout_id, {}).items())]

    async def find_members(
        self,
        rollout_id: RolloutId,
        *,
        state: MemberState | None,
        user: UserId | None = None,
        after: UserId | None,
        limit: int,
    ) -> Page[Member]:
        async with self._call("find_members"):
            matching = [
                member
                for whose, member in sorted(self.rollout_stacks.get(rollout_id, {}).items())
                if state in {None, member.state}
                and user in {None, whose}
                and (after is None or whose > after)
            ]
            found = matching[:limit]
            return Page(items=found, next_cursor=found[-1].user_id if len(matching) > limit else None)

    async def count_members(self, rollout_id: RolloutId) -> Sequence[WaveCount]:
        async with self._call("count_members"):
            counts: dict[int, dict[MemberState, int]] = {}
            for member in self.rollout_stacks.get(rollout_id, {}).values():
                states = counts.setdefault(member.wave, {})
                states[member.state] = states.get(member.state, 0) + 1
            return [WaveCount(wave=wave, counts=counts[wave]) for wave in sorted(counts)]

    async def change_rollout(
        self,
        rollout_id: RolloutId,
        change: Callable[[Rollout], Rollout],
        *,
        members: Sequence[Member] = (),
        event: Event | None = None,
    ) -> Rollout:
        async with self._call("change_rollout"):
            there = self.rollouts.get(rollout_id)
            if there is None:
                raise RolloutNotFound(rollout=rollout_id)
            changed = change(there)
            if changed == there:
                return there
            self._check_that_none_is_active(changed)
            changed = replace(changed, version=there.version + 1)
            self.rollouts[rollout_id] = changed
            self.rollout_stacks[rollout_id] |= {member.user_id: member for member in members}
            self.events += [event] if event is not None else []
            self._announce()
            return changed

    async def claim_rollout(self, *, now: datetime, lapses_at: datetime) -> ClaimedRollout | None:
        async with self._call("claim_rollout"):
            active = self.the_active()
            claim = self.rollout_claim
            if active is None or (claim is not None and claim[0] == active.id and claim[2] > now):
                return None
            token = f"claim-{next(self._rollout_claims)}"
            self.rollout_claim = (active.id, token, lapses_at)
            return ClaimedRollout(rollout=active, token=token, lapses_at=lapses_at)

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
        async with self._call("save_rollout"):
            self.check_rollout_claim(claimed)
            saved = rollout
            if rollout != claimed.rollout:
                saved = replace(rollout, version=claimed.rollout.version + 1)
            self.rollouts[rollout.id] = saved
            self.rollout_claim = (rollout.id, claimed.token, lapses_at) if saved.is_active else None
            self.rollout_stacks[rollout.id] |= {member.user_id: member for member in (*members, *added)}
            self.events += [event] if event is not None else []
            return ClaimedRollout(rollout=saved, token=claimed.token, lapses_at=lapses_at)

    async def release_rollout(self, claimed: ClaimedRollout) -> None:
        async with self._call("release_rollout"):
            if self.rollout_claim is not None and self.rollout_claim[1] == claimed.token:
                self.rollout_claim = None

    async def put_plan(self, plan: RolloutPlan) -> None:
        async with self._call("put_plan"):
            self.plans[plan.id] = plan

    async def get_plan(self, plan_id: PlanId) -> RolloutPlan | None:
        async with self._call("get_plan"):
            return self.plans.get(plan_id)

    async def prune_plans(self, now: datetime) -> int:
        async with self._call("prune_plans"):
            gone = [each.id for each in self.plans.values() if each.lapses_at <= now]
            for plan_id in gone:
                del self.plans[plan_id]
            return len(gone)

    def check_rollout_claim(self, claimed: ClaimedRollout) -> None:
        """Raise `ClaimLost` when it is another's, or somebody has changed the rollout."""
        rollout_id = claimed.rollout.id
        if self.rollout_claim is None or self.rollout_claim[:2] != (rollout_id, claimed.token):
            raise ClaimLost
        if self.rollouts[rollout_id].version != claimed.rollout.version:
            raise ClaimLost

    def _check_that_none_is_active(self, rollout: Rollout) -> None:
        active = self.the_active()
        if rollout.is_active and active is not None and active.id != rollout.id:
            raise RolloutActive(rollout=active.id)
