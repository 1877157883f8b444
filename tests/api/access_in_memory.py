"""Who may call and what was asked before, in memory, and the clocks that both go by."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from api.in_memory import NOW
from opencode_lifecycle.model.errors import IdempotencyInFlight, IdempotencyMismatch, TokenNotFound
from opencode_lifecycle.model.identifiers import TokenId, UserId, new_token_id
from opencode_lifecycle.model.principal import Principal, Role, ServiceToken
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.stores import IdempotentAnswer


class MemoryAccess:
    """Tokens by the hash of their secret."""

    def __init__(self) -> None:
        self.tokens: dict[str, ServiceToken] = {}

    def given(self, secret: str, role: Role, subject: str | None = None, name: str = "") -> str:
        token = ServiceToken(
            id=new_token_id(),
            name=name or f"the-{role}",
            role=role,
            subject=UserId(subject) if subject is not None else None,
            secret_hash=hashlib.sha256(secret.encode()).hexdigest(),
            created_at=NOW,
            created_by="tests",
        )
        self.tokens[token.secret_hash] = token
        return secret

    def authenticate(self, secret: str) -> Principal | None:
        token = self.tokens.get(hashlib.sha256(secret.encode()).hexdigest())
        return token.principal() if token is not None and token.revoked_at is None else None

    async def issue(
        self, name: str, role: Role, subject: UserId | None, *, by: Principal
    ) -> tuple[ServiceToken, str]:
        secret = self.given(f"secret-of-{name}-{len(self.tokens)}", role, subject, name)
        return self.tokens[hashlib.sha256(secret.encode()).hexdigest()], secret

    async def find(self, after: TokenId | None, limit: int) -> Page[ServiceToken]:
        known = sorted(self.tokens.values(), key=lambda token: token.id)
        left = [token for token in known if after is None or token.id > after]
        return Page(items=left[:limit], next_cursor=left[limit - 1].id if len(left) > limit else None)

    async def revoke(self, token_id: TokenId, *, by: Principal) -> None:
        for hash_, token in self.tokens.items():
            if token.id == token_id:
                self.tokens[hash_] = replace(token, revoked_at=NOW)
                return
        raise TokenNotFound


@dataclass
class MemoryIdempotency:
    now: Callable[[], datetime]
    kept: dict[tuple[str, str, str], tuple[str, datetime, IdempotentAnswer | None]] = field(
        default_factory=dict
    )

    async def begin(
        self, *, principal: str, route: str, key: str, request_hash: str, now: datetime, lapses_at: datetime
    ) -> IdempotentAnswer | None:
        known = self.kept.get((principal, route, key))
        if known is None or known[1] <= now:
            self.kept[principal, route, key] = (request_hash, lapses_at, None)
            return None
        if known[0] != request_hash:
            raise IdempotencyMismatch
        if known[2] is None:
            raise IdempotencyInFlight
        return known[2]

    async def finish(
        self, *, principal: str, route: str, key: str, answer: IdempotentAnswer, lapses_at: datetime
    ) -> None:
        request_hash, _, _ = self.kept[principal, route, key]
        self.kept[principal, route, key] = (request_hash, lapses_at, answer)

    async def abandon(self, *, principal: str, route: str, key: str) -> None:
        self.kept.pop((principal, route, key), None)

    async def prune_keys(self, now: datetime) -> int:
        lapsed = [key for key, kept in self.kept.items() if kept[1] <= now]
        for key in lapsed:
            del self.kept[key]
        return len(lapsed)


@dataclass
class Clocks:
    """Wall and monotonic time that stand still until they are moved."""

    wall: datetime = NOW
    seconds: float = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def pass_by(self, span: timedelta) -> None:
        self.wall += span
        self.seconds += span.total_seconds()
