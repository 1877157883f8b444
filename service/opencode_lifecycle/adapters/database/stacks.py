"""Reading stacks, and deciding about them."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, bindparam, delete, func, literal, select, text, union_all

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.events import append_events
from opencode_lifecycle.adapters.database.facet_mask import BITS, EDITS_RESTART, facets_in_mask, mask_of
from opencode_lifecycle.adapters.database.operations import insert_operation, supersede_unfinished
from opencode_lifecycle.adapters.database.rollout_claims import check_claim
from opencode_lifecycle.adapters.database.stack_rows import intent_values, kept_workspace_of, stack_of
from opencode_lifecycle.adapters.database.stack_statements import (
    AT_ONCE,
    UPDATE_STACK,
    insert_stack,
    last_operation_of,
    stack_row,
)
from opencode_lifecycle.adapters.database.tables import removed_stacks, sequences, user_stacks, workspaces
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.stack import KeptWorkspace, Stack
from opencode_lifecycle.model.staleness import StaleCount, StalenessSummary, needs_restart
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.rollouts import ClaimedRollout
from opencode_lifecycle.ports.stores import Decision, Due, Situation, StackChange, StackQuery

_GET: Final = select(user_stacks).where(user_stacks.c.user_id == bindparam("whose"))
_KEPT: Final = select(workspaces).order_by(workspaces.c.user_id)
_KEPT_OF: Final = select(workspaces).where(workspaces.c.user_id == bindparam("whose"))
_DUE_OF: Final = select(user_stacks.c.next_attempt_at, user_stacks.c.claim_lapses_at).where(
    user_stacks.c.user_id == bindparam("whose")
)
_FORGET_KEPT: Final = delete(workspaces).where(workspaces.c.user_id == bindparam("whose"))
_REMOVED: Final = select(removed_stacks.c.removed_at).where(removed_stacks.c.user_id == bindparam("whose"))
_ALL_REMOVED: Final = select(removed_stacks.c.user_id)
_IS_STALE: Final = text("user_stacks.stale <> 0")
"""Word for word the condition of the partial index: with a parameter in it no database would take that."""
_SUMMARY: Final = union_all(
    select(user_stacks.c.stale, func.count().label("stacks")).where(_IS_STALE).group_by(user_stacks.c.stale),
    # Under 0 the whole fleet, stale or not.
    select(literal(0).label("stale"), func.count().label("stacks")).select_from(user_stacks),
)
_LATEST_CHANGE: Final = select(sequences.c.changes)

_CHANGED: Final = (
    union_all(
        select(user_stacks.c.user_id, user_stacks.c.change_seq).where(
            user_stacks.c.change_seq > bindparam("after")
        ),
        select(removed_stacks.c.user_id, removed_stacks.c.change_seq).where(
            removed_stacks.c.change_seq > bindparam("after")
        ),
    )
    .order_by("change_seq")
    .limit(bindparam("at_most"))
    .subquery("changed")
)
_CHANGES: Final = (
    # One statement, hence one committed state: with two, a stack removed or made between them could be missed.
    select(_CHANGED.c.user_id.label("whose"), _CHANGED.c.change_seq.label("seq"), user_stacks)
    .outerjoin(user_stacks, user_stacks.c.user_id == _CHANGED.c.user_id)
    .order_by(_CHANGED.c.change_seq)
)


class StackRows(Store):
    async def get(self, user_id: UserId) -> Stack | None:
        rows = await self._read("get stack", _GET, {"whose": user_id})
        return stack_of(rows[0]) if rows else None

    async def find(self, query: StackQuery) -> Page[Stack]:
        """`stale` means any facet that was stale when it was saved, `release` the one it was last registered with."""
        rows = await self._read("find stacks", _matching(query))
        found = [stack_of(row) for row in rows[: query.limit]]
        return Page(items=found, next_cursor=found[-1].user_id if len(rows) > query.limit else None)

    async def decide(
        self,
        user_id: UserId,
        decision: Callable[[Situation], Decision],
        *,
        under: ClaimedRollout | None = None,
    ) -> tuple[Situation, Decision]:
        def decide(transaction: Transaction) -> tuple[Situation, Decision]:
            if under is not None:
                check_claim(transaction, under)
            situation = _situation_of(transaction, user_id)
            return situation, _write_decision(transaction, user_id, situation, decision(situation))

        return await self._write("decide", decide)

    async def due(self, user_id: UserId) -> Due | None:
        rows = await self._read("read when a stack is due", _DUE_OF, {"whose": user_id})
        if not rows:
            return None
        return Due(at=rows[0]["next_attempt_at"], claimed_until=rows[0]["claim_lapses_at"])

    async def kept_workspaces(self) -> Sequence[KeptWorkspace]:
        return [kept_workspace_of(row) for row in await self._read("read kept workspaces", _KEPT)]

    async def staleness_summary(self) -> StalenessSummary:
        rows = await self._read("count the stale", _SUMMARY)
        facets = Counter(
            {
                facet: sum(row["stacks"] for row in rows if facet in facets_in_mask(row["stale"]))
                for facet in BITS
            }
        )
        stale = sum(row["stacks"] for row in rows if row["stale"])
        edits_restart = any(row["stale"] & EDITS_RESTART for row in rows)
        return StalenessSummary(
            stacks=sum(row["stacks"] for row in rows if not row["stale"]),
            stale=stale,
            facets=tuple(
                StaleCount(
                    facet=facet, stacks=count, restart=needs_restart(facet, edits_restart=edits_restart)
                )
                for facet, count in facets.most_common()
                if count
            ),
        )

    async def deleted_at(self, user_id: UserId) -> datetime | None:
        rows = await self._read("read a removal", _REMOVED, {"whose": user_id})
        return rows[0]["removed_at"] if rows else None

    async def removed_users(self) -> Collection[UserId]:
        return [row["user_id"] for row in await self._read("read removals", _ALL_REMOVED)]

    async def changes_since(self, seq: int, *, limit: int) -> Sequence[StackChange]:
        rows = await self._read("read changes", _CHANGES, {"after": seq, "at_most": limit})
        return [
            StackChange(
                seq=row["seq"],
                user_id=row["whose"],
                stack=None if row["user_id"] is None else stack_of(row),
            )
            for row in rows
        ]

    async def latest_change(self) -> int:
        latest: int = (await self._read("read the latest change", _LATEST_CHANGE))[0]["changes"]
        return latest


def _matching(query: StackQuery) -> Select[Any]:
    columns = user_stacks.c
    wanted = {
        columns.phase: query.phase,
        columns.health: query.health,
        columns.migration_state: query.migration_state,
        columns.release: query.release,
        columns.reason: query.reason,
        columns.group: query.group,
    }
    statement = select(user_stacks).order_by(columns.user_id).limit(query.limit + 1)
    statement = statement.where(
        *(column == str(value) for column, value in wanted.items() if value is not None),
        *(columns.labels[name].as_string() == value for name, value in query.labels.items()),
    )
    match query.stale:
        case None:
            pass
        case False:
            statement = statement.where(columns.stale == 0)
        case True:
            statement = statement.where(_IS_STALE)
        case facet:
            statement = statement.where(_IS_STALE, columns.stale.bitwise_and(mask_of([facet])) != 0)
    if query.after is not None:
        statement = statement.where(columns.user_id > query.after)
    return statement


def _situation_of(transaction: Transaction, user_id: UserId) -> Situation:
    row = stack_row(transaction, user_id)
    kept = transaction.read(_KEPT_OF, {"whose": user_id})
    return Situation(
        stack=None if row is None else stack_of(row),
        last_operation=None if row is None else last_operation_of(row),
        kept_workspace=kept_workspace_of(kept[0]) if kept else None,
    )


def _write_decision(
    transaction: Transaction, user_id: UserId, situation: Situation, decision: Decision
) -> Decision:
    stack = decision.stack
    if stack is None and decision.wake:
        stack = situation.stack
    if stack is not None:
        stack = _write_stack(transaction, situation, stack, wake=decision.wake)
    if decision.operation is not None:
        if decision.supersede and situation.stack is not None:
            supersede_unfinished(transaction, user_id, decision.operation.created_at)
        insert_operation(transaction, decision.operation)
    if decision.forget_kept_workspace:
        transaction.write(_FORGET_KEPT, {"whose": user_id})
    append_events(transaction, decision.events)
    return replace(decision, stack=stack)


def _write_stack(transaction: Transaction, situation: Situation, stack: Stack, *, wake: bool) -> Stack:
    if situation.stack is not None:
        return _write_intent(transaction, situation.stack, stack, wake=wake)
    stack = replace(stack, change_seq=transaction.next_change())
    insert_stack(transaction, stack, next_attempt_at=AT_ONCE if wake else None)
    return stack


def _write_intent(transaction: Transaction, existing: Stack, decided: Stack, *, wake: bool) -> Stack:
    """Write what was asked for, and leave what was found out to whoever holds the claim."""
    stack = replace(
        existing,
        intent=decided.intent,
        status=replace(existing.status, attempts=0) if wake else existing.status,
        updated_at=decided.updated_at,
        change_seq=transaction.next_change(),
    )
    values = {
        **intent_values(stack.intent),
        "updated_at": stack.updated_at,
        "change_seq": stack.change_seq,
    }
    if wake:
        values |= {"next_attempt_at": AT_ONCE, "attempts": 0}
    transaction.write(UPDATE_STACK, {"whose": existing.user_id, **values})
    return stack
