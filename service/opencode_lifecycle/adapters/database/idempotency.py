"""Idempotency keys as rows."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import and_, bindparam, delete, insert, select, update

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.tables import idempotency_keys
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.errors import IdempotencyInFlight, IdempotencyMismatch
from opencode_lifecycle.ports.stores import IdempotentAnswer

_THIS: Final = and_(
    idempotency_keys.c.principal == bindparam("of_principal"),
    idempotency_keys.c.route == bindparam("of_route"),
    idempotency_keys.c.key == bindparam("of_key"),
)
_GET: Final = select(idempotency_keys).where(_THIS)
_INSERT: Final = insert(idempotency_keys)
_UPDATE: Final = update(idempotency_keys).where(_THIS)
_FREE: Final = delete(idempotency_keys).where(_THIS)
_FREE_UNANSWERED: Final = delete(idempotency_keys).where(_THIS, idempotency_keys.c.status.is_(None))
_PRUNE: Final = delete(idempotency_keys).where(idempotency_keys.c.lapses_at <= bindparam("now"))


class IdempotencyRows(Store):
    async def begin(
        self, *, principal: str, route: str, key: str, request_hash: str, now: datetime, lapses_at: datetime
    ) -> IdempotentAnswer | None:
        this = _this(principal, route, key)

        def reserve(transaction: Transaction) -> IdempotentAnswer | None:
            rows = transaction.read(_GET, this)
            if rows and rows[0]["lapses_at"] > now:
                return _answer_given(rows[0], request_hash)
            if rows:
                transaction.write(_FREE, this)
            transaction.write(
                _INSERT,
                {
                    "principal": principal,
                    "route": route,
                    "key": key,
                    "request_hash": request_hash,
                    "lapses_at": lapses_at,
                },
            )
            return None

        return await self._write("reserve an idempotency key", reserve)

    async def finish(
        self, *, principal: str, route: str, key: str, answer: IdempotentAnswer, lapses_at: datetime
    ) -> None:
        values = {
            **_this(principal, route, key),
            "status": answer.status,
            "location": answer.location,
            "operation_id": answer.operation_id,
            "lapses_at": lapses_at,
        }
        await self._write("keep an idempotent answer", lambda transaction: transaction.write(_UPDATE, values))

    async def abandon(self, *, principal: str, route: str, key: str) -> None:
        this = _this(principal, route, key)
        await self._write(
            "free an idempotency key", lambda transaction: transaction.write(_FREE_UNANSWERED, this)
        )

    async def prune_keys(self, now: datetime) -> int:
        return await self._write(
            "prune idempotency keys", lambda transaction: transaction.write(_PRUNE, {"now": now})
        )


def _this(principal: str, route: str, key: str) -> dict[str, Any]:
    return {"of_principal": principal, "of_route": route, "of_key": key}


def _answer_given(row: Mapping[str, Any], request_hash: str) -> IdempotentAnswer:
    if row["request_hash"] != request_hash:
        raise IdempotencyMismatch
    if row["status"] is None:
        raise IdempotencyInFlight
    return IdempotentAnswer(status=row["status"], location=row["location"], operation_id=row["operation_id"])
