"""Whose secrets and pointers without a row are: each is asked in its turn, and none is spoken of before."""

from datetime import timedelta

import pytest

from fakes.nomad_storage import FakeLiveFiles
from fakes.vault import FakeVault
from opencode_lifecycle.lifecycle.orphans import owners as orphan_owners
from opencode_lifecycle.lifecycle.orphans.judgement import OrphanLimits, orphans_among
from opencode_lifecycle.lifecycle.orphans.owners import Owners
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.identifiers import JobId, UserId, job_id_of
from opencode_lifecycle.model.orphan import Find, OrphanKind
from opencode_lifecycle.ports.orchestrator import Owner
from world import World

EVE = UserId("eve")
EVES_JOB = job_id_of("main", EVE)
ASKED = 4


@pytest.fixture(autouse=True)
def few(monkeypatch) -> None:
    """Let a comparison ask few enough that a test can count them."""
    monkeypatch.setattr(orphan_owners, "ASKED", ASKED)


@pytest.fixture
def vault() -> FakeVault:
    return FakeVault()


@pytest.fixture
def live_files() -> FakeLiveFiles:
    return FakeLiveFiles()


@pytest.fixture
def owners(vault, live_files) -> Owners:
    return Owners(passwords=vault, live_files=live_files, timeout=timedelta(seconds=5))


def put_secrets_of_others(vault: FakeVault, count: int) -> None:
    for number in range(count):
        job_id = JobId(f"oc-other-{number:020d}")
        vault.put(job_id, {"password": "x"})
        vault.put_metadata(job_id, {"installation": "other", "user_id": f"u{number}"})


def put_ours(vault: FakeVault) -> None:
    vault.put(EVES_JOB, {"password": "x"})
    vault.put_metadata(EVES_JOB, {"installation": "main", "user_id": EVE})


def secrets_in(vault: FakeVault) -> list[Find]:
    return [Find(kind=OrphanKind.SECRET, job_id=name, reference=name) for name in vault._items]


async def test_ours_is_spoken_of_in_its_turn_and_ever_after_however_many_are_before_it(vault, owners):
    put_secrets_of_others(vault, 3 * ASKED)
    put_ours(vault)

    turns = [await owners.say_of(secrets_in(vault), {}) for _ in range(9)]

    assert [len(said) for said in turns] == [4, 8, 12, *[13] * 6]
    assert {find.user_id for said in turns[3:] for find in said if find.installation == "main"} == {EVE}
    assert all(find.installation is not None for said in turns for find in said)


async def test_a_comparison_asks_so_many_and_no_more(vault, owners):
    put_secrets_of_others(vault, 3 * ASKED)

    for turn in range(1, 6):
        await owners.say_of(secrets_in(vault), {})
        assert vault.faults.calls["look"] == turn * ASKED


async def test_everything_is_asked_again_in_its_turn(vault, owners):
    put_secrets_of_others(vault, 3 * ASKED)
    for _ in range(3):
        await owners.say_of(secrets_in(vault), {})
    for name in vault.job_ids:
        vault.put_metadata(name, {"installation": "third", "user_id": "u"})

    for _ in range(3):
        said = await owners.say_of(secrets_in(vault), {})

    assert {find.installation for find in said} == {"third"}


async def test_what_an_earlier_life_was_told_holds_until_it_is_asked_again(vault, owners):
    put_ours(vault)
    said = await owners.say_of(secrets_in(vault), {})
    (known,) = orphans_among(said, {}, installation="main", apart=timedelta(0), now=utc_now())
    put_secrets_of_others(vault, 3 * ASKED)
    again = Owners(passwords=vault, live_files=FakeLiveFiles(), timeout=timedelta(seconds=5))

    for _ in range(4):
        said = await again.say_of(secrets_in(vault)[::-1], {known.id: known})
        assert known.find in said


async def test_what_is_gone_is_spoken_of_no_more(vault, owners):
    put_ours(vault)
    finds = secrets_in(vault)
    await owners.say_of(finds, {})
    await vault.destroy(EVES_JOB, soon())

    assert await owners.say_of(finds, {}) == []
    assert await owners.say_of([], {}) == []


async def test_nothing_is_forgotten_when_vault_goes_away_in_the_middle(vault, owners):
    put_ours(vault)
    said = await owners.say_of(secrets_in(vault), {})
    vault.fail_next("look", UpstreamUnavailable("vault", "look"))
    with pytest.raises(UpstreamUnavailable):
        await owners.say_of(secrets_in(vault), {})
    put_secrets_of_others(vault, 3 * ASKED)

    assert said[0] in await owners.say_of(secrets_in(vault)[::-1], {})


async def test_pointers_are_asked_in_their_turn_as_well(live_files, owners):
    names = [*(JobId(f"oc-{number}") for number in range(ASKED)), EVES_JOB]
    for name in names:
        owner = Owner(installation="main" if name == EVES_JOB else "other", user_id=EVE)
        await live_files.point(name, owner, instructions="a", managed="b", deadline=soon())
    finds = await live_files.list_all(soon())

    await owners.say_of(finds, {})
    said = await owners.say_of(finds, {})

    assert [find.job_id for find in said if find.installation == "main"] == [EVES_JOB]
    assert [find.written_at for find in said] == [find.written_at for find in finds]


async def test_secrets_of_another_installation_are_not_listed_however_many_there_are(tmp_path):
    limits = OrphanLimits(confirmations=2, grace=timedelta(0), apart=timedelta(0))
    world = World(tmp_path, orphan_limits=limits)
    put_secrets_of_others(world.vault, 3 * ASKED)
    put_ours(world.vault)
    async with world.running():
        await world.until(lambda: world.plane._orphans.pulse.age() is not None)
        for _ in range(6):
            await world.plane._orphans.sweep_once()
            found = await world.plane.oversight.orphans(after=None, limit=500)
            assert {orphan.find.job_id for orphan in found.items} <= {EVES_JOB}

        (ours,) = found.items
        assert (ours.proven, ours.confirmations) == (True, 4)


def soon() -> Deadline:
    return Deadline.after(5, "test")
