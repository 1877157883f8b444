"""Statements about stacks that deciding and working have in common."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, bindparam, delete, insert, select, update

from opencode_lifecycle.adapters.database.operations import operation_of
from opencode_lifecycle.adapters.database.stack_rows import values_of
from opencode_lifecycle.adapters.database.tables import operations, orphans, removed_stacks, user_stacks
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.operation import Operation
from opencode_lifecycle.model.stack import Stack

AT_ONCE: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""
When a woken stack is due: before every clock, however wrong, of every replica.

It is also how a worker learns that its stack was woken while it worked: a claim sets another time.
"""

_OF_OPERATION: Final = "operation_"

_OPERATION: Final = tuple(column.label(f"{_OF_OPERATION}{column.name}") for column in operations.c)
_IS_LAST: Final = operations.c.id == user_stacks.c.last_operation


def _with_operation(which: ColumnElement[bool], *columns: Any) -> Select[Any]:
    return (
        select(*columns, *_OPERATION)
        .select_from(user_stacks.outerjoin(operations, which))
        .where(user_stacks.c.user_id == bindparam("whose"))
        # PostgreSQL hands out claims without taking turns; SQLite has no such clause and needs none.
        .with_for_update(of=user_stacks)
    )


_WHOLE: Final = _with_operation(_IS_LAST, user_stacks)
_HEAD: Final = _with_operation(
    # Of most stacks it ended long ago, and is not worth reading at each save.
    and_(_IS_LAST, operations.c.finished_at.is_(None)),
    *(
        user_stacks.c[name]
        for name in ("claim_token", "change_seq", "generation", "busy_until", "next_attempt_at")
    ),
)

UPDATE_STACK: Final = update(user_stacks).where(user_stacks.c.user_id == bindparam("whose"))
_CLAIM_ON_NAME: Final = (
    select(orphans.c.claim_token, orphans.c.claim_lapses_at)
    .where(orphans.c.job_id == bindparam("claimed_name"), orphans.c.claim_token.is_not(None))
    .order_by(orphans.c.claim_lapses_at.desc())
    .limit(1)
)
_INSERT: Final = insert(user_stacks).values(
    # Whoever is deleting what was left of the name must not delete what is made for this stack.
    claim_token=_CLAIM_ON_NAME.with_only_columns(orphans.c.claim_token).scalar_subquery(),
    claim_lapses_at=_CLAIM_ON_NAME.with_only_columns(orphans.c.claim_lapses_at).scalar_subquery(),
)
_FORGET_REMOVAL: Final = delete(removed_stacks).where(removed_stacks.c.user_id == bindparam("whose"))

Row = Mapping[str, Any]


def stack_row(transaction: Transaction, user_id: str) -> Row | None:
    """Read a stack with its last operation, and keep others from changing it until this transaction ends."""
    rows = transaction.read(_WHOLE, {"whose": user_id})
    return rows[0] if rows else None


def stack_head(transaction: Transaction, user_id: str) -> Row | None:
    """
    As `stack_row`, but of the stack only who holds it, which change was its last, and what may keep it from moving; and
    its last operation only where that has not ended.
    """
    rows = transaction.read(_HEAD, {"whose": user_id})
    return rows[0] if rows else None


def last_operation_of(row: Row) -> Operation | None:
    if row["operation_id"] is None:
        return None
    return operation_of({column.name: row[f"{_OF_OPERATION}{column.name}"] for column in operations.c})


def insert_stack(transaction: Transaction, stack: Stack, *, next_attempt_at: datetime | None) -> None:
    transaction.write(_FORGET_REMOVAL, {"whose": stack.user_id})
    values = {**values_of(stack), "next_attempt_at": next_attempt_at}
    transaction.write(_INSERT, {"claimed_name": stack.job_id, **values})
