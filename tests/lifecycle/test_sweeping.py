"""Rounds over all stacks: what one of them does not show keeps nobody from the rest."""

from datetime import timedelta

import pytest

from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.errors import UpstreamDenied, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import UserId
from world import World

USERS = ("ada", "bob", "cyd", "dan")
DENIED = UpstreamDenied("vault", "look", "our token lacks the right")


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, usage_interval=timedelta(milliseconds=50))
    async with world.running():
        for user in USERS:
            await world.ensure(user)
        yield world


def refuse_looks(world: World, monkeypatch, *users: str):
    """Let Vault refuse to tell of the secrets of *users*."""
    refused = {world.job_id(user) for user in users}
    look = type(world.vault).look

    async def of_all_but_some(self, job_id, deadline):
        if job_id in refused:
            raise DENIED
        return await look(self, job_id, deadline)

    monkeypatch.setattr(type(world.vault), "look", of_all_but_some)


async def rounds(world: World, count: int) -> None:
    """Wait for rounds over the secrets to come to their end, of which the first may have begun before."""
    for _ in range(count):
        before = world.plane._secrets.pulse._at
        await world.until(lambda before=before: world.plane._secrets.pulse._at != before)


async def test_one_secret_that_cannot_be_looked_at_does_not_hide_the_others(world, monkeypatch):
    refuse_looks(world, monkeypatch, "ada")

    world.vault.put(world.job_id("bob"), {"password": "new", "env": {}})

    await world.until(lambda: world.stack("bob").status.secret_version == 2)
    await rounds(world, 2)


async def test_a_round_that_saw_no_secret_does_not_count(world, monkeypatch):
    refuse_looks(world, monkeypatch, *USERS)

    with pytest.raises(UpstreamDenied):
        await world.plane._secrets.round()


async def test_many_missing_secrets_are_not_called_there_because_the_others_cannot_be_seen(
    world, monkeypatch
):
    for user in USERS:
        world.vault.delete_latest(world.job_id(user))
    await world.until(lambda: ConditionKind.SECRETS_MISSING in world.plane.fleet.frozen)
    versions = [world.stack(user).status.secret_version for user in USERS]

    refuse_looks(world, monkeypatch, "ada", "bob")
    await rounds(world, 3)

    assert ConditionKind.SECRETS_MISSING in world.plane.fleet.frozen
    assert [world.stack(user).status.secret_version for user in USERS] == versions


async def test_one_runtime_whose_use_cannot_be_seen_does_not_hide_the_others(world, monkeypatch):
    adas = world.live_allocations("ada")[0].id
    world.nomad.memory[world.live_allocations("bob")[0].id] = 7
    usage = type(world.nomad).usage

    async def of_all_but_one(self, allocation_id, deadline):
        if allocation_id == adas:
            raise UpstreamUnavailable("nomad", "usage", "no path to node")
        return await usage(self, allocation_id, deadline)

    monkeypatch.setattr(type(world.nomad), "usage", of_all_but_one)

    await world.until(lambda: world.plane.fleet.get(UserId("bob")).memory == 7)
    await world.until(lambda: (world.plane._usage.pulse.age() or 1) < 1)
