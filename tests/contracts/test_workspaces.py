"""What the use cases may rely on of workspaces, held against the fake and against Nomad."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from contracts.orchestrator_worlds import FakeWorld, RealWorld, new_job_id, real_world, soon
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.identifiers import JobId


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


async def test_a_workspace_that_was_never_made_is_not_found(world, job_id):
    assert await world.workspaces.find(job_id, soon()) is None


async def test_a_workspace_is_made_once(world, job_id):
    made = await world.workspaces.ensure(job_id, soon())

    again = await world.workspaces.ensure(job_id, soon())

    assert again == made == await world.workspaces.find(job_id, soon())
    assert made.path.startswith("/")
    await world.workspaces.destroy(made.volume_id, soon())


async def test_workspaces_of_different_jobs_are_different(world, job_id):
    other = JobId(f"{job_id}x")
    made = [await world.workspaces.ensure(each, soon()) for each in (job_id, other)]

    assert made[0].volume_id != made[1].volume_id
    assert made[0].path != made[1].path
    for each in made:
        await world.workspaces.destroy(each.volume_id, soon())


async def test_a_destroyed_workspace_is_gone_and_destroying_it_again_is_no_error(world, job_id):
    made = await world.workspaces.ensure(job_id, soon())

    await world.workspaces.destroy(made.volume_id, soon())
    await world.workspaces.destroy(made.volume_id, soon())

    assert await world.workspaces.find(job_id, soon()) is None


async def test_a_workspace_that_is_in_use_is_not_destroyed(world, job_id):
    made = await world.workspaces.ensure(job_id, soon())
    await world.register(job_id, volume=[job_id])
    await world.seen(job_id, lambda seen: any(each.started_at for each in seen.live), "it runs")

    with pytest.raises(UpstreamRejected):
        await world.workspaces.destroy(made.volume_id, soon())

    assert await world.workspaces.find(job_id, soon()) == made
    await world.orchestrator.deregister(job_id, purge=False, deadline=soon())
    await world.seen(job_id, lambda seen: not seen.live, "it has ended")
    await world.workspaces.destroy(made.volume_id, soon())


async def test_volumes_are_listed_by_name_and_id_and_say_when_they_were_made(world, job_id):
    before = datetime.now(UTC) - timedelta(seconds=1)
    made = await world.workspaces.ensure(job_id, soon())

    listed = {find.job_id: find for find in await world.workspaces.list_all(soon())}

    assert listed[job_id].reference == made.volume_id
    assert before < listed[job_id].written_at < datetime.now(UTC) + timedelta(seconds=1)
    await world.workspaces.destroy(made.volume_id, soon())
