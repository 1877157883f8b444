"""Stops, starts, rotations, deletions and their workers that cross each other's path: what must come of it, and what must not."""

import asyncio
from datetime import timedelta

import pytest

from lifecycle.racing import ASKED, DOWN, of
from opencode_lifecycle.model.errors import StackHeld, UpstreamUnavailable
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.stores import StackQuery
from world import ADA, BACKEND, OPERATOR, World


async def test_a_stop_that_never_reached_nomad_is_forgotten_by_an_ensure(world: World):
    await world.ensure()
    runs = world.live_allocations()[0].id
    world.nomad.faults.fail_next("deregister", DOWN, times=None)
    await of(world).stop(ADA, hold=False, **ASKED)
    await world.phase(Phase.STOPPING)
    ensured = await world.ensure(wait=None)
    world.nomad.faults.heal()

    assert not ensured.ready
    await world.phase(Phase.RUNNING)
    assert world.live_allocations()[0].id == runs


async def test_a_hold_is_not_lifted_by_a_recreate(world: World):
    await world.ensure()
    await world.finished(await of(world).stop(ADA, by=OPERATOR, hold=True, if_match=None))

    with pytest.raises(StackHeld):
        await of(world).recreate(ADA, **ASKED)


async def test_a_rotation_whose_reply_was_lost_is_found_done(world: World):
    await world.ensure()
    world.vault.fail_next("rotate", UpstreamUnavailable("vault", "rotate", "reset"), after_commit=True)

    done = await world.finished(await of(world).rotate_password(ADA, **ASKED))

    assert done.state is OperationState.SUCCEEDED
    assert world.stack().status.runtime.secret_version == 2


async def test_a_password_that_an_administrator_put_is_taken_as_the_new_one(world: World):
    await world.ensure()
    world.vault.put(world.job_id(), {"password": "put-by-hand-0123456789", "env": {}})

    done = await world.finished(await of(world).rotate_password(ADA, **ASKED))

    assert done.state is OperationState.SUCCEEDED
    credentials = await of(world).credentials(ADA, by=BACKEND, wrap_seconds=None)
    assert credentials.password.reveal() == "put-by-hand-0123456789"


async def test_a_secret_that_is_gone_is_made_anew_by_a_rotation(world: World):
    await world.ensure()
    world.vault.delete_latest(world.job_id())

    done = await world.finished(await of(world).rotate_password(ADA, **ASKED))

    assert done.state is OperationState.SUCCEEDED
    assert (await world.ensure()).ready


async def test_what_runs_runs_on_while_no_new_password_can_be_written(world: World):
    await world.ensure()
    runs = world.live_allocations()[0].id
    world.vault.faults.fail_next("rotate", UpstreamUnavailable("vault", "rotate"), times=None)

    rotation = await of(world).rotate_password(ADA, **ASKED)
    await world.until(lambda: world.stack().status.attempts > 0)

    assert [each.id for each in world.live_allocations()] == [runs]
    world.vault.faults.heal()
    assert (await world.finished(rotation)).state is OperationState.SUCCEEDED


async def test_a_rotation_of_a_stopped_stack_writes_the_new_password(world: World):
    await world.ensure()
    await world.finished(await of(world).stop(ADA, hold=False, **ASKED))

    done = await world.finished(await of(world).rotate_password(ADA, **ASKED))

    assert done.state is OperationState.SUCCEEDED
    assert world.stack().status.phase is Phase.STOPPED
    assert world.stack().status.secret_version == 2


async def test_a_deletion_never_takes_absent_from_memory(tmp_path):
    world = World(tmp_path, resync_interval=timedelta(seconds=10))
    world.nomad.autorun = False
    world.nomad.faults.fail_next("follow", DOWN, times=None)
    async with world.running():
        hold = world.nomad.faults.hold_next("register", after_commit=True)
        await world.ensure(wait=None)
        await hold.reached.wait()

        done = await world.finished(await of(world).delete(ADA, delete_workspace=False, **ASKED))

        assert done.receipt["job"] == "purged"
        assert world.job_id() not in world.nomad.jobs


async def test_an_ensure_in_the_last_moment_of_a_deletion_is_not_held_up(world: World):
    await world.ensure()
    allocation = world.live_allocations()[0]
    hold = world.nomad.live_files.faults.hold_next("clear")
    deletion = await of(world).delete(ADA, delete_workspace=False, **ASKED)
    world.consul.forget(world.job_id(), allocation.id)
    await hold.reached.wait()
    waiting = asyncio.create_task(world.ensure())
    await world.until(lambda: world.stack().intent.successor is not None)
    hold.release()

    assert (await waiting).ready
    assert (await world.finished(deletion)).receipt["workspace"] == "kept"


async def test_a_stop_withdraws_what_was_to_follow_a_deletion_and_nothing_else(world: World):
    await world.ensure()
    allocation = world.live_allocations()[0]
    world.nomad.autostop = False
    deletion = await of(world).delete(ADA, delete_workspace=False, **ASKED)
    await world.phase(Phase.DELETING)
    await world.ensure(wait=None)

    stop = await of(world).stop(ADA, hold=False, **ASKED)
    again = await of(world).delete(ADA, delete_workspace=False, **ASKED)
    world.nomad.end_allocation(world.job_id())
    world.consul.forget(world.job_id(), allocation.id)
    await world.gone()

    assert again.id == deletion.id
    assert (await of(world).operation(stop.id)).state is OperationState.SUCCEEDED
    assert (await of(world).operation(deletion.id)).receipt is not None


async def test_a_deletion_waits_for_an_allocation_whose_job_was_purged_outside(world: World):
    await world.ensure()
    job_id = world.job_id()
    allocation = world.live_allocations()[0]
    del world.nomad.jobs[job_id]
    world.consul.forget(job_id, allocation.id)
    await of(world).delete(ADA, delete_workspace=False, **ASKED)
    await world.until(lambda: "waiting for allocation" in world.stack().status.message)

    assert job_id in world.vault.job_ids
    world.nomad.end_allocation(job_id)
    await world.gone()


async def test_a_list_does_not_bring_back_a_stack_that_was_deleted_while_it_was_read(world: World):
    await world.ensure()
    read = world.stack()
    allocation = world.live_allocations()[0]
    deletion = await of(world).delete(ADA, delete_workspace=True, **ASKED)
    world.consul.forget(world.job_id(), allocation.id)
    await world.finished(deletion)
    await world.gone()

    world.plane.fleet.put(read)

    assert world.plane.fleet.get(ADA) is None
    assert (await of(world).find(StackQuery())).items == []


async def test_a_deletion_that_comes_between_a_start_and_its_secret_leaves_no_secret_behind(world: World):
    await world.ensure()
    world.consul.forget(world.job_id(), world.live_allocations()[0].id)
    save, deletions = world.store.save, []

    async def delete_before_the_start_is_saved(claimed, progress):
        if progress.status.phase is Phase.PENDING and not deletions:
            deletions.append(await of(world).delete(ADA, delete_workspace=True, **ASKED))
        return await save(claimed, progress)

    world.store.save = delete_before_the_start_is_saved
    await of(world).recreate(ADA, **ASKED)
    await world.until(lambda: bool(deletions))

    receipt = (await world.finished(deletions[0])).receipt

    assert receipt["secret"] == "destroyed"
    assert world.job_id() not in world.vault.job_ids
    assert world.job_id() not in world.nomad.live_files.pointers


async def test_an_ensure_after_a_deletion_whose_reply_was_lost_is_not_answered_from_memory(world: World):
    await world.ensure()
    decide = world.store.decide

    async def lose_the_reply(user_id, decision):
        await decide(user_id, decision)
        world.store.decide = decide
        raise UpstreamUnavailable("database", "decide", "the connection broke")

    world.store.decide = lose_the_reply
    with pytest.raises(UpstreamUnavailable):
        await of(world).delete(ADA, delete_workspace=False, **ASKED)

    answer = await world.ensure(wait=None)

    assert not answer.ready
    assert world.stack().intent.successor is not None
