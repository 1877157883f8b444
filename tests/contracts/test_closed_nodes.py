"""What may be relied on of nodes that take nothing new, held against the fake and against Nomad."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from contracts.orchestrator_worlds import FakeWorld, RealWorld, new_job_id, real_world, soon, until
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import NoCapacity
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.node import ClosedNode
from opencode_lifecycle.model.observation import ClientStatus, JobSeen, Observation
from opencode_lifecycle.ports.orchestrator import Connected, NodesChanged

HOUR = timedelta(hours=1)
CLOCKS_APART = timedelta(seconds=30)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
async def world(request) -> AsyncIterator[FakeWorld | RealWorld]:
    if request.param == "fake":
        yield FakeWorld()
        return
    async with real_world(request.getfixturevalue("cluster")) as real:
        try:
            yield real
        finally:
            # Others use the same node after us.
            await real.open_node()


@pytest.fixture
def job_id() -> JobId:
    return new_job_id()


def runs(seen: Observation) -> bool:
    return any(each.client_status is ClientStatus.RUNNING for each in seen.live)


def has_ended(seen: Observation) -> bool:
    return bool(seen.allocations) and not seen.live


async def closed(world) -> list[ClosedNode]:
    return list(await world.orchestrator.closed_nodes(soon()))


async def test_a_node_that_takes_jobs_is_not_listed(world):
    assert await closed(world) == []


async def test_a_node_that_is_ineligible_is_listed_by_the_names_that_allocations_bear(world, job_id):
    await world.register(job_id)
    (allocation,) = (await world.seen(job_id, runs, "it runs")).allocations

    await world.close_node()

    assert await closed(world) == [ClosedNode(id=allocation.node_id, name=allocation.node_name, drain=None)]


async def test_a_drain_tells_its_deadline_and_what_must_not_be_migrated_runs_until_then(world, job_id):
    await world.register(job_id)
    await world.seen(job_id, runs, "it runs")
    before = utc_now()

    await world.drain(HOUR)

    (node,) = await closed(world)
    assert before + HOUR - CLOCKS_APART < node.drain.deadline < utc_now() + HOUR + CLOCKS_APART
    (allocation,) = (await world.orchestrator.observe(job_id, soon())).allocations
    assert (allocation.desired_status, allocation.client_status) == ("run", ClientStatus.RUNNING)


async def test_a_drain_without_a_deadline_says_so(world, job_id):
    await world.register(job_id)
    await world.seen(job_id, runs, "it runs")

    await world.drain(None)

    (node,) = await closed(world)
    assert (node.drain is not None, node.drain.deadline) == (True, None)


async def test_a_drain_is_over_when_nothing_runs_any_more_and_the_node_stays_closed(world, job_id):
    await world.register(job_id)
    await world.seen(job_id, runs, "it runs")
    await world.drain(HOUR)

    await world.orchestrator.deregister(job_id, purge=False, deadline=soon())

    async def is_over() -> bool:
        return [node.drain for node in await closed(world)] == [None]

    await until(is_over, "the drain is over")


async def test_at_the_deadline_of_a_drain_what_is_left_is_ended_and_its_job_is_not(world, job_id):
    await world.register(job_id)
    await world.seen(job_id, runs, "it runs")

    await world.drain(timedelta(seconds=1))

    seen = await world.seen(job_id, has_ended, "it has ended")
    assert isinstance(seen.job, JobSeen)
    assert not seen.job.stopped


async def test_a_drain_that_is_cancelled_leaves_what_runs_as_it_is(world, job_id):
    await world.register(job_id)
    (before,) = (await world.seen(job_id, runs, "it runs")).allocations
    await world.drain(HOUR)

    await world.open_node()

    assert await closed(world) == []
    (after,) = (await world.orchestrator.observe(job_id, soon())).allocations
    assert (after.id, after.desired_status) == (before.id, "run")


async def test_a_job_is_not_placed_on_a_closed_node_and_is_when_that_is_open(world, job_id):
    await world.close_node()
    await world.register(job_id)
    seen = await world.seen(job_id, lambda seen: seen.placement_failure is not None, "it is not placed")
    assert not seen.allocations

    await world.open_node()

    await world.seen(job_id, runs, "it runs")


async def test_a_volume_is_made_on_no_node_that_is_to_be_avoided(world, job_id):
    await world.close_node()
    avoid = [node.id for node in await closed(world)]

    with pytest.raises(NoCapacity):
        await world.workspaces.ensure(job_id, soon(), avoid=avoid)

    assert await world.workspaces.find(job_id, soon()) is None


async def test_a_volume_that_is_there_is_found_also_on_a_node_to_be_avoided(world, job_id):
    made = await world.workspaces.ensure(job_id, soon())

    assert await world.workspaces.ensure(job_id, soon(), avoid=[made.node_id]) == made

    await world.workspaces.destroy(made.volume_id, soon())


async def test_the_event_stream_tells_that_a_node_changed(world):
    index = (await world.orchestrator.list_all(soon())).index
    changes = world.orchestrator.follow(index)
    assert isinstance(await anext(changes), Connected)

    await world.close_node()

    async with soon().enforce():
        while not isinstance(await anext(changes), NodesChanged):
            pass
    await changes.aclose()
