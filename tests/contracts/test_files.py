"""What the use cases may rely on of files in an allocation's directory, held against the fake and against Nomad."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from contracts.orchestrator_worlds import (
    LIVE_FILES,
    OWNER,
    FakeWorld,
    RealWorld,
    new_job_id,
    real_world,
    soon,
    until,
)
from opencode_lifecycle.model.errors import UpstreamNonsense
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.observation import ClientStatus

INSTRUCTIONS = "server/local/live/instructions/AGENTS.md"
MANAGED = "server/local/live/managed/opencode.json"
LIMIT = 65_536


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
async def world(request) -> AsyncIterator[FakeWorld | RealWorld]:
    if request.param == "fake":
        yield FakeWorld()
        return
    async with real_world(request.getfixturevalue("cluster")) as real:
        yield real


async def point(world, job_id, *, instructions: str, managed: str = "{}") -> None:
    digests = [await world.live_files.publish(text, soon()) for text in (instructions, managed)]
    await world.live_files.point(job_id, OWNER, instructions=digests[0], managed=digests[1], deadline=soon())


async def start(world, job_id) -> AllocationId:
    await world.register(job_id, live_files=LIVE_FILES)
    seen = await world.seen(
        job_id,
        lambda seen: any(each.client_status is ClientStatus.RUNNING for each in seen.live),
        "it runs",
    )
    return seen.newest.id


async def read(world, allocation_id, path=INSTRUCTIONS, limit=LIMIT) -> bytes | None:
    return await world.orchestrator.read_file(allocation_id, path, limit=limit, deadline=soon())


@pytest.mark.parametrize(
    "text", ["Be kind.", 'quotes " and {{ braces }} and ${dollars}\n', "é✓\u2028", "x" * 60_000]
)
async def test_the_live_files_of_a_running_task_are_read_byte_for_byte(world, text):
    job_id = new_job_id()
    await point(world, job_id, instructions=text, managed='{"share": "disabled"}')
    allocation_id = await start(world, job_id)

    assert await read(world, allocation_id) == text.encode()
    assert await read(world, allocation_id, MANAGED) == b'{"share": "disabled"}'


async def test_an_empty_file_is_not_a_missing_one(world):
    job_id = new_job_id()
    await point(world, job_id, instructions="")
    allocation_id = await start(world, job_id)

    assert await read(world, allocation_id) == b""


async def test_a_live_file_follows_its_pointer(world):
    job_id, text = new_job_id(), uuid4().hex
    await point(world, job_id, instructions="before")
    allocation_id = await start(world, job_id)

    await point(world, job_id, instructions=text)

    async def is_there() -> bool:
        return await read(world, allocation_id) == text.encode()

    await until(is_there, "the new text is there")
    assert (await world.orchestrator.observe(job_id, soon())).newest.id == allocation_id


async def test_a_file_that_is_not_there_is_none(world):
    job_id = new_job_id()
    await point(world, job_id, instructions="Be kind.")
    allocation_id = await start(world, job_id)

    assert await read(world, allocation_id, "server/local/live/nothing") is None
    assert await read(world, allocation_id, "no-such-task/local/live/nothing") is None


async def test_a_file_of_an_allocation_that_there_is_not_is_none(world):
    assert await read(world, AllocationId("00000000-0000-4000-8000-000000000000")) is None


async def test_a_file_is_read_up_to_its_limit_and_not_beyond(world):
    job_id = new_job_id()
    await point(world, job_id, instructions="12345678")
    allocation_id = await start(world, job_id)

    assert await read(world, allocation_id, limit=8) == b"12345678"
    with pytest.raises(UpstreamNonsense):
        await read(world, allocation_id, limit=7)


async def test_the_file_of_a_task_that_has_ended_stays_as_it_was(world):
    job_id = new_job_id()
    await point(world, job_id, instructions="Be kind.")
    allocation_id = await start(world, job_id)
    await world.orchestrator.deregister(job_id, purge=False, deadline=soon())
    await world.seen(job_id, lambda seen: not seen.live, "nothing of it runs")

    await point(world, job_id, instructions="Be brief.")

    assert await read(world, allocation_id) == b"Be kind."


async def test_in_the_fake_a_deaf_template_leaves_its_file_until_it_is_delivered():
    world, job_id = FakeWorld(), new_job_id()
    await point(world, job_id, instructions="before")
    allocation_id = await start(world, job_id)

    world.nomad.files.deaf.add(job_id)
    await point(world, job_id, instructions="after")

    assert await read(world, allocation_id) == b"before"
    world.nomad.deliver(job_id)
    assert await read(world, allocation_id) == b"after"
