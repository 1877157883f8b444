"""Service tokens as rows. Only the digest of a secret is ever among them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, insert, select, update

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.events import append_events
from opencode_lifecycle.adapters.database.tables import service_tokens
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.identifiers import TokenId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.principal import Role, ServiceToken
from opencode_lifecycle.model.view import Page

_INSERT: Final = insert(service_tokens)
_ACTIVE: Final = (
    select(service_tokens).where(service_tokens.c.revoked_at.is_(None)).order_by(service_tokens.c.id)
)
_GET: Final = select(service_tokens).where(service_tokens.c.id == bindparam("which"))
_REVOKE: Final = (
    update(service_tokens)
    .where(service_tokens.c.id == bindparam("which"), service_tokens.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("at"))
)


class TokenRows(Store):
    async def add_token(self, token: ServiceToken, event: Event | None = None) -> None:
        def add(transaction: Transaction) -> None:
            transaction.write(_INSERT, _values_of(token))
            append_events(transaction, [event] if event is not None else [])
            transaction.announces = True

        await self._write("add token", add)

    async def find_tokens(self, *, after: TokenId | None, limit: int) -> Page[ServiceToken]:
        statement = select(service_tokens).order_by(service_tokens.c.id).limit(limit + 1)
        if after is not None:
            statement = statement.where(service_tokens.c.id > after)
        rows = await self._read("find tokens", statement)
        found = [_token_of(row) for row in rows[:limit]]
        return Page(items=found, next_cursor=found[-1].id if len(rows) > limit else None)

    async def revoke_token(self, token_id: TokenId, at: datetime, event: Event | None = None) -> bool:
        def revoke(transaction: Transaction) -> bool:
            if not transaction.read(_GET, {"which": token_id}):
                return False
            revoked = transaction.write(_REVOKE, {"which": token_id, "at": at})
            append_events(transaction, [event] if event is not None and revoked else [])
            transaction.announces = True
            return True

        return await self._write("revoke token", revoke)

    async def active_tokens(self) -> Sequence[ServiceToken]:
        return [_token_of(row) for row in await self._read("read tokens", _ACTIVE)]


def _token_of(row: Mapping[str, Any]) -> ServiceToken:
    return ServiceToken(
        id=row["id"],
        name=row["name"],
        role=Role(row["role"]),
        subject=row["subject"],
        secret_hash=row["secret_hash"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        revoked_at=row["revoked_at"],
    )


def _values_of(token: ServiceToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role.value,
        "subject": token.subject,
        "secret_hash": token.secret_hash,
        "created_at": token.created_at,
        "created_by": token.created_by,
        "revoked_at": token.revoked_at,
    }
