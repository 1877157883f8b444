"""Standing conditions as rows, and the marks by which clusters are known."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.events import append_events
from opencode_lifecycle.adapters.database.tables import conditions, installations
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.identifiers import ConditionId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.view import Page

_INSERT: Final = insert(conditions)
_DELETE: Final = delete(conditions).where(conditions.c.id == bindparam("which"))
_GET: Final = select(conditions).where(conditions.c.id == bindparam("which"))
_PRUNE: Final = delete(conditions).where(conditions.c.cleared_at < bindparam("before"))
_MARK: Final = select(installations.c.cluster_mark).where(installations.c.name == bindparam("which"))
_FORGET_MARK: Final = delete(installations).where(installations.c.name == bindparam("which"))
_PUT_MARK: Final = insert(installations)


class ConditionRows(Store):
    async def put_condition(self, condition: Condition, event: Event | None = None) -> None:
        def put(transaction: Transaction) -> None:
            transaction.write(_DELETE, {"which": condition.id})
            transaction.write(_INSERT, _values_of(condition))
            append_events(transaction, [event] if event is not None else [])

        await self._write("put condition", put)

    async def change_condition(
        self,
        condition_id: ConditionId,
        change: Callable[[Condition], Condition],
        event: Event | None = None,
    ) -> Condition | None:
        def put(transaction: Transaction) -> Condition | None:
            rows = transaction.read(_GET, {"which": condition_id})
            if not rows:
                return None
            there = _condition_of(rows[0])
            changed = change(there)
            if changed == there:
                return there
            transaction.write(_DELETE, {"which": condition_id})
            transaction.write(_INSERT, _values_of(changed))
            append_events(transaction, [event] if event is not None else [])
            return changed

        return await self._write("change condition", put)

    async def get_condition(self, condition_id: ConditionId) -> Condition | None:
        rows = await self._read("get condition", _GET, {"which": condition_id})
        return _condition_of(rows[0]) if rows else None

    async def find_conditions(
        self, *, standing: bool, after: ConditionId | None = None, limit: int = 500
    ) -> Page[Condition]:
        statement = select(conditions).order_by(conditions.c.id).limit(limit + 1)
        if standing:
            statement = statement.where(conditions.c.cleared_at.is_(None))
        if after is not None:
            statement = statement.where(conditions.c.id > after)
        rows = await self._read("find conditions", statement)
        found = [_condition_of(row) for row in rows[:limit]]
        return Page(items=found, next_cursor=found[-1].id if len(rows) > limit else None)

    async def prune_conditions(self, cleared_before: datetime) -> int:
        return await self._write(
            "prune conditions", lambda transaction: transaction.write(_PRUNE, {"before": cleared_before})
        )

    async def cluster_mark(self, installation: str) -> str | None:
        rows = await self._read("read the mark of the cluster", _MARK, {"which": installation})
        return rows[0]["cluster_mark"] if rows else None

    async def put_cluster_mark(self, installation: str, mark: str) -> None:
        def put(transaction: Transaction) -> None:
            transaction.write(_FORGET_MARK, {"which": installation})
            transaction.write(_PUT_MARK, {"name": installation, "cluster_mark": mark})

        await self._write("put the mark of the cluster", put)


def _condition_of(row: Mapping[str, Any]) -> Condition:
    return Condition(**{**row, "kind": ConditionKind(row["kind"])})


def _values_of(condition: Condition) -> dict[str, Any]:
    return {
        "id": condition.id,
        "kind": condition.kind.value,
        "message": condition.message,
        "details": dict(condition.details),
        "since": condition.since,
        "confirmed_at": condition.confirmed_at,
        "confirmed_by": condition.confirmed_by,
        "cleared_at": condition.cleared_at,
        "reported_by": condition.reported_by,
        "reported_until": condition.reported_until,
        "confirmed_extent": condition.confirmed_extent,
    }
