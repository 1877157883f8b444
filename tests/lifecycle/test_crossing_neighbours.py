"""Neighbours that are away, refuse or tell something else at the wrong moment: what is done then, and what is not."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from fakes.opencode import FakeOpenCode
from lifecycle.racing import ASKED, DOWN, milliseconds, of
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.errors import RuntimeNotReady, UpstreamRejected
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import Health, Phase, Reason
from world import ADA, World


async def test_a_sealed_vault_is_asked_with_growing_pauses(world: World):
    world.vault.sealed = True
    await world.ensure(wait=None)
    await world.until(lambda: world.stack().status.attempts >= 3)

    assert world.vault.faults.calls["ensure"] <= world.stack().status.attempts + 1


async def test_a_deletion_that_waits_for_consul_asks_once_a_second(world: World):
    await world.ensure()
    await of(world).delete(ADA, delete_workspace=False, **ASKED)
    await world.until(lambda: world.consul.faults.calls["instances"] >= 3)

    assert world.stack().status.phase is Phase.DELETING
    assert world.store.statements < 200


async def test_what_no_look_puts_right_in_memory_is_acted_on_twice_at_most(world: World):
    await world.ensure()
    await world.finished(await of(world).stop(ADA, hold=False, **ASKED))
    await world.until(lambda: getattr(world.plane.fleet.get(ADA).secret, "user_id", None) == ADA)
    stops = world.nomad.faults.calls["deregister"]
    seen = world.plane.fleet.latest(world.job_id())
    runs = replace(seen.job, stopped=False, modify_index=10**6)

    world.plane.fleet.see(world.job_id(), replace(seen, job=runs, index=10**6))
    await world.until(lambda: world.nomad.faults.calls["deregister"] >= stops + 2)
    for other in ("bob", "cyd"):
        await world.ensure(other)

    assert world.nomad.faults.calls["deregister"] == stops + 2


async def test_what_was_learnt_before_a_refusal_is_kept(world: World):
    world.nomad.faults.fail_next("register", UpstreamRejected("nomad", "register", "no"))
    await world.ensure()
    await world.until(lambda: world.stack().status.reason is Reason.JOB_REJECTED)

    assert world.stack().status.workspace is not None
    deleted = await world.finished(await of(world).delete(ADA, delete_workspace=False, **ASKED))
    assert deleted.receipt["workspace"] == "kept"
    assert len(await world.store.kept_workspaces()) == 1


async def test_a_refused_label_leaves_the_runtime_running(world: World):
    await world.ensure()
    world.nomad.faults.fail_next("register", UpstreamRejected("nomad", "register", "no"))

    await world.ensure(labels={"team": "blue"}, wait=None)
    await world.until(lambda: world.stack().status.reason is Reason.JOB_REJECTED)

    assert world.stack().status.phase is Phase.RUNNING
    assert len(world.live_allocations()) == 1


async def test_an_open_server_stays_stopped_although_the_stop_failed_at_first(world: World):
    world.server_changes = {"password": ""}
    world.nomad.faults.fail_next("deregister", DOWN)

    await world.ensure()
    await world.until(lambda: not world.live_allocations())

    assert world.stack().status.reason is Reason.OPEN_WITHOUT_PASSWORD
    assert len(world.nomad.allocations[world.job_id()]) == 1


async def test_a_second_ensure_of_a_foreign_job_ends_as_the_first(world: World):
    world.nomad.plant_job(world.job_id(), managed_by="somebody-else")
    await world.ensure()

    answer = await world.ensure()

    operation = await of(world).operation(answer.operation)
    assert (await world.finished(operation)).state is OperationState.FAILED


async def test_an_ensure_that_waits_for_a_foreign_job_is_told_as_soon_as_that_is_found_again(world: World):
    world.nomad.plant_job(world.job_id(), managed_by="somebody-else")
    await world.ensure()

    async with asyncio.timeout(10):
        answer = await world.ensure(wait=60)

    assert answer.view.stack.status.reason is Reason.FOREIGN_JOB
    assert not answer.ready


async def test_a_volume_that_vanished_is_not_replaced_by_an_empty_one(world: World):
    await world.ensure()
    await world.finished(await of(world).stop(ADA, hold=False, **ASKED))
    world.nomad.workspaces.lose(world.job_id())

    answer = await world.ensure()

    assert answer.view.stack.status.reason is Reason.WORKSPACE_UNAVAILABLE
    assert world.live_allocations() == []


async def test_a_task_that_restarted_is_not_proven_by_what_it_showed_before(world: World):
    await world.ensure()
    address = world.stack().status.runtime.address
    world.prober.withdraw(address)

    world.nomad.restart_task(world.job_id())
    await world.phase(Phase.STARTING)

    with pytest.raises(RuntimeNotReady):
        await of(world).address(ADA, "internal")
    password = str(world.vault.stored(world.job_id(), 1)["password"])
    world.prober.serve(address, FakeOpenCode(password=password))
    assert (await world.phase(Phase.RUNNING)).status.runtime.restarts == 1


async def test_what_was_heard_of_an_open_server_is_not_held_against_the_next(world: World):
    await world.ensure()
    world.prober.serve(world.stack().status.runtime.address, FakeOpenCode(password=""))
    await world.until(lambda: world.stack().status.reason is Reason.OPEN_WITHOUT_PASSWORD)
    await world.until(lambda: not world.live_allocations())

    done = await world.finished(await of(world).recover(ADA, **ASKED))

    assert done.state is OperationState.SUCCEEDED
    assert world.stack().status.health is Health.HEALTHY


async def test_a_runtime_that_cannot_be_proven_while_consul_is_away_is_not_stopped(tmp_path):
    world = World(
        tmp_path, limits=Limits(start=milliseconds(300), stop=timedelta(seconds=5), poll=milliseconds(50))
    )
    async with world.running():
        world.consul.leaderless = True
        await world.ensure(wait=1)

        assert world.stack().status.phase is Phase.STARTING
        assert world.stack().status.reason is Reason.CONSUL_UNAVAILABLE
        assert len(world.live_allocations()) == 1
        world.consul.leaderless = False
        await world.phase(Phase.RUNNING)


async def test_a_label_does_not_withdraw_the_address_while_nomad_takes_it_in(world: World):
    await world.ensure()
    phases = set()
    world.plane.fleet.on_change, told = (
        lambda known: (phases.add(known.stack.status.phase), told(known)),
        world.plane.fleet.on_change,
    )
    await world.ensure(labels={"team": "blue"})

    assert phases == {Phase.RUNNING}
