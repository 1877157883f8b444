"""Who may call, and what was answered to a call that may be repeated."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from opencode_lifecycle.model.identifiers import (
    OperationId,
    TokenId,
)
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.principal import ServiceToken
from opencode_lifecycle.model.view import Page


class TokenStore(Protocol):
    async def add_token(self, token: ServiceToken, event: Event | None = None) -> None:
        """Add it, together with what is to be remembered of that."""
        ...

    async def find_tokens(self, *, after: TokenId | None, limit: int) -> Page[ServiceToken]: ...

    async def revoke_token(self, token_id: TokenId, at: datetime, event: Event | None = None) -> bool:
        """
        Return whether there was such a token. Revoking twice keeps the first time, and the event of the second is not
        written.
        """
        ...

    async def active_tokens(self) -> Sequence[ServiceToken]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotentAnswer:
    """What is kept of an answered request: enough to give the same answer, and no secret."""

    status: int
    location: str | None
    """The `Location` it had; without one, the id of what was made."""
    operation_id: OperationId | None


class IdempotencyStore(Protocol):
    async def begin(
        self, *, principal: str, route: str, key: str, request_hash: str, now: datetime, lapses_at: datetime
    ) -> IdempotentAnswer | None:
        """
        Reserve the key until *lapses_at*, or return the answer that was given to it.

        Raises `IdempotencyMismatch` for another request hash, `IdempotencyInFlight` while the first is being handled.
        """
        ...

    async def finish(
        self, *, principal: str, route: str, key: str, answer: IdempotentAnswer, lapses_at: datetime
    ) -> None:
        """Keep the answer of a reserved key until *lapses_at*."""
        ...

    async def abandon(self, *, principal: str, route: str, key: str) -> None:
        """Free a reserved key whose request failed, so that it may be tried again."""
        ...

    async def prune_keys(self, now: datetime) -> int: ...
