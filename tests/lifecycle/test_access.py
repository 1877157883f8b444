"""Tokens: who is let in, and until when."""

from datetime import UTC, datetime

import pytest

from opencode_lifecycle.lifecycle.requests.access import Access
from opencode_lifecycle.model.errors import TokenNotFound
from opencode_lifecycle.model.identifiers import TokenId, UserId
from opencode_lifecycle.model.principal import Role
from world import OPERATOR, World


@pytest.fixture
def now():
    return lambda: datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_token_lets_its_holder_in_until_it_is_revoked(world: World):
    access = world.plane.access
    token, secret = await access.issue("ada's", Role.USER, UserId("ada"), by=OPERATOR)

    principal = access.authenticate(secret)
    assert principal is not None
    assert (principal.role, principal.subject) == (Role.USER, "ada")
    await access.revoke(token.id, by=OPERATOR)
    assert access.authenticate(secret) is None


async def test_a_secret_is_stored_nowhere(world: World):
    _, secret = await world.plane.access.issue("backend", Role.BACKEND, None, by=OPERATOR)

    stored = b"".join(path.read_bytes() for path in world.path.glob("world.db*"))
    assert secret.encode() not in stored
    assert secret.removeprefix("oclc_").encode() not in stored


@pytest.mark.parametrize("secret", ["", "oclc_", "\ud800", "x" * 100_000])
async def test_b11_what_is_no_secret_lets_nobody_in(world: World, secret: str):
    assert world.plane.access.authenticate(secret) is None


async def test_a_revocation_by_another_replica_is_seen_at_the_next_refresh(world: World, now):
    token, secret = await world.plane.access.issue("backend", Role.BACKEND, None, by=OPERATOR)
    other = Access(tokens=world.store, now=now)
    await other.refresh()
    await world.plane.access.revoke(token.id, by=OPERATOR)

    assert other.authenticate(secret) is not None
    await other.refresh()
    assert other.authenticate(secret) is None


async def test_a_token_that_never_was_cannot_be_revoked(world: World):
    with pytest.raises(TokenNotFound):
        await world.plane.access.revoke(TokenId("tok_01"), by=OPERATOR)
