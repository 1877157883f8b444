"""A runtime that takes another's place by one registration, and when it does not."""

from dataclasses import replace
from datetime import timedelta

import pytest

from migrating import QUICK, a_release, order, until_outcome
from opencode_lifecycle.model.errors import StackDraining, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.migration import OrderOutcome
from opencode_lifecycle.model.observation import ClientStatus
from opencode_lifecycle.model.states import MigrationState, Phase, WhenStale
from world import ADA, World, ids


@pytest.fixture
async def world(tmp_path):
    """One in which nothing stale is put right but by an order."""
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        yield world


async def another_image(world: World) -> str:
    return await order(world, await a_release(world, image="another"))


async def test_what_is_to_follow_is_registered_over_what_runs_and_nothing_is_stopped_apart(world):
    before = ids(world)
    calls = dict(world.nomad.faults.calls)

    assert await until_outcome(world, await another_image(world)) is OrderOutcome.DONE

    assert ids(world) != before
    assert world.stack().status.runtime.allocation_id == ids(world)[0]
    assert world.stack().status.migration_state is MigrationState.CURRENT
    made = {name: world.nomad.faults.calls[name] - calls.get(name, 0) for name in ("register", "deregister")}
    assert made == {"register": 1, "deregister": 0}


async def test_a_job_that_was_planned_is_not_rendered_again_and_its_secret_not_written(world):
    rendered, ensured = world.nomad.faults.calls["render"], world.vault.faults.calls["ensure"]

    await until_outcome(world, await another_image(world))

    assert world.nomad.faults.calls["render"] == rendered + 1
    assert world.vault.faults.calls["ensure"] == ensured


async def test_a_runtime_of_which_nothing_is_known_yet_is_asked_once_what_it_does(world):
    asked = world.prober.faults.calls["activity"]

    await until_outcome(world, await another_image(world))

    assert world.prober.faults.calls["activity"] == asked + 1


async def test_until_the_old_one_has_ended_the_stack_is_called_stopping_and_nobody_may_use_it(world):
    world.nomad.autostop = False
    (before,) = world.live_allocations()
    order_id = await another_image(world)
    await world.until(lambda: len(world.live_allocations()) == 2)
    await world.phase(Phase.STOPPING)
    await world.until(
        lambda: world.stack().status.job_modify_index == world.nomad.jobs[world.job_id()].seen.modify_index
    )
    with pytest.raises(StackDraining):
        await world.plane.leases.extend(UserId(ADA), timedelta(seconds=60))
    assert world.stack().status.phase is Phase.STOPPING

    [old] = [each for each in world.live_allocations() if each.id == before.id]
    world.nomad._update(old, world.job_id(), client_status=ClientStatus.COMPLETE)

    assert await until_outcome(world, order_id) is OrderOutcome.DONE
    assert world.stack().status.runtime.allocation_id != before.id


async def test_a_registration_whose_reply_is_lost_is_found_again_and_made_once(world):
    world.nomad.faults.fail_next("register", UpstreamUnavailable("nomad", "register"), after_commit=True)
    registered = world.nomad.faults.calls["register"]

    assert await until_outcome(world, await another_image(world)) is OrderOutcome.DONE

    assert world.nomad.faults.calls["register"] == registered + 1
    assert world.nomad.jobs[world.job_id()].seen.meta["image"] == "another"


async def test_a_job_that_somebody_changed_in_between_is_stopped_first(world):
    hold = world.nomad.faults.hold_next("register")
    order_id = await another_image(world)
    await hold.reached.wait()
    world.nomad.change_outside(world.job_id(), description="mine now")
    hold.release()

    assert await until_outcome(world, order_id) is OrderOutcome.DONE

    assert world.nomad.faults.calls["deregister"] == 1
    assert world.nomad.jobs[world.job_id()].seen.meta["image"] == "another"


async def test_another_version_is_started_when_nothing_runs_any_more(world):
    order_id = await order(world, await a_release(world, opencode_version="1.18.35"))

    assert await until_outcome(world, order_id) is OrderOutcome.DONE

    assert world.nomad.faults.calls["deregister"] == 1
    assert world.stack().status.runtime.opencode_version == "1.18.35"


async def test_what_finds_no_place_while_others_are_ending_waits_for_one_and_stops_nothing(world):
    (before,) = world.live_allocations()
    world.nomad.refuse_placement("1 node without enough network: port collision")
    order_id = await another_image(world)
    await world.until(lambda: "port collision" in world.stack().status.message)
    running_meanwhile = ids(world)
    world.nomad.allow_placement()

    assert await until_outcome(world, order_id) is OrderOutcome.DONE

    assert running_meanwhile == [before.id]
    assert world.nomad.faults.calls["deregister"] == 0


async def test_what_finds_no_place_for_long_is_stopped_for(tmp_path):
    world = World(tmp_path, limits=replace(QUICK, placement=timedelta(0)), when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        world.nomad.refuse_placement("no room for two")
        order_id = await another_image(world)
        await world.until(lambda: world.nomad.faults.calls["deregister"] == 1)
        world.nomad.allow_placement()

        assert await until_outcome(world, order_id) is OrderOutcome.DONE


async def test_an_order_back_before_anything_was_registered_restarts_nothing(world):
    before, wanted = ids(world), world.stack().intent.wanted_release
    world.nomad.faults.fail_next("register", UpstreamUnavailable("nomad", "register"), times=None)
    await another_image(world)
    await world.phase(Phase.STOPPING)
    order_id = await order(world, wanted)
    world.nomad.faults.heal()

    assert await until_outcome(world, order_id) is OrderOutcome.DONE

    assert ids(world) == before
    assert world.stack().status.runtime.allocation_id == before[0]
