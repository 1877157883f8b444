"""What a plan may rely on of the scheduler's word on placement, held against the fake and against Nomad."""

from collections.abc import AsyncIterator

import pytest

from contracts.orchestrator_worlds import FakeWorld, RealWorld, new_job_id, real_world, soon
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import ABSENT, ClientStatus
from opencode_lifecycle.ports.orchestrator import Placement


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
async def world(request) -> AsyncIterator[FakeWorld | RealWorld]:
    if request.param == "fake":
        yield FakeWorld()
        return
    async with real_world(request.getfixturevalue("cluster")) as real:
        yield real


@pytest.fixture
def job_id() -> JobId:
    return new_job_id()


async def run(world, job_id) -> int:
    index = await world.register(job_id)
    await world.seen(
        job_id,
        lambda seen: any(each.client_status is ClientStatus.RUNNING for each in seen.live),
        "it runs",
    )
    return index


async def test_a_job_that_was_never_registered_and_fits_could_be_placed_and_is_not_there_after(world, job_id):
    assert await world.plan(job_id) == Placement(failure=None)

    assert (await world.orchestrator.observe(job_id, soon())).job is ABSENT


async def test_a_job_that_fits_nowhere_could_not_and_it_is_said_why(world, job_id):
    planned = await world.plan_too_large(job_id)

    assert "memory" in planned.failure
    assert "\n" not in planned.failure


async def test_a_job_that_no_node_may_take_could_not_and_it_is_said_why(world, job_id):
    assert "excluded by ${node.unique.id}" in (await world.plan_without_a_node(job_id)).failure


async def test_what_runs_could_be_placed_as_it_is_and_otherwise_and_runs_on(world, job_id):
    index = await run(world, job_id)
    before = await world.orchestrator.observe(job_id, soon())

    assert (await world.plan(job_id)).failure is None
    assert (await world.plan(job_id, image="other")).failure is None

    after = await world.orchestrator.observe(job_id, soon())
    assert after.job.modify_index == index
    assert [each.id for each in after.live] == [each.id for each in before.live]


async def test_what_runs_and_would_not_fit_any_more_is_told_so_and_runs_on(world, job_id):
    await run(world, job_id)

    assert (await world.plan_too_large(job_id)).failure is not None

    assert (await world.orchestrator.observe(job_id, soon())).live


async def test_what_was_stopped_could_be_placed(world, job_id):
    await run(world, job_id)
    await world.orchestrator.deregister(job_id, purge=False, deadline=soon())

    assert (await world.plan(job_id)).failure is None
