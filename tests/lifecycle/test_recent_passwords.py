"""Passwords that several looks need within seconds, read once."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from database_examples import a_stack
from opencode_lifecycle.lifecycle.observing.recent_passwords import KEPT_SECONDS, RecentPasswords
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import SecretMissing
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.password import Password
from world import World

ADA, BOB = a_stack("ada"), a_stack("bob")


class Vault:
    """Has version 1 and 2 of every secret, and counts who asks."""

    def __init__(self) -> None:
        self.reads: Counter[tuple[JobId, int]] = Counter()

    async def read(self, job_id: JobId, version: int, deadline: Deadline) -> Password:
        self.reads[job_id, version] += 1
        if version > 2:
            raise SecretMissing("vault", "read", "there is no such version")
        return Password(f"{job_id} {version}")


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def vault():
    return Vault()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def passwords(vault, clock):
    return RecentPasswords(vault, now=clock)


@pytest.fixture
def read(passwords):
    async def read(stack=ADA, version=1) -> str:
        return (await passwords.read(stack, version, Deadline.after(1, "read"))).reveal()

    return read


async def test_a_password_that_was_read_a_moment_ago_is_not_read_again(read, vault, clock):
    first = await read()
    clock.time = KEPT_SECONDS - 1

    assert await read() == first
    assert vault.reads[ADA.job_id, 1] == 1


async def test_it_is_read_again_when_that_was_long_ago(read, vault, clock):
    await read()
    clock.time = KEPT_SECONDS

    await read()

    assert vault.reads[ADA.job_id, 1] == 2


async def test_whoever_has_to_know_that_it_is_there_reads_it_and_whoever_follows_need_not(
    passwords, read, vault
):
    await read()

    now = (await passwords.read_now(ADA, 1, Deadline.after(1, "read"))).reveal()

    assert vault.reads[ADA.job_id, 1] == 2
    assert await read() == now
    assert vault.reads[ADA.job_id, 1] == 2


async def test_another_version_and_another_stack_have_passwords_of_their_own(read):
    assert len({await read(), await read(version=2), await read(BOB)}) == 3


async def test_the_first_version_of_another_life_is_another_password(read, vault):
    await read()

    await read(replace(ADA, created_at=ADA.created_at + timedelta(seconds=1)))

    assert vault.reads[ADA.job_id, 1] == 2


async def test_a_password_that_was_refused_is_read_again(passwords, read, vault):
    await read()
    passwords.forget(ADA, 1)

    await read()

    assert vault.reads[ADA.job_id, 1] == 2


async def test_that_there_is_none_is_not_remembered(read, vault):
    for _ in range(2):
        with pytest.raises(SecretMissing):
            await read(version=3)

    assert vault.reads[ADA.job_id, 3] == 2


async def test_what_is_too_old_is_forgotten_whoever_is_read_next(passwords, read, clock):
    await read()
    clock.time = KEPT_SECONDS

    await read(BOB)

    assert [job_id for job_id, *_ in passwords._read] == [BOB.job_id]


async def test_a_secret_that_was_made_anew_keeps_no_runtime_from_being_proven(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
        address = world.live_allocations()[0].address
        await world.vault.destroy(world.job_id(), Deadline.after(1, "destroy"))
        assert world.vault.put(world.job_id(), {"password": "another", "env": {}}) == 1
        world.prober.servers[address.host, address.port].password = "another"

        world.nomad.restart_task(world.job_id())

        def runs_anew() -> bool:
            runtime = world.stack().status.runtime
            return runtime is not None and runtime.restarts == 1

        await world.until(runs_anew)
