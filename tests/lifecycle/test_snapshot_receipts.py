"""Each snapshot that an entrypoint takes, restores or forgets is told once, whoever looks first and whatever comes between."""

import pytest

from data_worlds import (
    NEW,
    OLD,
    Entrypoints,
    moved_to_a_newer_version,
    order_back_what_never_became_healthy,
    receipt,
    stored,
    world_with,
)
from migrating import a_release, kinds_of_events, order, until_outcome
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.migration import AtDeadline, DataPolicy, OrderOutcome
from opencode_lifecycle.model.states import Phase
from world import ADA, OPERATOR, World


@pytest.fixture
async def world(tmp_path):
    async with moved_to_a_newer_version(tmp_path) as world:
        yield world


async def test_receipts_are_kept_of_a_start_that_took_a_snapshot_without_anybody_asking(world):
    assert await stored(world) == [world.entrypoints.snapshots[0]["id"]]
    told = (await kinds_of_events(world))["stack.snapshots"]
    assert told["taken"] == await stored(world)
    assert (told["opencode_version"], told["pruned"], told["restored"]) == (NEW, [], None)


async def taken(world: World) -> list[str]:
    page = await world.store.find_events(user_id=ADA, after=None, limit=200)
    return [id_ for event in page.items if event.kind == "stack.snapshots" for id_ in event.data["taken"]]


async def test_a_receipt_is_told_once_also_where_somebody_else_has_looked_before(world):
    hold = world.nomad.faults.hold_next("read_file")
    order_id = await order(world, world.older)
    await hold.reached.wait()
    assert len((await world.plane.snapshots.of(ADA)).snapshots) == 2

    hold.release()
    await until_outcome(world, order_id)

    assert await taken(world) == await stored(world)


async def test_a_receipt_is_told_also_of_a_snapshot_that_is_looked_up_in_order_to_be_named(world):
    even_newer = await a_release(world, opencode_version="1.20.0")
    world.server_changes = {"version": "0.0.1"}
    order_id = await order(world, even_newer)
    await until_outcome(world, order_id)
    world.server_changes = {}
    await world.phase(Phase.RUNNING)
    await world.until(lambda: world.stack().status.migrating_since is None)

    assert await taken(world) == await stored(world)


async def test_a_receipt_is_told_also_of_what_was_set_aside_for_a_version_that_is_ordered_back(world):
    await order_back_what_never_became_healthy(world)

    assert await taken(world) == await stored(world)
    assert await stored(world) == [snapshot["id"] for snapshot in world.entrypoints.snapshots]


async def test_a_receipt_is_told_also_where_data_goes_back_that_nobody_has_named_a_snapshot_of(world):
    world.server_changes = {"version": "0.0.1"}
    world.prober.servers.clear()
    order_id = await order(world, world.older)
    await until_outcome(world, order_id)
    world.server_changes = {}

    await world.phase(Phase.RUNNING)
    await world.until(lambda: world.stack().status.migrating_since is None)

    assert await stored(world) == [snapshot["id"] for snapshot in world.entrypoints.snapshots]


async def test_a_receipt_is_told_also_where_a_version_that_nobody_waited_for_is_ordered_back_at_once(world):
    by = {"by": OPERATOR, "if_match": None}
    await world.finished(await world.plane.provisioning.stop(ADA, hold=False, **by))
    await world.plane.provisioning.pin(ADA, await a_release(world, opencode_version="1.20.0"), **by)
    world.nomad.autorun = False
    await world.plane.provisioning.start(ADA, **by)
    await world.until(lambda: len(world.live_allocations()) == 1)
    order_id = await order(world, world.newer)
    world.nomad.autorun = True
    world.nomad.run_allocation(world.job_id())

    assert await until_outcome(world, order_id) is OrderOutcome.DONE

    assert len(world.entrypoints.snapshots) == 3
    assert await stored(world) == [snapshot["id"] for snapshot in world.entrypoints.snapshots]


async def test_a_receipt_is_told_also_where_a_start_is_taken_back_that_replaced_nothing(world):
    by = {"by": OPERATOR, "if_match": None}
    await world.finished(await world.plane.provisioning.stop(ADA, hold=False, **by))
    await world.plane.provisioning.pin(ADA, await a_release(world, opencode_version="1.20.0"), **by)
    world.server_changes = {"version": "0.0.1"}
    await world.plane.provisioning.start(ADA, **by)
    await world.until(lambda: world.stack().status.refused is not None)
    world.server_changes = {}

    await world.phase(Phase.RUNNING)
    await world.until(lambda: world.stack().is_settled and world.plane.dispatcher.at_work == 0)

    assert len(world.entrypoints.snapshots) == 3
    assert await stored(world) == [snapshot["id"] for snapshot in world.entrypoints.snapshots]


async def test_a_receipt_is_told_also_where_the_stack_is_held_as_soon_as_it_runs(world):
    by = {"by": OPERATOR, "if_match": None}
    await world.finished(await world.plane.provisioning.stop(ADA, hold=False, **by))
    await world.plane.provisioning.pin(ADA, await a_release(world, opencode_version="1.20.0"), **by)
    world.nomad.autorun = False
    world.server_changes = {"busy": True}
    await world.plane.provisioning.start(ADA, **by)
    await world.until(lambda: len(world.live_allocations()) == 1)
    another = await a_release(world, opencode_version="1.20.0", environment={"LANG": "C"})
    order_id = await order(world, another, deadline=utc_now(), at_deadline=AtDeadline.HOLD)
    world.nomad.autorun = True
    world.nomad.run_allocation(world.job_id())

    assert await until_outcome(world, order_id) is OrderOutcome.HELD

    assert len(world.entrypoints.snapshots) == 2
    assert await taken(world) == [snapshot["id"] for snapshot in world.entrypoints.snapshots]


async def is_found(world: World, version: str) -> None:
    """Have another version registered, nobody told of it, and by the time it is found something else wanted again."""
    by = {"by": OPERATOR, "if_match": None}
    await world.finished(await world.plane.provisioning.stop(ADA, hold=False, **by))
    await world.plane.provisioning.pin(ADA, await a_release(world, opencode_version=version), **by)
    lost = UpstreamUnavailable("nomad", "register", "the reply was lost")
    world.nomad.faults.fail_next("register", lost, after_commit=True)
    await world.plane.provisioning.start(ADA, **by)
    await world.until(lambda: len(world.live_allocations()) == 1)
    await world.plane.provisioning.pin(ADA, world.newer, **by)
    await world.phase(Phase.RUNNING)
    assert world.stack().status.runtime.opencode_version == version


async def test_a_receipt_is_told_also_of_a_version_that_was_found_and_is_left_as_it_is(world):
    await is_found(world, "1.20.0")

    await world.until(lambda: world.stack().is_settled and world.plane.dispatcher.at_work == 0)

    assert len(world.entrypoints.snapshots) == 2
    assert await taken(world) == [snapshot["id"] for snapshot in world.entrypoints.snapshots]


async def test_a_receipt_is_told_also_of_the_start_that_follows_on_a_version_that_was_found(world):
    await is_found(world, "1.20.0")

    assert await until_outcome(world, await order(world, world.newer)) is OrderOutcome.DONE

    assert len(world.entrypoints.snapshots) == 3
    assert await taken(world) == [snapshot["id"] for snapshot in world.entrypoints.snapshots]


async def test_a_receipt_is_told_also_where_an_operator_has_registered_another_version_meanwhile(world):
    world.nomad.change_outside(world.job_id(), opencode_version="1.20.0")
    world.nomad.edit_outside(world.job_id(), opencode_version="1.20.0")
    await world.phase(Phase.FAILED)

    assert await until_outcome(world, await order(world, world.newer)) is OrderOutcome.DONE

    assert len(world.entrypoints.snapshots) == 3
    assert await taken(world) == [snapshot["id"] for snapshot in world.entrypoints.snapshots]


async def test_a_receipt_is_told_also_where_a_failed_stack_gives_up_what_was_written(tmp_path):
    world = await world_with(tmp_path)
    entrypoints = Entrypoints(world)
    entrypoints.last, entrypoints.is_written = NEW, True
    entrypoints.snapshots = [receipt(9, OLD, NEW)]
    async with world.running():
        await world.ensure(wait=None)
        await world.phase(Phase.FAILED)

        await world.plane.provisioning.recover(ADA, by=OPERATOR, if_match=None, data=DataPolicy.RESTORE)
        await world.phase(Phase.RUNNING)
        await world.until(lambda: world.stack().is_settled)

        assert sorted(await stored(world)) == sorted(snapshot["id"] for snapshot in entrypoints.snapshots)


async def test_what_is_forgotten_in_the_workspace_is_told(world):
    [forgotten] = await stored(world)
    del world.entrypoints.snapshots[0]

    await until_outcome(world, await order(world, world.older))

    assert (await kinds_of_events(world))["stack.snapshots"]["pruned"] == [forgotten]
    assert forgotten not in await stored(world)


async def test_a_report_that_cannot_be_read_is_asked_for_again_before_the_start_is_taken_for_granted(world):
    away = UpstreamUnavailable("nomad", "read file", "away")
    world.nomad.faults.fail_next("read_file", away, times=3)

    await until_outcome(world, await order(world, world.older))

    assert len(await stored(world)) == 2


async def test_what_is_no_file_is_no_report_and_holds_nothing_up(world):
    refused = UpstreamRejected("nomad", "read file", "it is no file")
    world.nomad.faults.fail_next("read_file", refused, times=None)

    assert await until_outcome(world, await order(world, world.older)) is OrderOutcome.DONE
