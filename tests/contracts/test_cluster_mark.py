"""What the brake may rely on of the mark of a cluster, held against the fake and against Nomad."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from contracts.orchestrator_worlds import FakeWorld, RealWorld, real_world, soon


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
async def world(request) -> AsyncIterator[FakeWorld | RealWorld]:
    if request.param == "fake":
        yield FakeWorld()
        return
    async with real_world(request.getfixturevalue("cluster")) as real:
        yield real


@pytest.fixture
def installation() -> str:
    return uuid4().hex[:12]


async def test_a_cluster_that_nobody_marked_bears_no_mark(world, installation):
    assert await world.nomad.cluster_mark.read(installation, soon()) is None


async def test_a_mark_is_found_again(world, installation):
    assert await world.nomad.cluster_mark.write(installation, "a", deadline=soon()) == "a"

    assert await world.nomad.cluster_mark.read(installation, soon()) == "a"


async def test_the_first_mark_stays_and_is_what_a_second_writer_gets(world, installation):
    await world.nomad.cluster_mark.write(installation, "a", deadline=soon())

    assert await world.nomad.cluster_mark.write(installation, "b", deadline=soon()) == "a"
    assert await world.nomad.cluster_mark.read(installation, soon()) == "a"


async def test_a_mark_is_replaced_only_when_that_is_asked_for(world, installation):
    await world.nomad.cluster_mark.write(installation, "a", deadline=soon())

    assert await world.nomad.cluster_mark.write(installation, "b", replace=True, deadline=soon()) == "b"
    assert await world.nomad.cluster_mark.read(installation, soon()) == "b"


async def test_installations_in_one_cluster_have_marks_of_their_own(world, installation):
    await world.nomad.cluster_mark.write(installation, "a", deadline=soon())

    assert await world.nomad.cluster_mark.read(f"{installation[:-1]}x", soon()) is None
