"""Taking charge of stacks, and saving what came of it."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, bindparam, case, delete, insert, literal, or_, select, update

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.columns import Instant
from opencode_lifecycle.adapters.database.events import append_events
from opencode_lifecycle.adapters.database.operations import unfinished_operations, write_progress
from opencode_lifecycle.adapters.database.snapshots import forget_snapshots
from opencode_lifecycle.adapters.database.stack_rows import kept_workspace_values, stack_of, status_values
from opencode_lifecycle.adapters.database.stack_statements import (
    AT_ONCE,
    UPDATE_STACK,
    insert_stack,
    last_operation_of,
    stack_head,
    stack_row,
)
from opencode_lifecycle.adapters.database.tables import (
    orphans,
    removed_stacks,
    rollouts,
    user_stacks,
    workspaces,
)
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.errors import Busy, ClaimLost
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.operation import Event, OperationKind, OperationState
from opencode_lifecycle.model.stack import KeptWorkspace, Stack, Status
from opencode_lifecycle.ports.stores import Claimed, OperationOutcome, Progress

_SUPERSEDED: Final = OperationOutcome(state=OperationState.SUPERSEDED)
_HINTS_AT_ONCE: Final = 500
"""Ids in one statement; the databases bound the number of values in one."""

_columns: Final = user_stacks.c

_FREE: Final = (
    select(user_stacks)
    .where(or_(_columns.claim_token.is_(None), _columns.claim_lapses_at <= bindparam("now")))
    .limit(bindparam("at_most"))
    .with_for_update(skip_locked=True)
)
_FREE_AND_HINTED: Final = _FREE.where(_columns.user_id.in_(bindparam("hinted", expanding=True))).order_by(
    _columns.user_id
)
_FREE_AND_DUE: Final = _FREE.where(_columns.next_attempt_at <= bindparam("now")).order_by(
    _columns.next_attempt_at, _columns.change_seq
)
_TAKE: Final = (
    update(user_stacks)
    .where(_columns.user_id.in_(bindparam("taken", expanding=True)))
    .values(
        claim_token=bindparam("token"),
        claim_lapses_at=bindparam("lapses_at"),
        # So that it is due again, hinted or not, when this worker dies and the claim lapses.
        next_attempt_at=bindparam("now"),
    )
)
_VOID: Final = (
    update(user_stacks)
    .where(_columns.claim_token.is_not(None))
    .values(claim_token=None, claim_lapses_at=None, next_attempt_at=literal(AT_ONCE, Instant()))
)
_VOID_ON_ORPHANS: Final = (
    update(orphans).where(orphans.c.claim_token.is_not(None)).values(claim_token=None, claim_lapses_at=None)
)
_VOID_ON_ROLLOUTS: Final = (
    update(rollouts).where(rollouts.c.claim_token.is_not(None)).values(claim_token=None, claim_lapses_at=None)
)
_RELEASE: Final = (
    update(user_stacks)
    .where(_columns.user_id == bindparam("whose"), _columns.claim_token == bindparam("held_token"))
    .values(
        claim_token=None,
        claim_lapses_at=None,
        next_attempt_at=case(
            (
                or_(
                    _columns.next_attempt_at == AT_ONCE, _columns.generation > bindparam("claimed_generation")
                ),
                literal(AT_ONCE, Instant()),
            ),
            else_=bindparam("next", type_=Instant()),
        ),
    )
)
_RENEW: Final = (
    update(user_stacks)
    .where(_columns.user_id == bindparam("whose"), _columns.claim_token == bindparam("held_token"))
    .values(claim_lapses_at=bindparam("until", type_=Instant()))
)
_REMOVE: Final = delete(user_stacks).where(_columns.user_id == bindparam("whose"))
_REMEMBER_REMOVAL: Final = insert(removed_stacks)
_FORGET_KEPT: Final = delete(workspaces).where(workspaces.c.user_id == bindparam("whose"))
_KEEP: Final = insert(workspaces)


class ClaimRows(Store):
    async def claim(
        self, *, limit: int, now: datetime, lapses_at: datetime, hinted: Collection[UserId] = ()
    ) -> Sequence[Claimed]:
        hints = tuple(dict.fromkeys(hinted))

        def claim(transaction: Transaction) -> Sequence[Claimed]:
            stacks = _free_stacks(transaction, hints, limit=limit, now=now)
            if not stacks:
                return ()
            token = secrets.token_urlsafe(16)
            taken = [stack.user_id for stack in stacks]
            transaction.write(_TAKE, {"taken": taken, "token": token, "lapses_at": lapses_at, "now": now})
            return [Claimed(stack=stack, token=token, lapses_at=lapses_at) for stack in stacks]

        return await self._write_alone("claim", claim)

    async def save(self, claimed: Claimed, progress: Progress) -> Stack:
        def save(transaction: Transaction) -> Stack:
            head = _claimed_head(transaction, claimed)
            _check_lease(head, progress)
            stack = _write_status(transaction, head, claimed, progress)
            _write_operation(transaction, head, claimed, progress)
            append_events(transaction, progress.events)
            return stack

        return await self._write("save", save)

    async def release_claim(self, claimed: Claimed, *, next_attempt_at: datetime | None) -> None:
        values = {
            "whose": claimed.stack.user_id,
            "held_token": claimed.token,
            "claimed_generation": claimed.stack.intent.generation,
            "next": next_attempt_at,
        }
        await self._write("release claim", lambda transaction: transaction.write(_RELEASE, values))

    async def renew_claim(self, claimed: Claimed, *, lapses_at: datetime) -> Claimed:
        def renew(transaction: Transaction) -> Claimed:
            _claimed_head(transaction, claimed)
            values = {"whose": claimed.stack.user_id, "held_token": claimed.token, "until": lapses_at}
            transaction.write(_RENEW, values)
            return replace(claimed, lapses_at=lapses_at)

        return await self._write("renew a claim", renew)

    async def void_claims(self) -> None:
        def void(transaction: Transaction) -> None:
            transaction.write(_VOID, {})
            transaction.write(_VOID_ON_ORPHANS, {})
            transaction.write(_VOID_ON_ROLLOUTS, {})

        await self._write("void claims", void)

    async def finish_deletion(
        self,
        claimed: Claimed,
        *,
        outcome: OperationOutcome,
        events: Sequence[Event],
        kept: KeptWorkspace | None,
        successor: Stack | None,
    ) -> None:
        def finish(transaction: Transaction) -> None:
            head = _claimed_head(transaction, claimed)
            if head["generation"] != claimed.stack.intent.generation:
                raise ClaimLost("A newer change was accepted while the stack was being deleted.")
            _replace_row(transaction, claimed.stack, successor)
            _finish_operations(transaction, claimed.stack, outcome, successor)
            if kept is None:
                forget_snapshots(transaction, claimed.stack.user_id)
            else:
                transaction.write(_FORGET_KEPT, {"whose": kept.user_id})
                transaction.write(_KEEP, kept_workspace_values(kept))
            append_events(transaction, events)

        await self._write("finish deletion", finish)


def _free_stacks(
    transaction: Transaction, hints: Sequence[UserId], *, limit: int, now: datetime
) -> list[Stack]:
    found: dict[UserId, Stack] = {}

    def take(statement: Select[Any], **values: object) -> None:
        # Up to *limit* more, since some of them may be among the found already.
        for row in transaction.read(statement, {"now": now, "at_most": limit, **values}):
            if len(found) < limit:
                found.setdefault(row["user_id"], stack_of(row))

    for start in range(0, len(hints), _HINTS_AT_ONCE):
        if len(found) < limit:
            take(_FREE_AND_HINTED, hinted=hints[start : start + _HINTS_AT_ONCE])
    if len(found) < limit:
        take(_FREE_AND_DUE)
    return list(found.values())


def _claimed_head(transaction: Transaction, claimed: Claimed) -> Mapping[str, Any]:
    head = stack_head(transaction, claimed.stack.user_id)
    if head is None or head["claim_token"] != claimed.token:
        raise ClaimLost
    return head


def _stored(transaction: Transaction, head: Mapping[str, Any], claimed: Claimed) -> Stack:
    """Return the stack as it is now: the one that was claimed, unless somebody wrote to it since."""
    if head["change_seq"] == claimed.stack.change_seq:
        return claimed.stack
    row = stack_row(transaction, claimed.stack.user_id)
    assert row is not None, "its head was read in this transaction"
    return stack_of(row)


def _check_lease(head: Mapping[str, Any], progress: Progress) -> None:
    busy_until: datetime | None = head["busy_until"]
    if (
        progress.unless_busy_at is not None
        and busy_until is not None
        and busy_until > progress.unless_busy_at
    ):
        raise Busy


def _write_status(
    transaction: Transaction, head: Mapping[str, Any], claimed: Claimed, progress: Progress
) -> Stack:
    stack = _stored(transaction, head, claimed)
    is_woken = head["next_attempt_at"] == AT_ONCE
    status: Status = replace(progress.status, attempts=0) if is_woken else progress.status
    values: dict[str, Any] = {}
    if status != stack.status:
        before = status_values(stack.status)
        changed = {name: value for name, value in status_values(status).items() if value != before[name]}
        stack = replace(
            stack,
            status=status,
            updated_at=max(stack.updated_at, transaction.now()),
            change_seq=transaction.next_change(),
        )
        values = {**changed, "updated_at": stack.updated_at, "change_seq": stack.change_seq}
    if not progress.keep_claim:
        is_behind = is_woken or stack.intent.generation > claimed.stack.intent.generation
        values |= {
            "claim_token": None,
            "claim_lapses_at": None,
            "next_attempt_at": AT_ONCE if is_behind else progress.next_attempt_at,
        }
    if values:
        transaction.write(UPDATE_STACK, {"whose": stack.user_id, **values})
    return stack


def _write_operation(
    transaction: Transaction, head: Mapping[str, Any], claimed: Claimed, progress: Progress
) -> None:
    operation = last_operation_of(head)
    if operation is None:
        return
    # What was asked for since the stack was last read is not answered by it.
    answers_it = operation.generation <= claimed.stack.intent.generation
    outcome = progress.outcome if answers_it else None
    if progress.entered is not None or outcome is not None:
        write_progress(transaction, operation, entered=progress.entered, outcome=outcome)


def _replace_row(transaction: Transaction, stack: Stack, successor: Stack | None) -> None:
    transaction.write(_REMOVE, {"whose": stack.user_id})
    seq = transaction.next_change()
    if successor is None:
        transaction.write(
            _REMEMBER_REMOVAL,
            {"user_id": stack.user_id, "change_seq": seq, "removed_at": transaction.now()},
        )
    else:
        insert_stack(transaction, replace(successor, change_seq=seq), next_attempt_at=AT_ONCE)


def _finish_operations(
    transaction: Transaction, stack: Stack, outcome: OperationOutcome, successor: Stack | None
) -> None:
    """The deletion has ended; what the next life of the stack was asked to do has not even begun."""
    continues = None if successor is None else successor.intent.last_operation
    for operation in unfinished_operations(transaction, stack.user_id):
        if operation.kind is OperationKind.DELETE:
            write_progress(transaction, operation, entered=None, outcome=outcome)
        elif operation.id != continues:
            write_progress(transaction, operation, entered=None, outcome=_SUPERSEDED)
