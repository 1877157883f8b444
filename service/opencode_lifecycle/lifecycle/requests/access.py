"""Service tokens: who may call. Secrets are random, shown once, and kept only as their SHA-256."""

import asyncio
import hashlib
import secrets

from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.errors import TokenNotFound
from opencode_lifecycle.model.identifiers import TokenId, UserId, new_event_id, new_token_id
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.principal import Principal, Role, ServiceToken
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.stores import TokenStore

TOKEN_PREFIX = "oclc_"  # noqa: S105 - lets secret scanners recognise a leaked token
"""256 random bits need no slow hash: there is nothing to guess."""


def new_token(
    name: str, role: Role, subject: UserId | None, *, by: str, now: Clock
) -> tuple[ServiceToken, str]:
    """Make a token and its secret."""
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = ServiceToken(
        id=new_token_id(),
        name=name,
        role=role,
        subject=subject,
        secret_hash=_hash(secret),
        created_at=now(),
        created_by=by,
    )
    return token, secret


class Access:
    """
    Answers from memory, looked up by hash, so that neither time nor an error tells how much of a secret was right.

    `refresh()` is called after every change of ours and at least every half second where others can write too, which
    keeps the promise that a revocation is in force within a second.
    """

    def __init__(self, *, tokens: TokenStore, now: Clock) -> None:
        self._tokens = tokens
        self._now = now
        self._principals: dict[str, Principal] = {}
        self._refreshing = asyncio.Lock()

    def authenticate(self, secret: str) -> Principal | None:
        """Return who holds *secret*, or None when nobody does any more."""
        return self._principals.get(_hash(secret))

    async def refresh(self) -> None:
        """Take in which tokens are valid now. One at a time: an older answer must not replace a newer one."""
        async with self._refreshing:
            active = await self._tokens.active_tokens()
            self._principals = {token.secret_hash: token.principal() for token in active}

    async def issue(
        self, name: str, role: Role, subject: UserId | None, *, by: Principal
    ) -> tuple[ServiceToken, str]:
        """Make and record a token. The secret is returned this once."""
        token, secret = new_token(name, role, subject, by=by.name, now=self._now)
        await self._tokens.add_token(token, self._event("token.issued", token.id, by))
        await self.refresh()
        return token, secret

    async def find(self, after: TokenId | None, limit: int) -> Page[ServiceToken]:
        return await self._tokens.find_tokens(after=after, limit=limit)

    async def revoke(self, token_id: TokenId, *, by: Principal) -> None:
        """Make the token invalid now. Raises `TokenNotFound` when there was never one of that id."""
        event = self._event("token.revoked", token_id, by)
        if not await self._tokens.revoke_token(token_id, self._now(), event):
            raise TokenNotFound(token_id=token_id)
        await self.refresh()

    def _event(self, kind: str, token_id: TokenId, by: Principal) -> Event:
        return Event(
            id=new_event_id(),
            user_id=UserId(""),
            kind=kind,
            actor=by.name,
            at=self._now(),
            generation=0,
            data={"token": token_id},
        )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
