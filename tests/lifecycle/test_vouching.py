"""Who is sent a password: nobody but the runtime that Nomad and Consul name for the allocation."""

from dataclasses import replace
from datetime import timedelta

import pytest

from fakes.opencode import FakeOpenCode
from opencode_lifecycle.lifecycle.observing.recent_passwords import RecentPasswords
from opencode_lifecycle.lifecycle.observing.vouching import PROOF_VOUCHES_FOR, Vouching
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId, UserId
from opencode_lifecycle.model.states import Phase
from world import World

ADA = UserId("ada")


@pytest.fixture
async def world(tmp_path):
    """One in which a runtime that is stale is replaced as soon as it is seen to be idle, and looked at again and again."""
    limits = Limits(
        start=timedelta(seconds=60),
        stop=timedelta(seconds=60),
        poll=timedelta(milliseconds=50),
        idle_after=timedelta(0),
        idle_poll=timedelta(milliseconds=20),
    )
    return World(tmp_path, limits=limits)


async def a_new_secret(world: World) -> None:
    """Make ada's runtime stale, so that it is asked whether it is idle."""
    world.vault.put(world.job_id(), {"password": "new", "env": {}})


def proven_before(world: World, age: timedelta) -> None:
    """Have ada's runtime be proven so long ago."""
    known = world.plane.fleet.get(ADA)
    assert known is not None
    assert known.proof is not None
    world.plane.fleet.prove(ADA, replace(known.proof, at=utc_now() - age))


async def test_no_password_is_sent_to_another_users_runtime_that_took_the_port_meanwhile(world):
    """The node's client is away: Nomad calls the allocation running, and Consul lists the port for bob alone."""
    async with world.running():
        await world.ensure()
        allocation = world.live_allocations()[0]
    bobs = world.prober.serve(allocation.address, FakeOpenCode(password="bobs"))
    world.consul.forget(world.job_id(), allocation.id)
    world.consul.register(world.job_id("bob"), AllocationId("bobs"), allocation.address)
    await a_new_secret(world)
    async with world.running():
        await world.until(lambda: world.prober.faults.calls["activity"] > 2 or bool(bobs.tried))

        assert bobs.tried == []
        assert [each.id for each in world.live_allocations()] == [allocation.id]


async def test_no_password_is_sent_to_look_at_activity_where_consul_has_another_address(world):
    async with world.running():
        await world.ensure()
        allocation = world.live_allocations()[0]
        server = world.prober.servers[allocation.address.host, allocation.address.port]
        proven_before(world, PROOF_VOUCHES_FOR)
        shown = len(server.tried)
        elsewhere = type(allocation.address)(host="127.0.0.1", port=4000)
        world.consul.register(world.job_id(), allocation.id, elsewhere)
        await a_new_secret(world)
        await world.until(lambda: world.prober.faults.calls["activity"] > 2)

        assert len(server.tried) == shown


async def test_a_runtime_is_looked_at_again_once_consul_lists_it(world):
    async with world.running():
        await world.ensure()
        allocation = world.live_allocations()[0]
        proven_before(world, PROOF_VOUCHES_FOR)
        world.consul.forget(world.job_id(), allocation.id)
        await a_new_secret(world)
        await world.until(lambda: world.prober.faults.calls["activity"] > 2)

        world.consul.register(world.job_id(), allocation.id, allocation.address)

        await world.until(lambda: world.stack().status.secret_version == 2)
        await world.until(lambda: [each.id for each in world.live_allocations()] not in ([allocation.id], []))
        await world.phase(Phase.RUNNING)


async def asked(world: World) -> int:
    """Have ada's runtime be asked what its sessions do, and return how often Consul was asked for that."""
    vouching = Vouching(
        fleet=world.plane.fleet,
        prober=world.prober,
        passwords=RecentPasswords(world.vault),
        catalog=world.consul,
        now=utc_now,
    )
    before = world.consul.faults.calls["instances"]
    assert await vouching.activity(world.stack(), Deadline.after(1, "look")) is not None
    return world.consul.faults.calls["instances"] - before


async def test_a_runtime_that_was_proven_a_moment_ago_is_where_it_was_proven(world):
    async with world.running():
        await world.ensure()

        assert await asked(world) == 0
        proven_before(world, PROOF_VOUCHES_FOR)
        assert await asked(world) == 1


async def test_what_an_earlier_run_has_shown_vouches_for_no_later_one(world):
    async with world.running():
        await world.ensure()
        known = world.plane.fleet.get(ADA)
        world.plane.fleet.prove(ADA, replace(known.proof, restarts=known.proof.restarts + 1))

        assert await asked(world) == 1


async def test_a_proof_from_a_clock_that_was_set_back_since_vouches_for_nothing(world):
    async with world.running():
        await world.ensure()
        proven_before(world, timedelta(minutes=-1))

        assert await asked(world) == 1
