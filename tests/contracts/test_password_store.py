"""What every password store promises. Runs against the fake and a real Vault."""

import asyncio
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest

from fakes.vault import FakeVault
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    SecretMissing,
    UpstreamError,
    VersionConflict,
)
from opencode_lifecycle.model.identifiers import JobId, UserId
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.ports.secrets import PasswordStore, SecretSeen


class Operator(Protocol):
    """What a Vault administrator may do behind our back."""

    async def put(self, job_id: JobId, data: Mapping[str, object]) -> int: ...

    async def put_metadata(self, job_id: JobId, custom: Mapping[str, str]) -> None: ...

    async def data(self, job_id: JobId, version: int) -> Mapping[str, object]: ...

    async def delete_latest(self, job_id: JobId) -> None: ...

    async def destroy_version(self, job_id: JobId, version: int) -> None: ...

    async def unwrap(self, token: Password) -> Mapping[str, str] | None:
        """None when the token opens nothing (any more)."""
        ...


class FakeOperator:
    def __init__(self, vault: FakeVault) -> None:
        self._vault = vault

    async def put(self, job_id: JobId, data: Mapping[str, object]) -> int:
        return self._vault.put(job_id, data)

    async def put_metadata(self, job_id: JobId, custom: Mapping[str, str]) -> None:
        self._vault.put_metadata(job_id, custom)

    async def data(self, job_id: JobId, version: int) -> Mapping[str, object]:
        return self._vault.stored(job_id, version)

    async def delete_latest(self, job_id: JobId) -> None:
        self._vault.delete_latest(job_id)

    async def destroy_version(self, job_id: JobId, version: int) -> None:
        self._vault.destroy_version(job_id, version)

    async def unwrap(self, token: Password) -> Mapping[str, str] | None:
        try:
            return self._vault.unwrap(token)
        except KeyError:
            return None


@pytest.fixture(params=["fake", pytest.param("vault", marks=pytest.mark.servers)])
def both(request) -> tuple[PasswordStore, Operator]:
    if request.param == "fake":
        fake = FakeVault()
        return fake, FakeOperator(fake)
    real = request.getfixturevalue("real_vault")
    return real.store, real


@pytest.fixture
def store(both) -> PasswordStore:
    return both[0]


@pytest.fixture
def operator(both) -> Operator:
    return both[1]


@pytest.fixture
def job_id() -> JobId:
    return JobId(f"oc-ada-{uuid.uuid4().hex[:20]}")


def soon() -> Deadline:
    return Deadline.after(10, "test")


async def test_the_first_ensure_makes_version_one_of_a_random_password(store, job_id):
    version = await store.ensure(job_id, soon())

    password = await store.read(job_id, version, soon())
    assert version == 1
    assert len(password.reveal()) == 43  # 256 bits in base64 without padding
    assert set(password.reveal()) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


async def test_a_new_item_has_an_empty_env_beside_its_password(store, operator, job_id):
    version = await store.ensure(job_id, soon())

    data = await operator.data(job_id, version)

    assert set(data) == {"password", "env"}
    assert data["env"] == {}


async def test_a_second_ensure_adopts_the_password_of_the_first(store, job_id):
    first = await store.ensure(job_id, soon())
    password = await store.read(job_id, first, soon())

    second = await store.ensure(job_id, soon())

    assert second == first
    assert await store.read(job_id, second, soon()) == password


async def test_many_ensures_at_once_make_one_version(store, job_id):
    versions = await asyncio.gather(*(store.ensure(job_id, soon()) for _ in range(20)))

    assert set(versions) == {1}
    assert await store.latest_version(job_id, soon()) == 1


async def test_two_stacks_have_different_passwords_even_if_their_names_begin_alike(store, job_id):
    longer = JobId(f"{job_id}x")
    await store.ensure(job_id, soon())

    assert await store.latest_version(longer, soon()) is None

    await store.ensure(longer, soon())
    assert await store.read(job_id, 1, soon()) != await store.read(longer, 1, soon())


async def test_there_is_no_latest_version_of_what_was_never_written(store, job_id):
    assert await store.latest_version(job_id, soon()) is None


async def test_the_latest_version_is_the_one_that_was_written_last(store, operator, job_id):
    await store.ensure(job_id, soon())
    await operator.put(job_id, {"password": "set-by-hand", "env": {}})

    assert await store.latest_version(job_id, soon()) == 2
    assert await store.read(job_id, 2, soon()) == Password("set-by-hand")


async def test_a_rotation_writes_a_new_password_and_keeps_what_stands_beside_it(store, operator, job_id):
    await operator.put(job_id, {"password": "old", "env": {"MODEL_KEY": "k"}, "note": "by ops"})

    version = await store.rotate(job_id, expected=1, deadline=soon())

    data = await operator.data(job_id, version)
    assert version == 2
    assert data["env"] == {"MODEL_KEY": "k"}
    assert data["note"] == "by ops"
    assert data["password"] != "old"
    assert len(str(data["password"])) == 43


async def test_the_version_before_a_rotation_can_still_be_read(store, job_id):
    await store.ensure(job_id, soon())
    before = await store.read(job_id, 1, soon())

    await store.rotate(job_id, expected=1, deadline=soon())

    assert await store.read(job_id, 1, soon()) == before
    assert await store.read(job_id, 2, soon()) != before


async def test_a_rotation_on_top_of_another_version_than_the_latest_writes_nothing(store, operator, job_id):
    await store.ensure(job_id, soon())
    await operator.put(job_id, {"password": "newer", "env": {}})

    with pytest.raises(VersionConflict):
        await store.rotate(job_id, expected=1, deadline=soon())

    assert await store.latest_version(job_id, soon()) == 2


async def test_a_rotation_on_top_of_an_older_version_is_a_conflict_even_if_that_one_is_gone(
    store, operator, job_id
):
    await store.ensure(job_id, soon())
    await operator.put(job_id, {"password": "newer", "env": {}})
    await operator.destroy_version(job_id, 1)

    with pytest.raises(VersionConflict):
        await store.rotate(job_id, expected=1, deadline=soon())


async def test_of_two_rotations_at_once_one_wins(store, job_id):
    await store.ensure(job_id, soon())

    outcomes = await asyncio.gather(
        *(store.rotate(job_id, expected=1, deadline=soon()) for _ in range(5)),
        return_exceptions=True,
    )

    assert outcomes.count(2) == 1
    assert sum(isinstance(outcome, VersionConflict) for outcome in outcomes) == 4


async def test_what_was_never_written_cannot_be_rotated(store, job_id):
    with pytest.raises(SecretMissing):
        await store.rotate(job_id, expected=1, deadline=soon())


async def test_a_version_that_was_never_written_cannot_be_read(store, job_id):
    with pytest.raises(SecretMissing):
        await store.read(job_id, 1, soon())

    await store.ensure(job_id, soon())
    with pytest.raises(SecretMissing):
        await store.read(job_id, 2, soon())


async def test_a_deleted_latest_version_reads_as_none_and_not_as_the_one_before(store, operator, job_id):
    await store.ensure(job_id, soon())
    await store.rotate(job_id, expected=1, deadline=soon())

    await operator.delete_latest(job_id)

    assert await store.latest_version(job_id, soon()) is None
    with pytest.raises(SecretMissing):
        await store.read(job_id, 2, soon())


async def test_ensure_replaces_a_deleted_latest_version_by_a_new_one(store, operator, job_id):
    await store.ensure(job_id, soon())
    before = await store.read(job_id, 1, soon())
    await operator.delete_latest(job_id)

    version = await store.ensure(job_id, soon())

    assert version == 2
    assert await store.latest_version(job_id, soon()) == 2
    assert await store.read(job_id, 2, soon()) != before


async def test_ensure_replaces_a_destroyed_latest_version_by_a_new_one(store, operator, job_id):
    await store.ensure(job_id, soon())
    await operator.destroy_version(job_id, 1)

    assert await store.latest_version(job_id, soon()) is None
    assert await store.ensure(job_id, soon()) == 2


async def test_a_deleted_latest_version_can_be_rotated(store, operator, job_id):
    await store.ensure(job_id, soon())
    await operator.delete_latest(job_id)

    assert await store.rotate(job_id, expected=1, deadline=soon()) == 2


@pytest.mark.parametrize("data", [{"env": {}}, {"password": ""}, {"password": 7}, {"password": ["a"]}])
async def test_an_item_without_a_usable_password_counts_as_missing(store, operator, job_id, data):
    version = await operator.put(job_id, data)

    with pytest.raises(SecretMissing):
        await store.read(job_id, version, soon())


async def test_a_wrapping_token_opens_once_to_username_and_password(store, operator, job_id):
    await store.ensure(job_id, soon())
    password = await store.read(job_id, 1, soon())

    wrapped = await store.wrap(job_id, 1, ttl_seconds=60, deadline=soon())

    assert wrapped.ttl_seconds == 60
    assert await operator.unwrap(wrapped.token) == {
        "username": "opencode",
        "password": password.reveal(),
    }
    assert await operator.unwrap(wrapped.token) is None


async def test_what_is_not_there_cannot_be_wrapped(store, job_id):
    with pytest.raises(SecretMissing):
        await store.wrap(job_id, 1, ttl_seconds=60, deadline=soon())


async def test_destroy_leaves_nothing_and_may_be_repeated(store, job_id):
    await store.ensure(job_id, soon())
    await store.rotate(job_id, expected=1, deadline=soon())

    await store.destroy(job_id, soon())
    await store.destroy(job_id, soon())

    assert await store.latest_version(job_id, soon()) is None
    with pytest.raises(SecretMissing):
        await store.read(job_id, 1, soon())


async def test_a_destroyed_stack_begins_again_at_version_one(store, job_id):
    await store.ensure(job_id, soon())
    before = await store.read(job_id, 1, soon())
    await store.destroy(job_id, soon())

    assert await store.ensure(job_id, soon()) == 1
    assert await store.read(job_id, 1, soon()) != before


async def mark(store: PasswordStore, job_id: JobId) -> None:
    await store.mark(job_id, installation="main", user_id=UserId("ada@x.org"), deadline=soon())


async def test_nothing_is_seen_of_a_secret_that_was_never_written(store, job_id):
    assert await store.look(job_id, soon()) is None


async def test_a_new_secret_does_not_say_whose_it_is(store, job_id):
    await store.ensure(job_id, soon())

    assert await store.look(job_id, soon()) == SecretSeen(version=1, installation=None, user_id=None)


async def test_a_marked_secret_says_whose_it_is_and_is_otherwise_as_before(store, job_id):
    await store.ensure(job_id, soon())
    before = await store.read(job_id, 1, soon())

    await mark(store, job_id)

    seen = await store.look(job_id, soon())
    assert seen == SecretSeen(version=1, installation="main", user_id=UserId("ada@x.org"))
    assert await store.read(job_id, 1, soon()) == before


async def test_a_secret_says_when_it_was_written_last(store, operator, job_id):
    before = datetime.now(UTC) - timedelta(seconds=1)
    await store.ensure(job_id, soon())
    made = (await store.look(job_id, soon())).written_at

    await operator.put(job_id, {"password": "by hand"})

    written = (await store.look(job_id, soon())).written_at
    assert before < made < written < datetime.now(UTC) + timedelta(seconds=1)


async def test_marking_may_be_repeated(store, job_id):
    await store.ensure(job_id, soon())
    await mark(store, job_id)

    await store.mark(job_id, installation="other", user_id=UserId("bob"), deadline=soon())

    assert await store.look(job_id, soon()) == SecretSeen(
        version=1, installation="other", user_id=UserId("bob")
    )


async def test_a_mark_outlives_rotations_and_writes_by_hand(store, operator, job_id):
    await store.ensure(job_id, soon())
    await mark(store, job_id)

    await store.rotate(job_id, expected=1, deadline=soon())
    await operator.put(job_id, {"password": "set-by-hand", "env": {}})

    assert await store.look(job_id, soon()) == SecretSeen(
        version=3, installation="main", user_id=UserId("ada@x.org")
    )


async def test_what_is_not_there_cannot_be_marked_and_is_not_made_by_it(store, job_id):
    with pytest.raises(SecretMissing):
        await mark(store, job_id)

    assert await store.look(job_id, soon()) is None


async def test_a_destroyed_secret_cannot_be_marked(store, job_id):
    await store.ensure(job_id, soon())
    await store.destroy(job_id, soon())

    with pytest.raises(SecretMissing):
        await mark(store, job_id)


@pytest.mark.parametrize("loss", ["deleted", "destroyed"])
async def test_a_secret_whose_latest_version_is_gone_still_says_whose_it_is(store, operator, job_id, loss):
    await store.ensure(job_id, soon())
    await mark(store, job_id)

    await (operator.delete_latest(job_id) if loss == "deleted" else operator.destroy_version(job_id, 1))

    assert await store.look(job_id, soon()) == SecretSeen(
        version=None, installation="main", user_id=UserId("ada@x.org")
    )


async def test_metadata_without_any_version_is_seen_for_what_it_is(store, operator, job_id):
    await operator.put_metadata(job_id, {"installation": "main", "user_id": "ada"})

    assert await store.look(job_id, soon()) == SecretSeen(
        version=None, installation="main", user_id=UserId("ada")
    )
    assert await store.latest_version(job_id, soon()) is None
    assert await store.ensure(job_id, soon()) == 1


async def test_every_secret_is_listed_until_it_is_destroyed(store, job_id):
    longer = JobId(f"{job_id}x")
    await store.ensure(job_id, soon())
    await store.ensure(longer, soon())
    assert {job_id, longer} <= set(await store.list_all(soon()))

    await store.destroy(job_id, soon())

    listed = await store.list_all(soon())
    assert job_id not in listed
    assert longer in listed


async def test_a_secret_is_listed_though_nothing_of_it_can_be_read(store, operator, job_id):
    await store.ensure(job_id, soon())
    await operator.destroy_version(job_id, 1)

    assert job_id in await store.list_all(soon())


async def test_a_secret_of_another_kind_of_name_is_not_listed(store, operator):
    stranger = JobId(f"stranger-{uuid.uuid4().hex}")
    await operator.put(stranger, {"password": "x"})

    assert stranger not in await store.list_all(soon())


async def test_ping_returns_when_all_is_well(store):
    await store.ping(soon())


async def test_a_call_whose_time_is_up_is_not_waited_for(store, job_id):
    with pytest.raises((DeadlineExceeded, UpstreamError)):
        await store.ensure(job_id, Deadline.after(0, "nothing"))
