"""Operations as rows."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select, update

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.tables import operations, removed_stacks, user_stacks
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.identifiers import OperationId, UserId
from opencode_lifecycle.model.operation import Operation, OperationKind, OperationState, PhaseEntered
from opencode_lifecycle.model.states import Phase, Reason
from opencode_lifecycle.ports.stores import OperationOutcome

_GET: Final = select(operations).where(operations.c.id == bindparam("which"))
_INSERT: Final = insert(operations)
_UPDATE: Final = update(operations).where(operations.c.id == bindparam("which"))
_SUPERSEDE: Final = (
    update(operations)
    .where(operations.c.user_id == bindparam("whose"), operations.c.finished_at.is_(None))
    .values(state=OperationState.SUPERSEDED.value, finished_at=bindparam("at"))
)
_UNFINISHED: Final = select(operations).where(
    operations.c.user_id == bindparam("whose"), operations.c.finished_at.is_(None)
)
_PRUNE: Final = delete(operations).where(
    operations.c.finished_at < bindparam("before"),
    ~select(user_stacks.c.user_id)
    .where(user_stacks.c.user_id == operations.c.user_id, user_stacks.c.last_operation == operations.c.id)
    .exists(),
)

_PRUNE_REMOVALS: Final = delete(removed_stacks).where(removed_stacks.c.removed_at < bindparam("before"))


class OperationRows(Store):
    async def get_operation(self, operation_id: OperationId) -> Operation | None:
        rows = await self._read("get operation", _GET, {"which": operation_id})
        return operation_of(rows[0]) if rows else None

    async def prune_operations(self, finished_before: datetime) -> int:
        """
        Forget what was finished before that, but never the last operation of a stack, which is shown with it.

        That stacks were removed is forgotten at the same age; whoever follows the changes has heard of it long since.
        """

        def prune(transaction: Transaction) -> int:
            transaction.write(_PRUNE_REMOVALS, {"before": finished_before})
            return transaction.write(_PRUNE, {"before": finished_before})

        return await self._write("prune operations", prune)


def operation_of(row: Mapping[str, Any]) -> Operation:
    return Operation(
        id=row["id"],
        kind=OperationKind(row["kind"]),
        user_id=row["user_id"],
        generation=row["generation"],
        state=OperationState(row["state"]),
        phases=tuple(
            PhaseEntered(phase=Phase(entered["phase"]), at=datetime.fromisoformat(entered["at"]))
            for entered in row["phases"]
        ),
        reason=None if row["reason"] is None else Reason(row["reason"]),
        message=row["message"],
        receipt=row["receipt"],
        principal=row["principal"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )


def _values_of(operation: Operation) -> dict[str, Any]:
    return {
        "id": operation.id,
        "kind": operation.kind.value,
        "user_id": operation.user_id,
        "generation": operation.generation,
        "state": operation.state.value,
        "phases": [
            {"phase": entered.phase.value, "at": entered.at.isoformat()} for entered in operation.phases
        ],
        "reason": None if operation.reason is None else operation.reason.value,
        "message": operation.message,
        "receipt": None if operation.receipt is None else dict(operation.receipt),
        "principal": operation.principal,
        "created_at": operation.created_at,
        "finished_at": operation.finished_at,
    }


def insert_operation(transaction: Transaction, operation: Operation) -> None:
    transaction.write(_INSERT, _values_of(operation))


def supersede_unfinished(transaction: Transaction, user_id: UserId, at: datetime) -> None:
    transaction.write(_SUPERSEDE, {"whose": user_id, "at": at})


def unfinished_operations(transaction: Transaction, user_id: UserId) -> list[Operation]:
    return [operation_of(row) for row in transaction.read(_UNFINISHED, {"whose": user_id})]


def write_progress(
    transaction: Transaction,
    operation: Operation,
    *,
    entered: PhaseEntered | None,
    outcome: OperationOutcome | None,
) -> None:
    """Append the phase, which shows that somebody works on it, and finish it when there is an outcome."""
    if entered is not None:
        operation = replace(operation, state=OperationState.RUNNING, phases=(*operation.phases, entered))
    if outcome is not None:
        operation = replace(
            operation,
            state=outcome.state,
            reason=outcome.reason,
            message=outcome.message,
            receipt=outcome.receipt,
            finished_at=transaction.now(),
        )
    transaction.write(_UPDATE, {"which": operation.id, **_values_of(operation)})
