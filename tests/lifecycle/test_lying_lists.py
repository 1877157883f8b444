"""A listing that lacks one job which is there, or its allocation: too few for the brake."""

from datetime import timedelta

import pytest

from opencode_lifecycle.model.observation import ABSENT
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import Phase
from world import ADA, BACKEND, OPERATOR, World

ASKED = {"by": BACKEND, "if_match": None}


@pytest.fixture
async def world(tmp_path):
    made = World(tmp_path, resync_interval=timedelta(hours=1))
    async with made.running():
        await made.until(lambda: made.plane._orphans.pulse.age() is not None)
        yield made


async def lie(world: World) -> None:
    """Let a listing lack the job; what was asked for next is taken up before anybody has looked."""
    await world.until(lambda: not world.plane.dispatcher.at_work and not world.plane.dispatcher._hinted)
    world.plane.fleet.on_change = None
    world.nomad.hide_from_listings(world.job_id())
    await world.plane._nomad.list_once()
    assert world.plane.fleet.observation(world.job_id()).job is ABSENT


async def a_look_at_what_a_listing_lacks(world: World) -> None:
    """Let a listing come, and wait until the stack was looked at directly for it, or was moved by it."""
    looks, phase = world.nomad.faults.calls["observe"], world.stack().status.phase
    await world.plane._nomad.list_once()
    await world.until(
        lambda: world.nomad.faults.calls["observe"] > looks or world.stack().status.phase is not phase
    )
    await world.until(lambda: not world.plane.dispatcher.at_work)


async def test_a_stop_stops_what_a_listing_lacks(world):
    await world.ensure()
    await lie(world)

    operation = await world.plane.provisioning.stop(ADA, hold=False, **ASKED)
    world.plane.fleet.on_change = world.plane._on_change
    await world.until(lambda: world.stack().status.phase is Phase.STOPPED)

    assert (await world.plane.provisioning.operation(operation.id)).state is OperationState.SUCCEEDED
    assert world.live_allocations() == []


@pytest.mark.parametrize("how", ["recreate", "rotate_password"])
async def test_a_recreate_replaces_what_a_listing_lacks(world, how):
    await world.ensure()
    before = world.live_allocations()[0].id
    await lie(world)

    operation = await getattr(world.plane.provisioning, how)(ADA, by=OPERATOR, if_match=None)
    world.plane.fleet.on_change = world.plane._on_change
    await world.until(lambda: world.stack().is_settled)
    found = await world.plane.provisioning.operation(operation.id)

    assert found.state is OperationState.SUCCEEDED
    assert [each.id for each in world.live_allocations()] != [before]


@pytest.mark.parametrize("follows", [None, "recover", "recreate", "delete"])
async def test_a_stop_waits_for_the_end_of_an_allocation_that_a_listing_lacks(world, follows):
    await world.ensure()
    world.nomad.autostop = False
    await world.plane.provisioning.stop(ADA, hold=False, **ASKED)
    await world.until(lambda: world.nomad.jobs[world.job_id()].seen.stopped)
    await world.phase(Phase.STOPPING)

    world.nomad.hide_from_listings(world.job_id(), what="allocations")
    await a_look_at_what_a_listing_lacks(world)
    if follows is not None:
        arguments = {"delete_workspace": False} if follows == "delete" else {}
        await getattr(world.plane.provisioning, follows)(ADA, by=OPERATOR, if_match=None, **arguments)
        await a_look_at_what_a_listing_lacks(world)

    assert world.stack().status.phase in {Phase.STOPPING, Phase.DELETING}
    assert world.nomad.jobs[world.job_id()].seen.stopped
    assert len(world.live_allocations()) == 1


async def test_what_its_own_end_was_told_of_is_not_looked_for(world):
    await world.ensure()
    world.nomad.autostop = False
    await world.plane.provisioning.stop(ADA, hold=False, **ASKED)
    await world.phase(Phase.STOPPING)
    await world.until(lambda: not world.plane.dispatcher.at_work)
    looks = world.nomad.faults.calls["observe"]

    world.nomad.end_allocation(world.job_id())
    await world.phase(Phase.STOPPED)

    assert world.nomad.faults.calls["observe"] == looks


async def test_a_start_is_not_called_missing_because_a_listing_lacks_it(world):
    world.nomad.autorun = False
    await world.ensure(wait=None)
    await world.phase(Phase.STARTING)
    world.nomad.hide_from_listings(world.job_id())
    for _ in range(3):
        await world.plane._nomad.list_once()
    await world.until(lambda: not world.plane.dispatcher.at_work)
    world.nomad.show_in_listings()

    events = (await world.plane.provisioning.events(ADA, None, 100)).items
    assert [e.data["message"] for e in events if e.data.get("reason") == "lost"] == []
