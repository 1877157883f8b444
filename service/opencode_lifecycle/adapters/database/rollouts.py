"""Rollouts as rows: one of them is active, and one replica drives it."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, insert, select, update

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.events import append_events
from opencode_lifecycle.adapters.database.rollout_claims import check_claim
from opencode_lifecycle.adapters.database.rollout_rows import (
    member_of,
    member_values,
    plan_of,
    plan_values,
    rollout_of,
    rollout_values,
)
from opencode_lifecycle.adapters.database.tables import rollout_plans, rollout_stacks
from opencode_lifecycle.adapters.database.tables import rollouts as rows_of_rollouts
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.errors import RolloutActive, RolloutNotFound
from opencode_lifecycle.model.identifiers import PlanId, RolloutId, UserId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.rollout import Member, MemberState, Rollout, RolloutPlan, WaveCount
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.rollouts import ClaimedRollout

_columns: Final = rows_of_rollouts.c
_members: Final = rollout_stacks.c
_INSERT: Final = insert(rows_of_rollouts)
_GET: Final = select(rows_of_rollouts).where(_columns.id == bindparam("which"))
_ACTIVE: Final = select(rows_of_rollouts).where(_columns.is_active)
_UPDATE: Final = update(rows_of_rollouts).where(_columns.id == bindparam("which"))
_RELEASE: Final = _UPDATE.where(_columns.claim_token == bindparam("held_token")).values(
    claim_token=None, claim_lapses_at=None
)
_MEMBERS: Final = (
    select(rollout_stacks).where(_members.rollout_id == bindparam("which")).order_by(_members.user_id)
)
_ADD_MEMBER: Final = insert(rollout_stacks)
_SAVE_MEMBER: Final = update(rollout_stacks).where(
    _members.rollout_id == bindparam("which"), _members.user_id == bindparam("whose")
)
_REMOVE_MEMBER: Final = delete(rollout_stacks).where(
    _members.rollout_id == bindparam("which"), _members.user_id == bindparam("whose")
)
_COUNT: Final = (
    select(_members.wave, _members.state, func.count().label("stacks"))
    .where(_members.rollout_id == bindparam("which"))
    .group_by(_members.wave, _members.state)
    .order_by(_members.wave, _members.state)
)
_PUT_PLAN: Final = insert(rollout_plans)
_GET_PLAN: Final = select(rollout_plans).where(rollout_plans.c.id == bindparam("which"))
_PRUNE_PLANS: Final = delete(rollout_plans).where(rollout_plans.c.lapses_at <= bindparam("at"))


class RolloutRows(Store):
    async def create_rollout(
        self, rollout: Rollout, members: Sequence[Member], event: Event | None = None
    ) -> None:
        def create(transaction: Transaction) -> None:
            _check_that_none_is_active(transaction, rollout)
            transaction.write(_INSERT, {"id": rollout.id, **rollout_values(rollout)})
            _add(transaction, members)
            append_events(transaction, [event] if event is not None else [])

        await self._write("create rollout", create)

    async def get_rollout(self, rollout_id: RolloutId) -> Rollout | None:
        rows = await self._read("get rollout", _GET, {"which": rollout_id})
        return rollout_of(rows[0]) if rows else None

    async def active_rollout(self) -> Rollout | None:
        rows = await self._read("read the active rollout", _ACTIVE)
        return rollout_of(rows[0]) if rows else None

    async def find_rollouts(self, *, after: RolloutId | None, limit: int) -> Page[Rollout]:
        statement = select(rows_of_rollouts).order_by(_columns.id.desc()).limit(limit + 1)
        if after is not None:
            statement = statement.where(_columns.id < after)
        rows = await self._read("find rollouts", statement)
        found = [rollout_of(row) for row in rows[:limit]]
        return Page(items=found, next_cursor=found[-1].id if len(rows) > limit else None)

    async def rollout_members(self, rollout_id: RolloutId) -> Sequence[Member]:
        rows = await self._read("read members", _MEMBERS, {"which": rollout_id})
        return [member_of(row) for row in rows]

    async def find_members(
        self,
        rollout_id: RolloutId,
        *,
        state: MemberState | None,
        user: UserId | None = None,
        after: UserId | None,
        limit: int,
    ) -> Page[Member]:
        statement = _MEMBERS.limit(limit + 1)
        if state is not None:
            statement = statement.where(_members.state == state.value)
        if user is not None:
            statement = statement.where(_members.user_id == user)
        if after is not None:
            statement = statement.where(_members.user_id > after)
        rows = await self._read("find members", statement, {"which": rollout_id})
        found = [member_of(row) for row in rows[:limit]]
        return Page(items=found, next_cursor=found[-1].user_id if len(rows) > limit else None)

    async def count_members(self, rollout_id: RolloutId) -> Sequence[WaveCount]:
        counts: dict[int, dict[MemberState, int]] = {}
        for row in await self._read("count members", _COUNT, {"which": rollout_id}):
            counts.setdefault(row["wave"], {})[MemberState(row["state"])] = row["stacks"]
        return [WaveCount(wave=wave, counts=by_state) for wave, by_state in counts.items()]

    async def change_rollout(
        self,
        rollout_id: RolloutId,
        change: Callable[[Rollout], Rollout],
        *,
        members: Sequence[Member] = (),
        event: Event | None = None,
    ) -> Rollout:
        def put(transaction: Transaction) -> Rollout:
            rows = transaction.read(_GET, {"which": rollout_id})
            if not rows:
                raise RolloutNotFound(rollout=rollout_id)
            there = rollout_of(rows[0])
            changed = change(there)
            if changed == there:
                return there
            _check_that_none_is_active(transaction, changed)
            changed = replace(changed, version=there.version + 1)
            transaction.write(_UPDATE, {"which": rollout_id, **rollout_values(changed)})
            _put(transaction, members)
            append_events(transaction, [event] if event is not None else [])
            transaction.announces = True
            return changed

        return await self._write("change rollout", put)

    async def claim_rollout(self, *, now: datetime, lapses_at: datetime) -> ClaimedRollout | None:
        def claim(transaction: Transaction) -> ClaimedRollout | None:
            rows = transaction.read(_ACTIVE)
            if not rows or (rows[0]["claim_token"] is not None and rows[0]["claim_lapses_at"] > now):
                return None
            token = secrets.token_urlsafe(16)
            values = {"which": rows[0]["id"], "claim_token": token, "claim_lapses_at": lapses_at}
            transaction.write(_UPDATE, values)
            return ClaimedRollout(rollout=rollout_of(rows[0]), token=token, lapses_at=lapses_at)

        return await self._write("claim rollout", claim)

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
        def save(transaction: Transaction) -> ClaimedRollout:
            check_claim(transaction, claimed)
            saved = rollout
            if rollout != claimed.rollout:
                saved = replace(rollout, version=claimed.rollout.version + 1)
            ended = {} if saved.is_active else {"claim_token": None}
            values = {**rollout_values(saved), "claim_lapses_at": lapses_at, **ended}
            transaction.write(_UPDATE, {"which": rollout.id, **values})
            if members:
                transaction.write(_SAVE_MEMBER, [_changed(member) for member in members])
            _put(transaction, added)
            append_events(transaction, [event] if event is not None else [])
            return ClaimedRollout(rollout=saved, token=claimed.token, lapses_at=lapses_at)

        return await self._write("save rollout", save)

    async def release_rollout(self, claimed: ClaimedRollout) -> None:
        def release(transaction: Transaction) -> None:
            transaction.write(_RELEASE, {"which": claimed.rollout.id, "held_token": claimed.token})

        await self._write("release rollout", release)

    async def put_plan(self, plan: RolloutPlan) -> None:
        await self._write_alone(
            "put plan", lambda transaction: transaction.write(_PUT_PLAN, plan_values(plan))
        )

    async def get_plan(self, plan_id: PlanId) -> RolloutPlan | None:
        rows = await self._read("get plan", _GET_PLAN, {"which": plan_id})
        return plan_of(rows[0]) if rows else None

    async def prune_plans(self, now: datetime) -> int:
        return await self._write_alone(
            "prune plans", lambda transaction: transaction.write(_PRUNE_PLANS, {"at": now})
        )


def _check_that_none_is_active(transaction: Transaction, rollout: Rollout) -> None:
    active = [row["id"] for row in transaction.read(_ACTIVE)]
    if rollout.is_active and active and active != [rollout.id]:
        raise RolloutActive(rollout=active[0])


def _add(transaction: Transaction, members: Sequence[Member]) -> None:
    if members:
        transaction.write(_ADD_MEMBER, [member_values(member) for member in members])


def _put(transaction: Transaction, members: Sequence[Member]) -> None:
    """Add *members*, each in the place of what stands under its name: an earlier life of the stack."""
    if members:
        names = [{"which": member.rollout_id, "whose": member.user_id} for member in members]
        transaction.write(_REMOVE_MEMBER, names)
        _add(transaction, members)


def _changed(member: Member) -> dict[str, Any]:
    values = member_values(member)
    return {"which": values.pop("rollout_id"), "whose": values.pop("user_id"), **values}
