"""A stack of a group that stops idle ones: stopped when nobody uses it, awake for whoever does."""

from dataclasses import replace
from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.group import GroupWish
from opencode_lifecycle.model.identifiers import UserId, new_operation_id
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import Desired, MigrationState, Phase, Reason
from opencode_lifecycle.ports.stores import Decision
from rollout_worlds import a_new_release
from world import ADA, OPERATOR, World, server_of

QUICK = Limits(
    start=timedelta(seconds=60),
    stop=timedelta(seconds=60),
    poll=timedelta(milliseconds=20),
    idle_after=timedelta(0),
    idle_poll=timedelta(milliseconds=20),
)
NAMES = frozenset({"idle_stop_after"})
SOON = timedelta(milliseconds=100)


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, limits=QUICK)
    async with world.running():
        yield world


async def let_idle_ones_stop(world: World, after: timedelta = SOON) -> None:
    await world.plane.groups.put("default", GroupWish(names=NAMES, idle_stop_after=after), by=OPERATOR)
    world.plane.dispatcher.hint(ADA)


async def test_a_stack_that_nobody_uses_is_stopped_and_says_so(world):
    await world.ensure()
    await let_idle_ones_stop(world)

    stack = await world.phase(Phase.STOPPED)

    assert (stack.status.reason, stack.intent.desired) == (Reason.IDLE, Desired.RUNNING)
    assert world.live_allocations() == []


async def test_by_itself_no_stack_is_stopped_for_being_idle(world):
    await world.ensure()
    before = [each.id for each in world.live_allocations()]
    world.plane.dispatcher.hint(ADA)
    await world.until(lambda: world.plane.dispatcher.at_work == 0)

    assert [each.id for each in world.live_allocations()] == before


async def test_an_ensure_wakes_it(world):
    await world.ensure()
    await let_idle_ones_stop(world)
    await world.phase(Phase.STOPPED)
    await world.plane.groups.put("default", GroupWish(names=NAMES, idle_stop_after=None), by=OPERATOR)

    answer = await world.ensure()

    assert (answer.ready, world.stack().status.phase) == (True, Phase.RUNNING)


async def test_what_was_asked_for_has_its_outcome_before_it_falls_asleep_and_the_next_ensure_wakes_it(world):
    await let_idle_ones_stop(world)
    await world.ensure(wait=None)

    stack = await world.phase(Phase.STOPPED)

    operation = await world.finished(await world.plane.provisioning.operation(stack.intent.last_operation))
    assert operation.state is OperationState.SUCCEEDED
    await world.plane.groups.put("default", GroupWish(names=NAMES, idle_stop_after=None), by=OPERATOR)
    assert (await world.ensure()).ready


async def test_a_change_that_is_under_way_comes_to_its_end_before_the_stack_falls_asleep(world):
    await world.ensure()
    server_of(world).busy = True
    release = await a_new_release(world, managed_config='{"share": "disabled"}')
    await world.plane.provisioning.pin(ADA, release, by=OPERATOR, if_match=None)
    await world.until(lambda: world.stack().status.migration_state is MigrationState.DRAINING)

    await let_idle_ones_stop(world, timedelta(milliseconds=1))
    server_of(world).busy = False
    status = (await world.phase(Phase.STOPPED)).status

    assert (status.reason, status.release) == (Reason.IDLE, release)
    assert (status.migration_state, status.migrating_since) == (MigrationState.CURRENT, None)


async def test_an_ensure_wakes_it_whatever_became_of_the_one_before(world):
    """A service of before may have left that without an outcome."""
    await world.ensure()
    await let_idle_ones_stop(world)
    stack = await world.phase(Phase.STOPPED)
    await world.plane.groups.put("default", GroupWish(names=NAMES, idle_stop_after=None), by=OPERATOR)
    open_still = replace(
        await world.plane.provisioning.operation(stack.intent.last_operation),
        id=new_operation_id(),
        state=OperationState.RUNNING,
        finished_at=None,
    )

    def left(situation):
        intent = replace(situation.stack.intent, last_operation=open_still.id)
        return Decision(stack=replace(situation.stack, intent=intent), operation=open_still)

    await world.store.decide(ADA, left)

    assert (await world.ensure()).ready


async def test_it_sleeps_on_when_the_service_starts_anew(world):
    await world.ensure()
    await let_idle_ones_stop(world)
    await world.phase(Phase.STOPPED)
    stopped_in = world.nomad.jobs[world.job_id()].seen.version

    async with world.another_plane().running(world.content):
        assert world.nomad.jobs[world.job_id()].seen.version == stopped_in
        assert world.stack().status.phase is Phase.STOPPED


async def test_an_agent_at_work_keeps_it_awake(world):
    await world.ensure()
    server_of(world).busy = True
    before = [each.id for each in world.live_allocations()]
    await let_idle_ones_stop(world)
    await world.until(lambda: world.plane.fleet.get(ADA).activity is not None)

    assert [each.id for each in world.live_allocations()] == before
    server_of(world).busy = False
    await world.phase(Phase.STOPPED)


async def test_a_lease_keeps_it_awake(world):
    await world.ensure()
    before = [each.id for each in world.live_allocations()]
    stack = await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))
    world.plane.fleet.put(stack)
    await let_idle_ones_stop(world)
    await world.until(lambda: world.plane.dispatcher.at_work == 0)

    assert [each.id for each in world.live_allocations()] == before
    assert world.stack().status.phase is Phase.RUNNING


async def test_a_lease_that_comes_before_the_stop_is_committed_keeps_it_awake(world):
    await world.ensure()
    before = [each.id for each in world.live_allocations()]
    hold = world.prober.hold_next("activity", after_commit=True)
    await let_idle_ones_stop(world)
    await hold.reached.wait()
    await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))
    hold.release()
    await world.until(lambda: world.plane.dispatcher.at_work == 0)

    assert [each.id for each in world.live_allocations()] == before


async def test_a_change_that_is_asked_for_while_it_falls_asleep_wakes_it(world):
    world.nomad.autostop = False
    await world.ensure()
    await let_idle_ones_stop(world)
    await world.phase(Phase.STOPPING)
    await world.plane.groups.put("default", GroupWish(names=NAMES, idle_stop_after=None), by=OPERATOR)
    await world.ensure(labels={"team": "x"}, wait=None)
    world.nomad.autostop = True
    world.nomad.end_allocation(world.job_id())

    stack = await world.phase(Phase.RUNNING)

    assert stack.intent.labels == {"team": "x"}


async def test_what_was_used_a_moment_ago_is_not_stopped_yet(world):
    await world.ensure()
    server_of(world).changed_at = utc_now()
    await let_idle_ones_stop(world, timedelta(minutes=30))
    await world.until(lambda: world.plane.dispatcher.at_work == 0)

    assert world.stack().status.phase is Phase.RUNNING
