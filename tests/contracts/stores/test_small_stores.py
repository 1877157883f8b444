"""Tokens, releases and idempotency keys."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from database_examples import LATER, NOW, RELEASE, a_release
from opencode_lifecycle.model.errors import IdempotencyInFlight, IdempotencyMismatch, ReleaseNotFound
from opencode_lifecycle.model.identifiers import EventId, OperationId, ReleaseId, TokenId, UserId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.principal import Role, ServiceToken
from opencode_lifecycle.ports.stores import IdempotentAnswer

KEY = {"principal": "tok_1", "route": "PUT /v1/stacks/{user_id}", "key": "k-1"}
ANSWER = IdempotentAnswer(status=202, location="/v1/operations/op_1", operation_id=OperationId("op_1"))


def a_token(name: str = "tok_1") -> ServiceToken:
    return ServiceToken(
        id=TokenId(name),
        name="the backend",
        role=Role.USER,
        subject=UserId("ada"),
        secret_hash=f"hash of {name}",
        created_at=NOW,
        created_by="cli",
    )


async def begin(database, *, now=NOW, request_hash="h", kept=timedelta(hours=24), **key):
    return await database.begin(**{**KEY, **key}, request_hash=request_hash, now=now, lapses_at=now + kept)


async def test_a_token_comes_back_as_it_was_stored(database):
    await database.add_token(a_token())

    assert (await database.find_tokens(after=None, limit=10)).items == [a_token()]
    assert await database.active_tokens() == [a_token()]


async def test_a_revoked_token_is_listed_but_not_active(database):
    await database.add_token(a_token())

    assert await database.revoke_token(TokenId("tok_1"), LATER)

    assert await database.active_tokens() == []
    [token] = (await database.find_tokens(after=None, limit=10)).items
    assert token == replace(a_token(), revoked_at=LATER)


async def test_revoking_twice_keeps_the_first_time(database):
    await database.add_token(a_token())
    await database.revoke_token(TokenId("tok_1"), NOW)

    assert await database.revoke_token(TokenId("tok_1"), LATER)

    [token] = (await database.find_tokens(after=None, limit=10)).items
    assert token.revoked_at == NOW


async def test_revoking_an_unknown_token_says_so(database):
    assert not await database.revoke_token(TokenId("tok_none"), NOW)


async def test_issuing_and_revoking_are_remembered_with_the_token_and_once(database):
    def event(number: int, kind: str) -> Event:
        return Event(
            id=EventId(f"evt_{number}"), user_id=UserId(""), kind=kind, actor="olga", at=NOW, generation=0
        )

    await database.add_token(a_token(), event(1, "token.issued"))
    await database.revoke_token(TokenId("tok_1"), LATER, event(2, "token.revoked"))
    await database.revoke_token(TokenId("tok_1"), LATER, event(3, "token.revoked"))

    page = await database.find_events(user_id=None, after=None, limit=10)
    assert [each.kind for each in page.items] == ["token.issued", "token.revoked"]


async def test_a_revocation_wakes_whoever_waits_for_changes(database):
    await database.add_token(a_token())
    waiting = asyncio.create_task(database.wait_for_change(20))
    await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await database.revoke_token(TokenId("tok_1"), NOW)
        await waiting


async def test_pages_of_tokens_go_on_after_the_last(database):
    for name in ["tok_c", "tok_a", "tok_B", "tok_b"]:
        await database.add_token(a_token(name))

    first = await database.find_tokens(after=None, limit=3)
    second = await database.find_tokens(after=first.next_cursor, limit=3)

    assert [token.id for token in first.items] == ["tok_B", "tok_a", "tok_b"]
    assert [token.id for token in second.items] == ["tok_c"]
    assert second.next_cursor is None


async def test_releases_are_numbered_as_they_come(database):
    second = await database.add_release(a_release("rel_two"))
    third = await database.add_release(a_release("rel_three"))

    assert (second.number, third.number) == (2, 3)
    assert (
        await database.get_release(ReleaseId("rel_two")) == second == replace(a_release("rel_two"), number=2)
    )


async def test_a_release_that_exists_is_returned_as_it_is(database):
    first = await database.get_release(RELEASE)

    assert await database.add_release(replace(a_release(), image="another")) == first
    assert await database.get_release(RELEASE) == first


async def test_the_same_release_added_at_once_is_added_once(database):
    added = await asyncio.gather(*(database.add_release(a_release("rel_two")) for _ in range(20)))

    assert {release.number for release in added} == {2}


async def test_new_stacks_want_the_release_in_use(database):
    await database.add_release(a_release("rel_two"))
    assert (await database.current_release()).id == RELEASE

    await database.use_release(ReleaseId("rel_two"))

    assert (await database.current_release()).id == "rel_two"


async def test_an_unknown_release_cannot_be_used_and_is_none(database):
    with pytest.raises(ReleaseNotFound):
        await database.use_release(ReleaseId("rel_none"))

    assert await database.get_release(ReleaseId("rel_none")) is None
    assert (await database.current_release()).id == RELEASE


async def test_the_first_request_with_a_key_is_handled(database):
    assert await begin(database) is None


async def test_a_repeated_request_gets_the_answer_of_the_first(database):
    await begin(database)
    await database.finish(**KEY, answer=ANSWER, lapses_at=NOW + timedelta(hours=24))

    assert await begin(database) == ANSWER


async def test_an_answer_may_have_no_location(database):
    bare = IdempotentAnswer(status=200, location=None, operation_id=None)
    await begin(database)
    await database.finish(**KEY, answer=bare, lapses_at=NOW + timedelta(hours=24))

    assert await begin(database) == bare


async def test_a_key_in_flight_is_refused(database):
    await begin(database)

    with pytest.raises(IdempotencyInFlight):
        await begin(database)


async def test_of_many_at_once_one_is_handled(database):
    answers = await asyncio.gather(*(begin(database) for _ in range(50)), return_exceptions=True)

    assert answers.count(None) == 1
    assert sum(isinstance(answer, IdempotencyInFlight) for answer in answers) == 49


@pytest.mark.parametrize("answered", [True, False])
async def test_a_key_used_for_another_request_is_a_mismatch(database, answered):
    await begin(database)
    if answered:
        await database.finish(**KEY, answer=ANSWER, lapses_at=NOW + timedelta(hours=24))

    with pytest.raises(IdempotencyMismatch):
        await begin(database, request_hash="other")


@pytest.mark.parametrize("other", [{"principal": "tok_2"}, {"route": "POST /v1/tokens"}, {"key": "K-1"}])
async def test_keys_are_apart_by_principal_route_and_case(database, other):
    await begin(database)

    assert await begin(database, **other) is None


async def test_a_lapsed_key_may_be_used_for_anything(database):
    await begin(database)
    await database.finish(**KEY, answer=ANSWER, lapses_at=NOW + timedelta(hours=24))
    day_after = NOW + timedelta(hours=24)

    assert await begin(database, now=day_after, request_hash="other") is None
    with pytest.raises(IdempotencyInFlight):
        await begin(database, now=day_after, request_hash="other")


async def test_an_abandoned_key_may_be_tried_again(database):
    await begin(database)
    await database.abandon(**KEY)

    assert await begin(database, request_hash="other") is None


async def test_an_answer_that_was_given_is_not_abandoned(database):
    await begin(database)
    await database.finish(**KEY, answer=ANSWER, lapses_at=NOW + timedelta(hours=24))

    await database.abandon(**KEY)

    assert await begin(database) == ANSWER


async def test_only_lapsed_keys_are_pruned(database):
    await begin(database, key="old")
    await begin(database, now=LATER)

    assert await database.prune_keys(NOW + timedelta(hours=24)) == 1

    assert await begin(database, now=LATER, key="old") is None
    with pytest.raises(IdempotencyInFlight):
        await begin(database, now=LATER)


async def test_a_key_whose_request_died_is_free_once_its_reservation_has_lapsed(database):
    await begin(database)

    assert await begin(database, now=NOW + timedelta(hours=24)) is None


async def test_an_answer_is_kept_longer_than_its_reservation(database):
    await begin(database, kept=timedelta(minutes=2))
    await database.finish(**KEY, answer=ANSWER, lapses_at=NOW + timedelta(hours=24))

    assert await begin(database, now=NOW + timedelta(hours=23)) == ANSWER
