"""When a stack is taken up next, and what is done then."""

from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import StackNotFound
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.states import Phase
from world import ADA, World

PAUSE = Backoff(first=300, most=300)


@pytest.fixture
async def world(tmp_path):
    limits = Limits(
        start=timedelta(seconds=60), stop=timedelta(seconds=60), retry=PAUSE, idle_after=timedelta(0)
    )
    world = World(tmp_path, limits=limits)
    async with world.running():
        yield world


async def test_a_failed_stack_tells_when_it_is_tried_again_and_what_is_tried(world):
    world.server_changes = {"version": "0.0.1"}
    await world.ensure(wait=None)
    await world.phase(Phase.FAILED)
    await world.until(lambda: world.live_allocations() == [])
    await world.until(lambda: world.plane.dispatcher.at_work == 0)

    look = await world.plane.oversight.next_look(ADA)

    assert timedelta(0) < look.due_at - utc_now() <= timedelta(seconds=300)
    assert look.steps[0] == "call it pending (wrong_version)"
    assert look.steps[-1] == "register the job"
    assert world.stack().status.phase is Phase.FAILED


async def test_a_stack_that_cannot_be_placed_tells_when_it_is_looked_at_again(world):
    world.nomad.refuse_placement("no node has the memory")
    await world.ensure(wait=None)
    await world.phase(Phase.STARTING)
    await world.until(lambda: world.plane.dispatcher.at_work == 0)

    look = await world.plane.oversight.next_look(ADA)

    assert look.due_at is not None
    assert look.due_at - utc_now() < timedelta(seconds=60)


async def test_a_stack_that_runs_as_it_should_waits_for_nothing(world):
    await world.ensure()
    await world.until(lambda: world.plane.dispatcher.at_work == 0)

    look = await world.plane.oversight.next_look(ADA)

    assert (look.due_at, look.at_work, look.steps) == (None, False, [])


async def test_a_stack_that_a_worker_is_at_says_so(world):
    hold = world.vault.hold_next("ensure")
    await world.ensure(wait=None)
    await hold.reached.wait()

    look = await world.plane.oversight.next_look(ADA)
    hold.release()

    assert look.at_work
    assert look.steps[0] == "make its secret, or take the one there is"


async def test_of_a_user_without_a_stack_nothing_is_next(world):
    with pytest.raises(StackNotFound):
        await world.plane.oversight.next_look(UserId("nobody"))


async def test_hints_are_taken_up_without_asking_each_time_who_else_is_due(world, monkeypatch):
    await world.ensure()
    claim, asked = world.store.claim, []

    async def noting(*, limit, hinted, **values):
        if hinted:
            asked.append((limit, len(hinted)))
        return await claim(limit=limit, hinted=hinted, **values)

    monkeypatch.setattr(world.store, "claim", noting)
    monkeypatch.setattr(world.plane.dispatcher, "_poll", 60.0)

    await world.ensure("bob")

    assert [limit for limit, hinted in asked[1:] if limit != hinted] == []
    assert len(asked) > 1


async def test_others_that_are_due_are_asked_for_beside_hints_once_a_period(world, monkeypatch):
    await world.ensure()
    claim, asked = world.store.claim, []

    async def noting(*, limit, hinted, **values):
        asked.append(limit > len(hinted))
        return await claim(limit=limit, hinted=hinted, **values)

    monkeypatch.setattr(world.store, "claim", noting)
    monkeypatch.setattr(world.plane.dispatcher, "_poll", 0.0)

    await world.ensure("bob")

    assert all(asked)
    assert asked
