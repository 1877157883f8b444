"""A change that does not work out: what ran before is started again, and it is tried anew when somebody says so."""

from dataclasses import replace
from datetime import timedelta

import pytest

from migrating import QUICK, a_release, order, until_outcome, until_state
from opencode_lifecycle.model.errors import UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.migration import OrderOutcome
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import MigrationState, Phase, Reason, WhenStale
from world import ADA, OPERATOR, World, ids, server_of


@pytest.fixture
async def world(tmp_path):
    """One in which nothing stale is put right but by an order."""
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        yield world


async def test_instructions_that_do_not_arrive_in_time_are_taken_back_and_the_runtime_runs_on(tmp_path):
    world = World(
        tmp_path, limits=replace(QUICK, delivery=timedelta(milliseconds=100)), when_stale=WhenStale.REPORT
    )
    async with world.running():
        await world.ensure()
        before, pointer = ids(world), dict(world.nomad.live_files.pointers[world.job_id()])
        world.nomad.files.deaf.add(world.job_id())

        outcome = await until_outcome(
            world, await order(world, await a_release(world, instructions="Be brief."))
        )

        await world.until(lambda: world.stack().status.migrating_since is None)
        status = world.stack().status
        assert (outcome, status.migration_state) == (OrderOutcome.FAILED, MigrationState.FAILED)
        assert status.reason is Reason.NOT_DELIVERED
        assert (ids(world), status.phase) == (before, Phase.RUNNING)
        assert dict(world.nomad.live_files.pointers[world.job_id()]) == pointer


async def test_a_configuration_that_cannot_be_loaded_is_taken_back_by_a_restart(world):
    before = ids(world)
    first = world.stack().intent.wanted_release
    server_of(world).bad_config = True

    outcome = await until_outcome(
        world, await order(world, await a_release(world, managed_config='{"a": 1}'))
    )

    await world.until(lambda: world.stack().status.phase is Phase.RUNNING and ids(world) != before)
    await world.until(lambda: world.stack().status.reason is Reason.BAD_CONFIG)
    status = world.stack().status
    assert (outcome, status.migration_state) == (OrderOutcome.FAILED, MigrationState.FAILED)
    assert status.release == first


async def test_a_version_that_says_it_is_another_is_taken_back(world):
    first = world.stack().intent.wanted_release
    world.server_changes = {"version": "1.18.34"}

    outcome = await until_outcome(
        world, await order(world, await a_release(world, opencode_version="1.18.35"))
    )

    await world.phase(Phase.RUNNING)
    status = world.stack().status
    assert outcome is OrderOutcome.FAILED
    assert (status.release, status.runtime.opencode_version) == (first, "1.18.34")


async def test_what_was_taken_back_is_shown_stale_and_tried_again_only_when_somebody_says_so(world):
    world.server_changes = {"version": "1.18.34"}
    await until_outcome(world, await order(world, await a_release(world, opencode_version="1.18.35")))
    await world.phase(Phase.RUNNING)
    await until_state(world, MigrationState.FAILED)
    before = ids(world)
    world.server_changes = {}
    world.plane.dispatcher.hint(ADA)
    await world.ensure()
    assert ids(world) == before
    assert world.stack().status.stale

    await until_outcome(world, await order(world))

    assert world.stack().status.runtime.opencode_version == "1.18.35"
    assert world.stack().status.migration_state is MigrationState.CURRENT


async def test_a_recover_clears_the_mark_of_what_was_refused_and_goes_on_as_the_policy_says(world):
    world.server_changes = {"version": "1.18.34"}
    await until_outcome(world, await order(world, await a_release(world, opencode_version="1.18.35")))
    await until_state(world, MigrationState.FAILED)
    await world.phase(Phase.RUNNING)

    operation = await world.plane.provisioning.recover(ADA, by=OPERATOR, if_match=None)

    assert (await world.finished(operation)).state is OperationState.SUCCEEDED
    assert world.stack().status.migration_state is MigrationState.STALE


async def test_an_environment_that_keeps_a_runtime_from_starting_is_taken_back_with_its_reason(tmp_path):
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.NOW)
    async with world.running():
        await world.ensure()
        world.server_changes = {"version": "0.0.1"}
        registered = world.nomad.faults.calls["register"]
        answer = await world.ensure(environment={"LANG": "xx"}, wait=None)
        await world.until(lambda: world.nomad.faults.calls["register"] > registered)
        way_back = world.nomad.faults.hold_next("register")
        await way_back.reached.wait()
        world.server_changes = {}
        way_back.release()

        operation = await world.finished(await world.plane.provisioning.operation(answer.operation))

        assert (operation.state, operation.reason) == (OperationState.FAILED, Reason.TAKEN_BACK)
        variables = world.nomad.jobs[world.job_id()].specification["Variables"]
        assert (variables["environment"], world.stack().status.phase) == ({}, Phase.RUNNING)


async def test_a_password_that_was_rotated_away_is_never_gone_back_to(tmp_path):
    world = World(tmp_path, limits=QUICK)
    async with world.running():
        await world.ensure()
        world.server_changes = {"version": "0.0.1"}
        operation = await world.plane.provisioning.rotate_password(ADA, by=OPERATOR, if_match=None)
        failed = await world.finished(operation)
        world.server_changes = {}
        await world.phase(Phase.RUNNING)

        assert failed.reason is Reason.WRONG_VERSION
        assert world.stack().status.runtime.secret_version == 2


async def test_a_start_that_fails_says_nothing_of_what_is_wanted_by_then(tmp_path):
    world = World(tmp_path, limits=replace(QUICK, start=timedelta(seconds=1)), when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        world.server_changes = {"healthy": False}
        await order(world, await a_release(world, environment={"LANG": "bad"}))
        await world.phase(Phase.STARTING)
        world.server_changes = {}
        good = await a_release(world, environment={"LANG": "good"})

        outcome = await until_outcome(world, await order(world, good))

        assert outcome is OrderOutcome.DONE
        assert (world.stack().status.release, world.stack().status.refused) == (good, None)


async def test_a_start_that_fails_is_replaced_also_where_only_live_files_are_wanted_otherwise_by_then(
    tmp_path,
):
    world = World(tmp_path, limits=replace(QUICK, start=timedelta(seconds=1)), when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        world.server_changes = {"healthy": False}
        await world.plane.provisioning.recreate(ADA, by=OPERATOR, if_match=None)
        await world.phase(Phase.STARTING)
        await world.until(lambda: world.prober.servers and not server_of(world).healthy)
        world.server_changes = {}
        brief = await a_release(world, instructions="Be brief.")

        outcome = await until_outcome(world, await order(world, brief))

        assert (outcome, world.stack().status.release) == (OrderOutcome.DONE, brief)


async def test_what_is_gone_back_to_is_called_by_its_own_release_also_when_nomads_answer_is_lost(tmp_path):
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        before = world.stack().status.release
        world.server_changes = {"version": "0.0.1"}
        registered = world.nomad.faults.calls["register"]
        ordered = await order(world, await a_release(world, environment={"LANG": "bad"}))
        await world.until(lambda: world.nomad.faults.calls["register"] > registered)
        world.nomad.faults.fail_next("register", UpstreamUnavailable("nomad", "register"), after_commit=True)
        way_back = world.nomad.faults.hold_next("register")
        await way_back.reached.wait()
        world.server_changes = {}
        way_back.release()

        assert await until_outcome(world, ordered) is OrderOutcome.FAILED
        await world.phase(Phase.RUNNING)

        assert (world.stack().status.release, world.stack().status.footing.release) == (before, before)


async def test_a_first_start_that_fails_has_nothing_to_go_back_to(tmp_path):
    world = World(tmp_path, limits=replace(QUICK, start=timedelta(milliseconds=300)))
    world.server_changes = {"healthy": False}
    async with world.running():
        await world.ensure(wait=None)

        stack = await world.phase(Phase.FAILED)

        assert (stack.status.reason, stack.status.refused) == (Reason.NEVER_HEALTHY, None)


@pytest.mark.parametrize("what", [{"fresh": True}, {"rotate": True}], ids=["fresh", "rotate"])
async def test_an_order_that_changes_nothing_to_go_back_to_ends_when_its_start_fails(world, what):
    world.server_changes = {"version": "1.18.30"}

    order_id = await order(world, **what)

    assert await until_outcome(world, order_id) is OrderOutcome.FAILED
    status = world.stack().status
    assert (status.phase, status.reason) == (Phase.FAILED, Reason.WRONG_VERSION)


@pytest.mark.parametrize("fresh", [False, True])
async def test_an_order_ends_when_nomad_will_never_take_its_job_and_what_runs_is_left_alone(world, fresh):
    before = ids(world)
    world.nomad.faults.fail_next("validate", UpstreamRejected("nomad", "validate", "no"))
    release = await a_release(world, opencode_version="1.18.35")

    order_id = await order(world, release, fresh=fresh)

    assert await until_outcome(world, order_id) is OrderOutcome.FAILED
    assert world.stack().status.reason is Reason.JOB_REJECTED
    server_of(world).busy = True
    await world.ensure(labels={"team": "a"}, wait=None)
    await world.until(lambda: world.stack().is_settled and not world.plane.dispatcher.at_work)
    assert ids(world) == before


async def test_an_order_outlasts_an_outage_that_holds_its_start_up(tmp_path):
    world = World(
        tmp_path, limits=replace(QUICK, start=timedelta(milliseconds=400)), when_stale=WhenStale.REPORT
    )
    async with world.running():
        await world.ensure()
        world.nomad.faults.fail_next(
            "register", UpstreamUnavailable("nomad", "register", "no leader"), times=None
        )

        order_id = await order(world, await a_release(world, opencode_version="1.18.35"))
        await world.phase(Phase.FAILED)
        world.nomad.faults.heal()

        assert await until_outcome(world, order_id) is OrderOutcome.DONE


async def test_a_start_that_cannot_load_its_configuration_is_taken_back_with_that_reason(tmp_path):
    world = World(
        tmp_path, limits=replace(QUICK, start=timedelta(milliseconds=400)), when_stale=WhenStale.REPORT
    )
    async with world.running():
        await world.ensure()
        world.server_changes = {"broken": {None}}
        release = await a_release(world, opencode_version="1.18.35")

        outcome = await until_outcome(world, await order(world, release))

        world.server_changes = {}
        refusal = world.stack().status.refusal
        assert (outcome, refusal.reason) == (OrderOutcome.FAILED, Reason.BAD_CONFIG)
        assert "cannot load its configuration" in refusal.message
