"""Events as rows, numbered in the order they were committed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, insert, select

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.tables import events as rows_of_events
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.view import Page

_INSERT: Final = insert(rows_of_events)
_EARLIER: Final = rows_of_events.alias("earlier")
_SEQ_OF_AFTER: Final = func.coalesce(
    select(_EARLIER.c.seq).where(_EARLIER.c.id == bindparam("after")).scalar_subquery(),
    # Ids begin with the time, so of an id that is not kept any more the nearest earlier one stands in.
    select(func.max(_EARLIER.c.seq)).where(_EARLIER.c.id < bindparam("after")).scalar_subquery(),
    0,
)
_LATEST: Final = (
    select(rows_of_events)
    .where(rows_of_events.c.user_id == bindparam("whose"), rows_of_events.c.kind == bindparam("of"))
    .order_by(rows_of_events.c.seq.desc())
    .limit(bindparam("most"))
)
_PRUNED_AT_ONCE: Final = 1000
"""So that nobody waits for long while a table of years is cut short."""
_OLD: Final = (
    select(_EARLIER.c.seq)
    .where(_EARLIER.c.at < bindparam("before"))
    .order_by(_EARLIER.c.at)
    .limit(bindparam("at_most"))
    .scalar_subquery()
)
_PRUNE: Final = delete(rows_of_events).where(rows_of_events.c.seq.in_(_OLD))


class EventRows(Store):
    async def append(self, events: Sequence[Event]) -> None:
        await self._write("append events", lambda transaction: append_events(transaction, events))

    async def find_events(self, *, user_id: UserId | None, after: str | None, limit: int) -> Page[Event]:
        statement = select(rows_of_events).order_by(rows_of_events.c.seq).limit(limit + 1)
        values: dict[str, Any] = {}
        if user_id is not None:
            statement = statement.where(rows_of_events.c.user_id == user_id)
        if after is not None:
            statement = statement.where(rows_of_events.c.seq > _SEQ_OF_AFTER)
            values["after"] = after
        rows = await self._read("find events", statement, values)
        found = [_event_of(row) for row in rows[:limit]]
        return Page(items=found, next_cursor=found[-1].id if len(rows) > limit else None)

    async def latest_events(self, user_id: UserId, kind: str, *, limit: int) -> Sequence[Event]:
        rows = await self._read(
            "find the latest events", _LATEST, {"whose": user_id, "of": kind, "most": limit}
        )
        return [_event_of(row) for row in rows]

    async def prune_events(self, before: datetime) -> int:
        def prune(transaction: Transaction) -> int:
            return transaction.write(_PRUNE, {"before": before, "at_most": _PRUNED_AT_ONCE})

        pruned, gone = 0, _PRUNED_AT_ONCE
        while gone == _PRUNED_AT_ONCE:
            gone = await self._write("prune events", prune)
            pruned += gone
        return pruned


def append_events(transaction: Transaction, events: Sequence[Event]) -> None:
    if events:
        transaction.write(_INSERT, [_values_of(event, transaction.next_event()) for event in events])


def _event_of(row: Mapping[str, Any]) -> Event:
    return Event(
        id=row["id"],
        user_id=row["user_id"],
        kind=row["kind"],
        actor=row["actor"],
        at=row["at"],
        generation=row["generation"],
        data=row["data"],
    )


def _values_of(event: Event, seq: int) -> dict[str, Any]:
    return {
        "seq": seq,
        "id": event.id,
        "user_id": event.user_id,
        "kind": event.kind,
        "actor": event.actor,
        "at": event.at,
        "generation": event.generation,
        "data": dict(event.data),
    }
