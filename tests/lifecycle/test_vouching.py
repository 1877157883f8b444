"""Who is sent a password: nobody but the runtime that Nomad and Consul name for the allocation."""

from datetime import timedelta

import pytest

from fakes.opencode import FakeOpenCode
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.states import Phase
from world import World


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
        world.consul.forget(world.job_id(), allocation.id)
        await a_new_secret(world)
        await world.until(lambda: world.prober.faults.calls["activity"] > 2)

        world.consul.register(world.job_id(), allocation.id, allocation.address)

        await world.until(lambda: world.stack().status.secret_version == 2)
        await world.until(lambda: [each.id for each in world.live_allocations()] not in ([allocation.id], []))
        await world.phase(Phase.RUNNING)
