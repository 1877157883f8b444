"""
The Nomad that the bench replays passes what the contract says of reads, listings and streams.

The tests are the contract's own, collected here once more with a world in which a job is registered by the one who
replays: rendering and registering are no part of it.
"""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from aiohttp.test_utils import TestServer

from bench.replay import ReplayedNomad
from bench.replay_http import NomadServer
from contracts.orchestrator_worlds import Observation, new_job_id, soon, until
from contracts.test_orchestrator import (  # noqa: F401 - collected here with the world below
    test_a_job_that_fits_after_all_has_no_placement_failure,
    test_a_job_that_fits_nowhere_says_why,
    test_a_job_that_was_never_registered_is_absent,
    test_a_purged_job_is_absent,
    test_a_reachable_server_answers_the_ping,
    test_a_registered_job_is_seen_with_its_meta_at_once,
    test_a_running_allocation_has_an_address_and_a_start,
    test_a_stopped_job_stays_with_its_ended_allocation,
    test_another_meta_replaces_the_allocation,
    test_stopping_a_job_that_is_not_there_is_no_error,
    test_the_listing_holds_every_job_with_its_allocations,
    test_the_listing_knows_the_version_of_every_job,
    test_the_listing_says_why_a_job_fits_nowhere,
    test_the_stream_opens_and_tells_of_what_happens_afterwards,
    test_the_stream_tells_that_a_job_was_purged,
)
from opencode_lifecycle.adapters.nomad.nomad import Nomad
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import JobSeen
from opencode_lifecycle.ports.orchestrator import AllocationChanged


class ReplayedWorld:
    def __init__(self, server: NomadServer, orchestrator: Nomad) -> None:
        self.server = server
        self.orchestrator = orchestrator
        self._ports = count(20000)

    async def register(
        self,
        job_id: JobId,
        *,
        at: int = 0,
        user_id: str = "ada",
        installation: str = "main",
        fits: bool = True,
        **meta: str,
    ) -> int:
        whose = {"user": user_id, "installation": installation, "managed_by": "opencode-lifecycle"}
        meta = {"image": "", **whose, **meta}
        return self.server.nomad.register(job_id, meta, host="127.0.0.1", port=next(self._ports), fits=fits)

    async def register_too_large(self, job_id: JobId, *, at: int = 0) -> int:
        return await self.register(job_id, fits=False)

    async def seen(self, job_id: JobId, condition, what: str) -> Observation:
        found: list[Observation] = []

        async def holds() -> bool:
            found[:] = [await self.orchestrator.observe(job_id, soon())]
            return condition(found[0])

        await until(holds, what)
        return found[0]


@pytest.fixture
async def world(tmp_path) -> AsyncIterator[ReplayedWorld]:
    token = tmp_path / "token"
    token.write_text("of-nobody")
    server = NomadServer(ReplayedNomad())
    async with TestServer(server.app) as running:
        nomad = Nomad(address=str(running.make_url("")), token_file=token, namespace="opencode", page_size=2)
        yield ReplayedWorld(server, nomad)
        server.cut_streams()
        await nomad.close()


@pytest.fixture
def job_id() -> JobId:
    return new_job_id()


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
