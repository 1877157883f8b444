"""
What is known of a Nomad from one listing to the next, read from one that replays what was recorded.

That it is a Nomad at all, the contract of the orchestrator holds: each test of it that bears no `beyond_the_recording`.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bench.replayed_world import ReplayedWorld, replayed_world
from contracts.orchestrator_worlds import new_job_id, soon, until
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import JobSeen
from opencode_lifecycle.ports.orchestrator import AllocationChanged


@pytest.fixture
async def world(tmp_path) -> AsyncIterator[ReplayedWorld]:
    async with replayed_world(tmp_path) as replayed:
        yield replayed


async def a_fleet(world: ReplayedWorld, size: int) -> list[JobId]:
    jobs = [new_job_id() for _ in range(size)]
    for job in jobs:
        await world.register(job, user_id=job)
    return jobs


async def test_what_did_not_change_is_not_read_whole_again(world):
    await a_fleet(world, 50)
    first = await world.orchestrator.list_all(soon())
    world.server.asked.clear()

    second = await world.orchestrator.list_all(soon())

    assert second.stacks.keys() == first.stacks.keys()
    for job, seen in second.stacks.items():
        assert seen.job is first.stacks[job].job
        assert seen.newest is first.stacks[job].newest
    assert set(world.server.asked) == {"jobs", "allocations", "evaluations"}


@pytest.mark.parametrize("changed", [1, 50])
async def test_a_listing_tells_of_every_task_that_was_restarted(world, changed):
    jobs = await a_fleet(world, 50)
    before = await world.orchestrator.list_all(soon())
    for job in jobs[:changed]:
        world.server.nomad.restart_task(before.stacks[job].newest.id)

    after = await world.orchestrator.list_all(soon())

    restarts = {job: seen.newest.restarts for job, seen in after.stacks.items()}
    assert restarts == {job: int(job in jobs[:changed]) for job in jobs}
    for job in jobs:
        assert after.stacks[job].newest == (await world.orchestrator.observe(job, soon())).newest


async def test_what_the_stream_told_is_not_read_again_by_the_listing(world):
    [job] = await a_fleet(world, 1)
    listing = await world.orchestrator.list_all(soon())
    heard = asyncio.Event()

    async def listen() -> None:
        async for change in world.orchestrator.follow(listing.index):
            if isinstance(change, AllocationChanged) and change.allocation.restarts == 1:
                heard.set()

    listening = asyncio.create_task(listen())
    await until(lambda: _follows(world), "the stream is open")
    world.server.nomad.restart_task(listing.stacks[job].newest.id)
    await asyncio.wait_for(heard.wait(), 10)
    world.server.asked.clear()

    after = await world.orchestrator.list_all(soon())

    assert after.stacks[job].newest.restarts == 1
    assert world.server.asked["allocation"] == 0
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_a_job_that_was_purged_is_not_remembered(world):
    jobs = await a_fleet(world, 3)
    await world.orchestrator.list_all(soon())
    await world.orchestrator.deregister(jobs[0], purge=True, deadline=soon())
    [ended] = world.server.nomad.allocations_of(jobs[0])
    world.server.nomad.forget(ended.id)

    listing = await world.orchestrator.list_all(soon())

    assert listing.stacks.keys() == set(jobs[1:])


async def test_what_nomad_has_no_more_is_forgotten(world):
    jobs = await a_fleet(world, 3)
    listing = await world.orchestrator.list_all(soon())
    [ended] = world.server.nomad.allocations_of(jobs[0])
    await world.orchestrator.deregister(jobs[0], purge=True, deadline=soon())
    world.server.nomad.forget(ended.id)

    await world.orchestrator.list_all(soon())

    versions = world.orchestrator._versions
    assert versions.job_at(jobs[0], listing.stacks[jobs[0]].job.modify_index) is None
    assert versions.allocation(ended.id) is None
    assert versions.job_at(jobs[1], listing.stacks[jobs[1]].job.modify_index) is not None


async def test_a_version_that_is_made_while_the_versions_are_read_is_not_taken_for_the_one_before(
    world, monkeypatch
):
    jobs = await a_fleet(world, 40)
    listing = world.orchestrator._listing
    learn = listing._learn_versions
    made: list[int] = []

    async def after_an_edit(unknown, deadline) -> None:
        made.append(await world.register(jobs[7], image="other"))
        await learn(unknown, deadline)

    monkeypatch.setattr(listing, "_learn_versions", after_an_edit)

    job = (await world.orchestrator.list_all(soon())).stacks[jobs[7]].job

    assert (job.version, job.modify_index, job.meta["image"]) == (1, made[0], "other")


async def test_nothing_that_was_known_is_believed_of_a_nomad_that_went_back_in_time(world):
    [job] = await a_fleet(world, 1)
    before = await world.orchestrator.list_all(soon())
    nomad = world.server.nomad
    [allocation] = nomad.allocations.values()
    allocation.restarts, allocation.state, allocation.stub = 1, "restarted", b""
    nomad.tables.jobs = nomad.tables.allocations = before.index - 1

    after = await world.orchestrator.list_all(soon())

    assert after.stacks[job].newest.restarts == 1


async def test_an_edit_from_outside_is_seen_with_its_version(world):
    jobs = await a_fleet(world, 40)
    await world.orchestrator.list_all(soon())
    index = await world.register(jobs[7], image="other")

    listing = await world.orchestrator.list_all(soon())

    edited = listing.stacks[jobs[7]].job
    assert isinstance(edited, JobSeen)
    assert (edited.version, edited.modify_index, edited.meta["image"]) == (1, index, "other")


async def _follows(world: ReplayedWorld) -> bool:
    return bool(world.server._streams)
