"""What a reconcile reports of many stacks, however slow their neighbours are."""

import asyncio

import pytest

from opencode_lifecycle.api import conditional_requests
from opencode_lifecycle.cli import client
from opencode_lifecycle.lifecycle.requests import oversight
from opencode_lifecycle.model.states import WhenStale
from world import OPERATOR, World

USERS = ("ada", "bob", "cyd")


@pytest.fixture
async def edited(tmp_path):
    """One with three stacks whose jobs somebody edited: what is to be done about them Nomad has to be asked."""
    world = World(tmp_path, when_stale=WhenStale.NOW)
    async with world.running():
        for user in USERS:
            await world.ensure(user)
        world.plane.dispatcher._workers = 0
        for user in USERS:
            world.nomad.change_outside(world.job_id(user), description="mine now")
        yield world


async def test_several_stacks_are_planned_at_the_same_time(edited):
    holds = [edited.nomad.faults.hold_next("compare") for _ in USERS]

    report = asyncio.create_task(edited.plane.oversight.reconcile(dry_run=True, by=OPERATOR))
    async with asyncio.timeout(10):
        for hold in holds:
            await hold.reached.wait()
    for hold in holds:
        hold.release()

    assert [plan.user_id for plan in (await report).stacks] == list(USERS)


async def test_what_could_not_be_planned_in_time_is_named_and_says_so(edited, monkeypatch):
    monkeypatch.setattr(oversight, "REPORT_SECONDS", 0.5)
    edited.nomad.faults.hold_next("compare")

    report = await edited.plane.oversight.reconcile(dry_run=True, by=OPERATOR)

    steps = {plan.user_id: plan.steps for plan in report.stacks}
    assert set(steps) == set(USERS)
    assert steps["ada"] == [oversight.NOT_PLANNED]


async def test_a_reconcile_answers_before_its_key_lapses_and_its_caller_gives_up():
    assert (
        min(conditional_requests.IN_FLIGHT.total_seconds(), client.WHOLE_SECONDS) > oversight.REPORT_SECONDS
    )
