"""OpenCode's data and its versions: what is kept of it, when it goes back, and how a refusal is told."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from lifecycle.test_migrating import QUICK, a_release, kinds_of_events, order, until_outcome
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.migration import AtDeadline, DataPolicy, OrderOutcome
from opencode_lifecycle.model.observation import TaskTrouble
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.snapshot import REPORT_PATH
from opencode_lifecycle.model.states import MigrationState, Phase, Reason, WhenStale
from world import ADA, OPERATOR, World

OLD, NEW = "1.18.34", "1.19.0"
WRITTEN = "since snapshot S it was written to: 1 session, 2 messages"


class Entrypoints:
    """What entrypoints do for the data, by the rules of the real one, in every allocation that starts to run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.last = ""
        self.is_written = False
        self.is_full = False
        self.snapshots: list[dict] = []
        self.taken = 0
        self.named: list[str] = []
        world.nomad.on_run = self.on_run

    def on_run(self, job_id, allocation) -> None:
        variables = self.world.nomad.jobs[job_id].specification["Variables"]
        version, named = variables["opencode_version"], variables.get("restore_snapshot", "")
        self.named.append(named)
        refused = None
        if self.last not in {"", version}:
            is_older = tuple(map(int, version.split("."))) < tuple(map(int, self.last.split(".")))
            if self.is_full:
                refused = (74, "no room for a snapshot of the data", TaskTrouble.DISK_FULL)
            elif is_older and self.is_written and not named:
                refused = (65, WRITTEN, TaskTrouble.DATA_NEWER)
            else:
                self.snapshots.append(receipt(self.taken, self.last, version))
                self.taken += 1
                self.is_written = False
        report = {
            "version": version,
            "snapshots": self.snapshots,
            "refused": {"code": refused[0], "reason": refused[1]} if refused else None,
        }
        self.world.nomad.files.of.setdefault(allocation.id, {})[REPORT_PATH] = json.dumps(report).encode()
        if refused:
            asyncio.get_running_loop().call_soon(
                self.world.nomad.trouble_allocation, job_id, refused[2], f"Exit Code: {refused[0]}"
            )
        else:
            self.last = version
            self.world._on_run(job_id, allocation)


def receipt(number: int, of: str, before: str) -> dict:
    return {
        "id": f"01ARZ3NDEKTSV4RRFFQ69G5F{number:02}",
        "taken_at": "2026-11-24T17:00:00Z",
        "opencode_version": of,
        "before_version": before,
        "migrations": {"count": 32, "last": "20260511173437_session-metadata"},
        "bytes": 12,
        "files": [{"path": "opencode.db", "bytes": 12, "sha256": "a" * 64}],
    }


async def world_with(tmp_path, **changes) -> World:
    return World(tmp_path, **{"limits": QUICK, "when_stale": WhenStale.REPORT, **changes})


@pytest.fixture
async def world(tmp_path):
    """One whose stack was moved to a newer version by an order, and can be ordered back to `world.older`."""
    world = await world_with(tmp_path)
    entrypoints = Entrypoints(world)
    async with world.running():
        await world.ensure()
        world.older, world.entrypoints = world.stack().intent.wanted_release, entrypoints
        world.newer = await a_release(world, opencode_version=NEW)
        assert await until_outcome(world, await order(world, world.newer)) is OrderOutcome.DONE
        yield world


async def order_back_what_never_became_healthy(world: World) -> OrderOutcome | None:
    """Have a version fail, and the stack ordered back to what ran before while that is being stopped."""
    even_newer = await a_release(world, opencode_version="1.20.0")
    world.server_changes = {"version": "0.0.1"}
    world.nomad.autostop = False
    order_id = await order(world, even_newer)
    await world.phase(Phase.STOPPING)
    world.nomad.end_allocation(world.job_id())
    await until_outcome(world, order_id)
    world.entrypoints.is_written = True
    world.server_changes = {}
    back = await order(world, world.newer)
    world.nomad.end_allocation(world.job_id())
    return await until_outcome(world, back)


async def stored(world: World) -> list[str]:
    return [snapshot.id for snapshot in (await world.store.snapshots_of(ADA)).snapshots]


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
