"""Orphans as rows: what the last full comparison found."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.tables import orphans as rows_of_orphans
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.identifiers import OrphanId
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind
from opencode_lifecycle.model.view import Page

_INSERT: Final = insert(rows_of_orphans)
_DELETE: Final = delete(rows_of_orphans).where(rows_of_orphans.c.id == bindparam("which"))
_DELETE_ALL: Final = delete(rows_of_orphans)
_GET: Final = select(rows_of_orphans).where(rows_of_orphans.c.id == bindparam("which"))
_ANY: Final = select(rows_of_orphans.c.id).limit(1)


class OrphanRows(Store):
    async def put_orphans(self, orphans: Sequence[Orphan]) -> None:
        if not orphans and not await self._read("look for orphans", _ANY):
            return

        def put(transaction: Transaction) -> None:
            transaction.write(_DELETE_ALL)
            if orphans:
                transaction.write(_INSERT, [_values_of(orphan) for orphan in orphans])

        await self._write("put orphans", put)

    async def get_orphan(self, orphan_id: OrphanId) -> Orphan | None:
        rows = await self._read("get orphan", _GET, {"which": orphan_id})
        return _orphan_of(rows[0]) if rows else None

    async def find_orphans(self, *, after: OrphanId | None = None, limit: int | None = 500) -> Page[Orphan]:
        statement = select(rows_of_orphans).order_by(rows_of_orphans.c.id)
        if limit is not None:
            statement = statement.limit(limit + 1)
        if after is not None:
            statement = statement.where(rows_of_orphans.c.id > after)
        rows = await self._read("find orphans", statement)
        found = [_orphan_of(row) for row in rows[:limit]]
        more = limit is not None and len(rows) > limit
        return Page(items=found, next_cursor=found[-1].id if more else None)

    async def remove_orphan(self, orphan_id: OrphanId) -> None:
        await self._write(
            "remove orphan", lambda transaction: transaction.write(_DELETE, {"which": orphan_id})
        )


def _orphan_of(row: Mapping[str, Any]) -> Orphan:
    return Orphan(
        find=Find(
            kind=OrphanKind(row["kind"]),
            job_id=row["job_id"],
            reference=row["reference"],
            installation=row["installation"],
            user_id=row["user_id"],
            details=row["details"],
        ),
        proven=row["proven"],
        first_seen_at=row["first_seen_at"],
        last_seen_at=row["last_seen_at"],
        confirmations=row["confirmations"],
    )


def _values_of(orphan: Orphan) -> dict[str, Any]:
    find = orphan.find
    return {
        "id": orphan.id,
        "kind": find.kind.value,
        "job_id": find.job_id,
        "reference": find.reference,
        "installation": find.installation,
        "user_id": find.user_id,
        "details": dict(find.details),
        "proven": orphan.proven,
        "first_seen_at": orphan.first_seen_at,
        "last_seen_at": orphan.last_seen_at,
        "confirmations": orphan.confirmations,
    }
