"""Tokens and idempotency keys in memory: what `FakeStore` keeps of them. It passes the contract suite of the real store."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from fakes.store_rows import page_of
from opencode_lifecycle.model.errors import IdempotencyInFlight, IdempotencyMismatch
from opencode_lifecycle.model.identifiers import TokenId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.principal import ServiceToken
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.stores import IdempotentAnswer


@dataclass(slots=True)
class _Key:
    request_hash: str
    lapses_at: datetime
    answer: IdempotentAnswer | None = None


class FakeAccess:
    """The part of a store in memory that is about callers."""

    events: list[Event]
    _call: Callable[[str], contextlib.AbstractAsyncContextManager[None]]
    _announce: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self._tokens: dict[TokenId, ServiceToken] = {}
        self._keys: dict[tuple[str, str, str], _Key] = {}

    async def add_token(self, token: ServiceToken, event: Event | None = None) -> None:
        async with self._call("add_token"):
            self._tokens[token.id] = token
            self.events += [event] if event is not None else []
            self._announce()

    async def find_tokens(self, *, after: TokenId | None, limit: int) -> Page[ServiceToken]:
        async with self._call("find_tokens"):
            matching = [each for _, each in sorted(self._tokens.items()) if after is None or each.id > after]
        return page_of(matching, limit)

    async def revoke_token(self, token_id: TokenId, at: datetime, event: Event | None = None) -> bool:
        async with self._call("revoke_token"):
            token = self._tokens.get(token_id)
            if token is None:
                return False
            if token.revoked_at is None:
                self._tokens[token_id] = replace(token, revoked_at=at)
                self.events += [event] if event is not None else []
            self._announce()
            return True

    async def active_tokens(self) -> Sequence[ServiceToken]:
        async with self._call("active_tokens"):
            return [token for _, token in sorted(self._tokens.items()) if token.revoked_at is None]

    async def begin(
        self, *, principal: str, route: str, key: str, request_hash: str, now: datetime, lapses_at: datetime
    ) -> IdempotentAnswer | None:
        async with self._call("begin"):
            known = self._keys.get((principal, route, key))
            if known is not None and known.lapses_at > now:
                if known.request_hash != request_hash:
                    raise IdempotencyMismatch
                if known.answer is None:
                    raise IdempotencyInFlight
                return known.answer
            self._keys[principal, route, key] = _Key(request_hash, lapses_at)
            return None

    async def finish(
        self, *, principal: str, route: str, key: str, answer: IdempotentAnswer, lapses_at: datetime
    ) -> None:
        async with self._call("finish"):
            known = self._keys.get((principal, route, key))
            if known is not None:
                known.answer, known.lapses_at = answer, lapses_at

    async def abandon(self, *, principal: str, route: str, key: str) -> None:
        async with self._call("abandon"):
            known = self._keys.get((principal, route, key))
            if known is not None and known.answer is None:
                del self._keys[principal, route, key]

    async def prune_keys(self, now: datetime) -> int:
        async with self._call("prune_keys"):
            gone = [this for this, key in self._keys.items() if key.lapses_at <= now]
            for this in gone:
                del self._keys[this]
            return len(gone)
