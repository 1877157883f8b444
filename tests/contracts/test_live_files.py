"""What the use cases may rely on of live files, held against the fake and against Nomad."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from contracts.orchestrator_worlds import OWNER, FakeWorld, RealWorld, new_job_id, real_world, soon
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.facets import digest_of_text


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
async def world(request) -> AsyncIterator[FakeWorld | RealWorld]:
    if request.param == "fake":
        yield FakeWorld()
        return
    async with real_world(request.getfixturevalue("cluster")) as real:
        yield real


@pytest.mark.parametrize("text", ["", "Be kind.", 'quotes " and {{ braces }} and ${dollars}\n', "é✓\u2028"])
async def test_a_text_is_stored_under_its_digest(world, text):
    assert await world.live_files.publish(text, soon()) == digest_of_text(text)


async def test_publishing_a_text_twice_is_publishing_it_once(world):
    text = uuid4().hex

    first = await world.live_files.publish(text, soon())

    assert await world.live_files.publish(text, soon()) == first


async def test_a_pointer_can_be_moved_repeated_and_cleared(world):
    job_id = new_job_id()
    a, b = [await world.live_files.publish(text, soon()) for text in ("a", "{}")]

    await world.live_files.point(job_id, OWNER, instructions=a, managed=b, deadline=soon())
    await world.live_files.point(job_id, OWNER, instructions=a, managed=b, deadline=soon())
    await world.live_files.point(job_id, OWNER, instructions=b, managed=a, deadline=soon())

    await world.live_files.clear(job_id, soon())
    await world.live_files.clear(job_id, soon())


async def test_a_text_that_is_too_large_is_refused(world):
    with pytest.raises(UpstreamRejected):
        await world.live_files.publish("x" * 70_000, soon())


async def test_pointers_are_listed_and_say_when_they_were_written_and_whose_they_are(world):
    job_id = new_job_id()
    digest = await world.live_files.publish(uuid4().hex, soon())
    before = datetime.now(UTC) - timedelta(seconds=1)
    await world.live_files.point(job_id, OWNER, instructions=digest, managed=digest, deadline=soon())

    listed = await world.live_files.list_all(soon())

    (pointer,) = [find for find in listed if find.job_id == job_id]
    assert before < pointer.written_at < datetime.now(UTC) + timedelta(seconds=1)
    assert await world.live_files.owner_of(job_id, soon()) == OWNER
    await world.live_files.clear(job_id, soon())
    assert await world.live_files.owner_of(job_id, soon()) is None
