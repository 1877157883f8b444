"""How one stack is brought to another release by the lightest way: live, by a reload, or by a restart."""

from dataclasses import replace
from datetime import timedelta

import pytest

from fakes.opencode import FakeSession
from migrating import QUICK, a_release, kinds_of_events, order, until_outcome, until_state
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.migration import OrderOutcome
from opencode_lifecycle.model.states import MigrationState, Reason, WhenStale
from world import ADA, World, ids, server_of


@pytest.fixture
async def world(tmp_path):
    """One in which nothing stale is put right but by an order."""
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        yield world


# --- live


async def test_instructions_reach_the_same_process_and_count_when_they_are_there(world):
    before = ids(world)
    release = await a_release(world, instructions="Be brief.")

    outcome = await until_outcome(world, await order(world, release))

    status = world.stack().status
    assert (outcome, status.migration_state) == (OrderOutcome.DONE, MigrationState.CURRENT)
    assert (status.release, status.footing.release) == (release, release)
    assert ids(world) == before
    assert server_of(world).reloads == 0


async def test_instructions_that_did_not_arrive_yet_are_waited_for(world):
    world.nomad.files.deaf.add(world.job_id())
    order_id = await order(world, await a_release(world, instructions="Be brief."))
    await until_state(world, MigrationState.VERIFYING)
    assert world.stack().status.order_done != order_id

    world.nomad.files.deaf.clear()
    world.nomad.deliver(world.job_id())

    assert await until_outcome(world, order_id) is OrderOutcome.DONE


async def test_a_restart_brings_what_was_not_delivered(tmp_path):
    world = World(
        tmp_path, limits=replace(QUICK, delivery=timedelta(milliseconds=100)), when_stale=WhenStale.REPORT
    )
    async with world.running():
        await world.ensure()
        world.nomad.files.deaf.add(world.job_id())
        release = await a_release(world, instructions="Be brief.")
        await until_outcome(world, await order(world, release))

        await until_outcome(world, await order(world, release, fresh=True))

        assert world.stack().status.migration_state is MigrationState.CURRENT
        assert world.stack().status.release == release


# --- reload


async def test_managed_configuration_is_read_anew_by_the_same_process(world):
    before = ids(world)
    release = await a_release(world, managed_config='{"share": "disabled"}')

    outcome = await until_outcome(world, await order(world, release))

    assert outcome is OrderOutcome.DONE
    assert ids(world) == before
    assert server_of(world).reloads == 1


async def test_a_configuration_is_not_read_anew_while_the_agent_works(world):
    server_of(world).busy = True
    order_id = await order(world, await a_release(world, managed_config='{"share": "disabled"}'))
    await until_state(world, MigrationState.DRAINING)
    assert server_of(world).reloads == 0

    server_of(world).busy = False

    assert await until_outcome(world, order_id) is OrderOutcome.DONE
    assert server_of(world).reloads == 1


# --- restart


async def test_another_version_is_started_at_idle_and_is_what_the_stack_stands_on_then(world):
    before = ids(world)
    release = await a_release(world, opencode_version="1.18.35")

    outcome = await until_outcome(world, await order(world, release))

    status = world.stack().status
    assert (outcome, status.migration_state) == (OrderOutcome.DONE, MigrationState.CURRENT)
    assert status.runtime.opencode_version == "1.18.35"
    assert status.footing.release == release
    assert ids(world) != before


async def test_an_order_for_what_is_there_already_is_done_at_once(world):
    before = ids(world)

    assert await until_outcome(world, await order(world)) is OrderOutcome.DONE
    assert ids(world) == before


async def test_turns_that_a_restart_has_cut_off_are_told(world):
    world.server_changes = {
        "sessions": [FakeSession(id="ses_9", changed_at=utc_now(), was_cut=True)],
    }

    await until_outcome(world, await order(world, await a_release(world, opencode_version="1.18.35")))

    events = await kinds_of_events(world)
    assert [turn["session"] for turn in events["stack.turns_cut_off"]["turns"]] == ["ses_9"]


async def test_a_turn_is_told_by_the_restart_that_cut_it_off_and_by_no_later_one(world):
    old = FakeSession(id="ses_9", changed_at=utc_now(), was_cut=True)
    world.server_changes = {"sessions": [old]}
    await until_outcome(world, await order(world, await a_release(world, opencode_version="1.18.35")))
    went_on = replace(old, id="ses_8"), replace(old, changed_at=old.changed_at + timedelta(seconds=1))

    for sessions in ([old], [old, went_on[0]], [went_on[1], went_on[0]]):
        world.server_changes = {"sessions": sessions}
        await until_outcome(world, await order(world, fresh=True))

    told = await world.store.latest_events(ADA, "stack.turns_cut_off", limit=10)
    assert [[turn["session"] for turn in event.data["turns"]] for event in reversed(told)] == [
        ["ses_9"],
        ["ses_8"],
        ["ses_9"],
    ]


async def test_what_nomad_would_refuse_is_found_before_anything_is_stopped(world):

    before = ids(world)
    world.nomad.faults.fail_next("validate", UpstreamRejected("nomad", "validate", "1 error occurred"))

    await order(world, await a_release(world, opencode_version="1.18.35"))
    await until_state(world, MigrationState.FAILED)

    assert (ids(world), world.stack().status.reason) == (before, Reason.JOB_REJECTED)
