"""OpenCode's data and its versions: when it goes back, when it is its user's, and how a refusal is told."""

from dataclasses import replace
from datetime import timedelta

import pytest

from data_worlds import (
    NEW,
    OLD,
    WRITTEN,
    Entrypoints,
    moved_to_a_newer_version,
    order_back_what_never_became_healthy,
    receipt,
    world_with,
)
from migrating import QUICK, a_release, kinds_of_events, order, until_outcome
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.migration import DataPolicy, OrderOutcome
from opencode_lifecycle.model.observation import TaskTrouble
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import MigrationState, Phase, Reason
from world import ADA, OPERATOR


@pytest.fixture
async def world(tmp_path):
    async with moved_to_a_newer_version(tmp_path) as world:
        yield world


async def test_what_a_job_was_built_of_stays_known_when_its_stop_is_taken_back(world):
    by = {"by": OPERATOR, "if_match": None}
    before = world.stack().status.built
    await world.plane.provisioning.pin(ADA, world.older, **by)
    away = UpstreamUnavailable("nomad", "deregister", "away")
    world.nomad.faults.fail_next("deregister", away, times=None)
    await world.plane.provisioning.stop(ADA, hold=False, **by)
    await world.phase(Phase.STOPPING)

    await world.ensure(wait=None)

    await world.phase(Phase.RUNNING)
    assert world.stack().status.built == before


async def test_an_older_version_is_left_to_find_out_whether_anything_was_written(world):
    outcome = await until_outcome(world, await order(world, world.older))

    assert outcome is OrderOutcome.DONE
    assert world.entrypoints.named[-1] == ""
    assert world.stack().status.runtime.opencode_version == OLD


async def test_a_stack_whose_user_has_worked_on_keeps_the_newer_version_and_says_why(world):
    world.entrypoints.is_written = True

    outcome = await until_outcome(world, await order(world, world.older))

    await world.until(lambda: world.stack().status.phase is Phase.RUNNING)
    await world.until(lambda: world.stack().status.migrating_since is None)
    status = world.stack().status
    assert (outcome, status.migration_state) == (OrderOutcome.FAILED, MigrationState.FAILED)
    assert status.runtime.opencode_version == NEW
    assert status.reason is Reason.DATA_NEWER
    assert WRITTEN in status.message
    assert "data=restore" in status.message
    told = (await kinds_of_events(world))["phase.stopping"]
    assert told["reason"] == Reason.DATA_NEWER
    assert WRITTEN in told["message"]
    assert world.entrypoints.is_written


async def test_why_it_was_refused_is_read_until_it_can_be(world):
    world.entrypoints.is_written = True
    away = UpstreamUnavailable("nomad", "read file", "away")
    world.nomad.faults.fail_next("read_file", away, times=3)

    await until_outcome(world, await order(world, world.older))

    assert WRITTEN in world.stack().status.refusal.message


async def test_an_order_that_gives_up_what_was_written_names_the_newest_snapshot_of_that_version(world):
    world.entrypoints.is_written = True

    outcome = await until_outcome(world, await order(world, world.older, restore=True))

    assert outcome is OrderOutcome.DONE
    assert world.entrypoints.named[-1] == world.entrypoints.snapshots[0]["id"]
    assert world.stack().status.runtime.opencode_version == OLD


async def test_a_job_that_names_a_snapshot_is_nobody_elses_when_the_reply_to_its_registration_was_lost(world):
    world.entrypoints.is_written = True
    lost = UpstreamUnavailable("nomad", "register", "the reply was lost")
    world.nomad.faults.fail_next("register", lost, after_commit=True)

    outcome = await until_outcome(world, await order(world, world.older, restore=True))

    named = world.entrypoints.snapshots[0]["id"]
    assert (outcome, world.entrypoints.named[-1]) == (OrderOutcome.DONE, named)
    assert "stack.edited_outside" not in await kinds_of_events(world)
    assert world.stack().status.built.restore == named


async def test_a_recover_can_give_up_what_was_written_and_moves_the_stack_whatever_the_policy(world):
    world.entrypoints.is_written = True
    await until_outcome(world, await order(world, world.older))
    await world.until(lambda: world.stack().status.phase is Phase.RUNNING)

    await world.plane.provisioning.recover(ADA, by=OPERATOR, if_match=None, data=DataPolicy.RESTORE)

    await world.until(lambda: world.stack().status.migration_state is MigrationState.CURRENT)
    status = world.stack().status
    assert (status.runtime.opencode_version, status.reason, status.refusal) == (OLD, None, None)


async def test_nothing_is_registered_while_it_cannot_be_seen_which_snapshots_there_are(world):
    world.entrypoints.is_written = True
    away = UpstreamUnavailable("nomad", "read file", "away")
    world.nomad.faults.fail_next("read_file", away, times=2)
    await world.store.put_snapshots(ADA, (), observed_at=utc_now(), news=lambda _: None)

    await until_outcome(world, await order(world, world.older, restore=True))

    assert world.entrypoints.named[-1] == world.entrypoints.snapshots[0]["id"]


async def test_data_of_a_version_that_never_became_healthy_goes_back_whatever_that_wrote(world):
    even_newer = await a_release(world, opencode_version="1.20.0")
    world.server_changes = {"version": "0.0.1"}
    order_id = await order(world, even_newer)
    await world.until(lambda: len(world.entrypoints.snapshots) == 2)
    world.entrypoints.is_written = True
    await until_outcome(world, order_id)
    world.server_changes = {}

    await world.phase(Phase.RUNNING)

    assert world.entrypoints.named[-1] == world.entrypoints.snapshots[1]["id"]
    assert world.stack().status.runtime.opencode_version == NEW


async def test_data_of_a_version_that_was_handed_out_is_its_users_also_when_that_fails_afterwards(world):
    away = UpstreamUnavailable("nomad", "read file", "away")
    world.nomad.faults.fail_next("read_file", away, times=None)
    await order(world, await a_release(world, opencode_version="1.20.0"))
    await world.until(lambda: "entrypoint" in world.stack().status.message)
    world.entrypoints.is_written = True
    world.server_changes = {"version": "0.0.1"}

    world.nomad.fail_allocation(world.job_id(), TaskTrouble.EXITED, "Exit Code: 1")
    world.nomad.run_allocation(world.job_id())

    await world.until(lambda: world.stack().status.refused is not None)
    world.nomad.faults.heal()
    await world.phase(Phase.FAILED)
    assert world.stack().status.reason is Reason.DATA_NEWER
    assert world.entrypoints.named[-1] == ""


async def test_data_of_a_version_that_was_handed_out_is_its_users_also_when_its_job_is_registered_again(
    world,
):
    away = UpstreamUnavailable("nomad", "read file", "away")
    world.nomad.faults.fail_next("read_file", away, times=None)
    await order(world, await a_release(world, opencode_version="1.20.0"))
    await world.until(lambda: "entrypoint" in world.stack().status.message)
    world.entrypoints.is_written = True
    world.server_changes = {"version": "0.0.1"}

    await world.nomad.deregister(world.job_id(), purge=False, deadline=Deadline.after(5, "stop it outside"))

    await world.until(lambda: world.stack().status.refused is not None)
    world.nomad.faults.heal()
    await world.phase(Phase.FAILED)
    assert world.stack().status.reason is Reason.DATA_NEWER
    assert world.entrypoints.named[-1] == ""


async def test_data_of_a_version_that_never_became_healthy_goes_back_also_where_it_is_ordered_back(world):
    assert await order_back_what_never_became_healthy(world) is OrderOutcome.DONE

    assert world.entrypoints.named[-1] == world.entrypoints.snapshots[1]["id"]
    assert world.stack().status.runtime.opencode_version == NEW


async def test_a_version_that_finds_no_room_for_a_snapshot_is_taken_back_at_once_with_that_reason(world):
    world.entrypoints.is_full = True

    outcome = await until_outcome(
        world, await order(world, await a_release(world, opencode_version="1.20.0"))
    )

    await world.phase(Phase.RUNNING)
    await world.until(lambda: world.stack().status.migrating_since is None)
    status = world.stack().status
    assert (outcome, status.reason, status.runtime.opencode_version) == (
        OrderOutcome.FAILED,
        Reason.DISK_FULL,
        NEW,
    )
    assert "no room for a snapshot" in status.message
    assert "recover" in status.message


async def test_what_was_set_aside_is_brought_back_with_its_version_by_an_order_of_the_same_kind(world):
    await until_outcome(world, await order(world, world.older, restore=True))
    aside = world.entrypoints.snapshots[-1]

    await until_outcome(world, await order(world, world.newer, restore=True))

    assert aside["opencode_version"] == NEW
    assert world.entrypoints.named[-1] == aside["id"]
    assert world.stack().status.runtime.opencode_version == NEW


async def test_a_newer_version_starts_on_what_there_is_where_nothing_is_given_up(world):
    await until_outcome(world, await order(world, world.older))

    await until_outcome(world, await order(world, world.newer))

    assert world.entrypoints.named[-1] == ""


async def test_without_anything_to_go_back_to_what_was_written_can_be_given_up_as_well(tmp_path):
    world = await world_with(tmp_path)
    entrypoints = Entrypoints(world)
    entrypoints.last, entrypoints.is_written = NEW, True
    entrypoints.snapshots = [receipt(9, OLD, NEW)]
    async with world.running():
        await world.ensure(wait=None)
        await world.phase(Phase.FAILED)

        await world.plane.provisioning.recover(ADA, by=OPERATOR, if_match=None, data=DataPolicy.RESTORE)

        await world.phase(Phase.RUNNING)
        assert entrypoints.named[-1] == receipt(9, OLD, NEW)["id"]


async def test_without_anything_to_go_back_to_a_refusal_is_told_as_well(tmp_path):
    world = await world_with(tmp_path)
    entrypoints = Entrypoints(world)
    entrypoints.last, entrypoints.is_written = NEW, True
    async with world.running():
        await world.ensure(wait=None)

        await world.phase(Phase.FAILED)

        status = world.stack().status
        assert (status.reason, status.message) == (Reason.DATA_NEWER, WRITTEN)


async def test_a_report_that_cannot_be_read_at_all_keeps_no_refusal_from_being_told(tmp_path):
    limits = replace(QUICK, start=timedelta(milliseconds=300))
    world = await world_with(tmp_path, limits=limits)
    entrypoints = Entrypoints(world)
    entrypoints.last, entrypoints.is_written = NEW, True
    away = UpstreamUnavailable("nomad", "read file", "away")
    world.nomad.faults.fail_next("read_file", away, times=None)
    async with world.running():
        answer = await world.ensure(wait=None)

        operation = await world.finished(await world.plane.provisioning.operation(answer.operation))

        assert (operation.state, operation.reason) == (OperationState.FAILED, Reason.DATA_NEWER)
