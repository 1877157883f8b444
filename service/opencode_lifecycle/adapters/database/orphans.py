"""Orphans as rows: what the full comparisons found, and who is seeing to it."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, literal, select, update

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.columns import Instant
from opencode_lifecycle.adapters.database.stack_statements import AT_ONCE
from opencode_lifecycle.adapters.database.tables import orphans as rows_of_orphans
from opencode_lifecycle.adapters.database.tables import user_stacks
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.errors import ClaimLost, OrphanNotFound
from opencode_lifecycle.model.identifiers import OrphanId
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.stores import ClaimedOrphan

_columns: Final = rows_of_orphans.c
_INSERT: Final = insert(rows_of_orphans)
_UPDATE: Final = update(rows_of_orphans).where(_columns.id == bindparam("which"))
_DELETE: Final = delete(rows_of_orphans).where(_columns.id == bindparam("which"))
_ALL: Final = select(rows_of_orphans)
_GET: Final = select(rows_of_orphans).where(_columns.id == bindparam("which"))
_CLAIMED_OF_NAME: Final = (
    select(_columns.id)
    .where(
        _columns.job_id == bindparam("name"),
        _columns.claim_token.is_not(None),
        _columns.claim_lapses_at > bindparam("now"),
    )
    .limit(1)
)
_STACK_OF_NAME: Final = select(user_stacks.c.user_id).where(user_stacks.c.job_id == bindparam("name"))
_TAKE: Final = _UPDATE.values(claim_token=bindparam("token"), claim_lapses_at=bindparam("until"))
_HELD: Final = _columns.claim_token == bindparam("held_token")
_FORGET_HELD: Final = _DELETE.where(_HELD)
_RELEASE: Final = _UPDATE.where(_HELD).values(claim_token=None, claim_lapses_at=None)
_RELEASE_STACK: Final = (
    update(user_stacks)
    .where(user_stacks.c.job_id == bindparam("name"), user_stacks.c.claim_token == bindparam("held_token"))
    .values(claim_token=None, claim_lapses_at=None, next_attempt_at=literal(AT_ONCE, Instant()))
)


class OrphanRows(Store):
    async def put_orphans(
        self, orphans: Sequence[Orphan], *, earlier: Mapping[OrphanId, Orphan], now: datetime
    ) -> Sequence[Orphan]:
        found = {orphan.id: orphan for orphan in orphans}
        if found == earlier:
            return orphans

        def put(transaction: Transaction) -> Sequence[Orphan]:
            rows = transaction.read(_ALL)
            there = {row["id"]: _orphan_of(row) for row in rows}
            claimed = {row["id"] for row in rows if _is_claimed(row, now)}
            unmoved = [
                each
                for each in found.keys() | earlier.keys()
                if there.get(each) == earlier.get(each) and each not in claimed
            ]
            _write(transaction, there, {each: found.get(each) for each in unmoved})
            return [there[each] for each in found if each in there]

        return await self._write("put orphans", put)

    async def get_orphan(self, orphan_id: OrphanId) -> Orphan | None:
        rows = await self._read("get orphan", _GET, {"which": orphan_id})
        return _orphan_of(rows[0]) if rows else None

    async def find_orphans(self, *, after: OrphanId | None = None, limit: int | None = 500) -> Page[Orphan]:
        statement = select(rows_of_orphans).order_by(_columns.id)
        if limit is not None:
            statement = statement.limit(limit + 1)
        if after is not None:
            statement = statement.where(_columns.id > after)
        rows = await self._read("find orphans", statement)
        found = [_orphan_of(row) for row in rows[:limit]]
        more = limit is not None and len(rows) > limit
        return Page(items=found, next_cursor=found[-1].id if more else None)

    async def claim_orphan(self, orphan_id: OrphanId, *, now: datetime, lapses_at: datetime) -> ClaimedOrphan:
        def claim(transaction: Transaction) -> ClaimedOrphan | None:
            rows = transaction.read(_GET, {"which": orphan_id})
            if not rows:
                return None
            orphan = _orphan_of(rows[0])
            if transaction.read(_STACK_OF_NAME, {"name": orphan.find.job_id}):
                transaction.write(_DELETE, {"which": orphan_id})
                return None
            if transaction.read(_CLAIMED_OF_NAME, {"name": orphan.find.job_id, "now": now}):
                raise ClaimLost("Somebody is seeing to what bears that name at the moment.")
            token = secrets.token_urlsafe(16)
            transaction.write(_TAKE, {"which": orphan_id, "token": token, "until": lapses_at})
            return ClaimedOrphan(orphan=orphan, token=token)

        claimed = await self._write("claim orphan", claim)
        if claimed is None:
            raise OrphanNotFound
        return claimed

    async def release_orphan(self, claimed: ClaimedOrphan, *, gone: bool) -> None:
        def release(transaction: Transaction) -> None:
            held = {"which": claimed.orphan.id, "held_token": claimed.token}
            transaction.write(_FORGET_HELD if gone else _RELEASE, held)
            name = claimed.orphan.find.job_id
            transaction.write(_RELEASE_STACK, {"name": name, "held_token": claimed.token})

        await self._write("release orphan", release)


def _write(
    transaction: Transaction, there: dict[OrphanId, Orphan], wanted: Mapping[OrphanId, Orphan | None]
) -> None:
    """Make *there* as *wanted* where the two differ."""
    gone = [each for each, orphan in wanted.items() if orphan is None]
    put = [orphan for each, orphan in wanted.items() if orphan is not None and orphan != there.get(each)]
    new = [_values_of(orphan) for orphan in put if orphan.id not in there]
    changed = [{"which": orphan.id, **_values_of(orphan)} for orphan in put if orphan.id in there]
    if gone:
        transaction.write(_DELETE, [{"which": each} for each in gone])
    if changed:
        transaction.write(_UPDATE, changed)
    if new:
        transaction.write(_INSERT, new)
    there.update({orphan.id: orphan for orphan in put})
    for each in gone:
        del there[each]


def _is_claimed(row: Mapping[str, Any], now: datetime) -> bool:
    return row["claim_token"] is not None and row["claim_lapses_at"] > now


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
