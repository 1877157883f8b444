"""What the use cases may rely on of an orchestrator's stream of changes."""

import asyncio

import pytest

from contracts.orchestrator_worlds import FakeWorld, runs, soon, until
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.observation import ClientStatus
from opencode_lifecycle.ports.orchestrator import (
    AllocationChanged,
    Change,
    Connected,
    JobChanged,
    NodesChanged,
)


@pytest.mark.parametrize("begins", ["after a listing", "now"])
async def test_the_stream_opens_and_tells_of_what_happens_afterwards(world, job_id, begins):
    told: list[Change] = []
    opened = asyncio.Event()
    index = (await world.orchestrator.list_all(soon())).index

    async def listen() -> None:
        async for change in world.orchestrator.follow(index if begins == "after a listing" else None):
            told.append(change)
            opened.set()

    listening = asyncio.create_task(listen())
    await asyncio.wait_for(opened.wait(), 10)
    registered = await world.register(job_id)

    async def has_run() -> bool:
        return any(
            isinstance(change, AllocationChanged)
            and change.job_id == job_id
            and change.allocation.client_status is ClientStatus.RUNNING
            for change in told
        )

    await until(has_run, "the stream tells of the running allocation")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert isinstance(told[0], Connected)
    of_jobs = [change for change in told[1:] if not isinstance(change, NodesChanged)]
    ours = [change for change in of_jobs if change.job_id == job_id]
    assert any(isinstance(change, JobChanged) and change.index == registered for change in ours)
    allocation = next(c.allocation for c in reversed(ours) if isinstance(c, AllocationChanged))
    observed = (await world.orchestrator.observe(job_id, soon())).newest
    assert (allocation.address, allocation.job_version) == (observed.address, observed.job_version)
    assert all(change.index > index for change in told[1:])


async def test_the_stream_tells_of_each_allocation_which_version_it_runs(world, job_id):
    told: dict[str, int | None] = {}
    opened = asyncio.Event()
    index = (await world.orchestrator.list_all(soon())).index

    async def listen() -> None:
        async for change in world.orchestrator.follow(index):
            opened.set()
            if isinstance(change, AllocationChanged) and change.job_id == job_id:
                told[change.allocation.id] = change.allocation.job_version

    listening = asyncio.create_task(listen())
    await asyncio.wait_for(opened.wait(), 10)
    first = await world.register(job_id)
    await world.seen(job_id, runs, "it runs")
    # The second of these comes while the scheduler may be at the first.
    second = await world.register(job_id, at=first, image="other")
    await world.register(job_id, at=second, image="yet another")

    after = await world.seen(
        job_id,
        lambda seen: runs(seen) and len(seen.live) == 1 and seen.newest.job_version == 2,
        "the newest version runs alone",
    )

    async def told_of_all() -> bool:
        return {each.id for each in after.allocations} <= told.keys()

    await until(told_of_all, "the stream has told of every allocation")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert told == {each.id: each.job_version for each in after.allocations}


async def test_the_stream_tells_that_a_job_was_purged(world, job_id):
    await world.register(job_id)
    index = (await world.orchestrator.observe(job_id, soon())).index
    gone = asyncio.Event()
    opened = asyncio.Event()

    async def listen() -> None:
        async for change in world.orchestrator.follow(index):
            opened.set()
            if isinstance(change, JobChanged) and change.job_id == job_id and change.job is None:
                gone.set()

    listening = asyncio.create_task(listen())
    await asyncio.wait_for(opened.wait(), 10)
    await world.orchestrator.deregister(job_id, purge=True, deadline=soon())

    await asyncio.wait_for(gone.wait(), 10)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_a_stream_that_ends_says_so():
    world = FakeWorld()
    told = world.orchestrator.follow(0)
    assert isinstance(await anext(told), Connected)

    world.nomad.drop_streams()

    with pytest.raises(UpstreamUnavailable):
        await anext(told)
