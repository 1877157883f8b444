"""An order to a stack whose agent is at work or leased: it waits, and at its deadline leaves the stack alone or moves it by force."""

from datetime import timedelta

import pytest

from fakes.opencode import FakeSession
from migrating import QUICK, a_release, kinds_of_events, order, until_outcome, until_state
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.migration import AtDeadline, OrderOutcome
from opencode_lifecycle.model.states import MigrationState, Phase, WhenStale
from world import ADA, World, ids, server_of

PAST = timedelta(seconds=-1)


@pytest.fixture
async def world(tmp_path):
    """One in which nothing stale is put right but by an order."""
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        yield world


@pytest.mark.parametrize(
    ("at_deadline", "outcome", "state"),
    [
        (AtDeadline.SKIP, OrderOutcome.SKIPPED, MigrationState.STALE),
        (AtDeadline.HOLD, OrderOutcome.HELD, MigrationState.HELD),
    ],
)
async def test_an_agent_that_works_until_the_deadline_is_left_alone(world, at_deadline, outcome, state):
    before = ids(world)
    server_of(world).busy = True
    release = await a_release(world, opencode_version="1.18.35")

    order_id = await order(world, release, deadline=utc_now() + PAST, at_deadline=at_deadline)

    assert await until_outcome(world, order_id) is outcome
    await until_state(world, state)
    assert ids(world) == before


async def test_a_runtime_of_which_nothing_is_known_at_its_deadline_is_looked_at_and_moved_if_it_is_idle(
    world,
):
    release = await a_release(world, opencode_version="1.18.35")

    assert (
        await until_outcome(world, await order(world, release, deadline=utc_now() + PAST))
        is OrderOutcome.DONE
    )


@pytest.mark.parametrize("at_deadline", [AtDeadline.SKIP, AtDeadline.HOLD])
async def test_an_agent_that_works_until_the_deadline_of_a_fresh_start_is_left_alone_after_it_too(
    world, at_deadline
):
    before = ids(world)
    server_of(world).busy = True
    await until_outcome(
        world, await order(world, fresh=True, deadline=utc_now() + PAST, at_deadline=at_deadline)
    )

    await world.ensure(labels={"team": "a"}, wait=None)
    await world.until(lambda: world.stack().is_settled and not world.plane.dispatcher.at_work)

    assert ids(world) == before
    assert world.stack().status.phase is Phase.RUNNING


async def test_an_agent_that_is_stopped_by_force_has_its_turns_aborted_first_and_named(world):
    server = server_of(world)
    server.sessions.append(FakeSession(id="ses_1", changed_at=utc_now(), at_work=True))
    release = await a_release(world, opencode_version="1.18.35")

    order_id = await order(world, release, deadline=utc_now() + PAST, at_deadline=AtDeadline.FORCE)

    assert await until_outcome(world, order_id) is OrderOutcome.DONE
    assert server.sessions[0].was_aborted
    events = await kinds_of_events(world)
    assert [turn["session"] for turn in events["stack.turns_aborted"]["turns"]] == ["ses_1"]


async def test_a_lease_keeps_a_runtime_from_being_stopped_for_as_long_as_it_lasts(world):
    before = ids(world)
    await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))
    order_id = await order(world, await a_release(world, opencode_version="1.18.35"))
    await until_state(world, MigrationState.DRAINING)

    assert (world.stack().status.order_done, ids(world)) != (order_id, [])
    assert ids(world) == before


async def test_a_lease_that_comes_before_the_stop_is_committed_prevents_it(world):
    """It is granted between the last look and the commit: the commit itself finds it."""
    before = ids(world)
    hold = world.prober.hold_next("activity", after_commit=True)
    await order(world, await a_release(world, opencode_version="1.18.35"))
    await hold.reached.wait()
    await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))
    hold.release()
    await until_state(world, MigrationState.DRAINING)

    assert ids(world) == before


async def test_an_order_to_force_ends_a_lease_at_its_deadline(world):
    before = ids(world)
    await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))
    release = await a_release(world, opencode_version="1.18.35")

    order_id = await order(world, release, deadline=utc_now() + PAST, at_deadline=AtDeadline.FORCE)

    assert await until_outcome(world, order_id) is OrderOutcome.DONE
    assert ids(world) != before


async def test_an_order_to_rotate_makes_the_password_first_and_waits_for_the_agent(world):
    server_of(world).busy = True
    order_id = await order(world, rotate=True)
    await until_state(world, MigrationState.DRAINING)
    assert (world.stack().status.secret_version, world.stack().status.runtime.secret_version) == (2, 1)

    server_of(world).busy = False

    assert await until_outcome(world, order_id) is OrderOutcome.DONE
    assert world.stack().status.runtime.secret_version == 2
