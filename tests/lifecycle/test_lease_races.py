"""A backend begins to work in the very moment in which its runtime is interrupted: one of the two is told, never neither."""

from dataclasses import replace
from datetime import timedelta

import pytest

from fakes.faults import Hold
from fakes.opencode import FakeOpenCode, FakeProber
from lifecycle.racing import order_fresh_start
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import StackDraining
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.states import MigrationState, Phase
from opencode_lifecycle.ports.prober import Activity
from opencode_lifecycle.ports.stores import Decision
from world import ADA, World, content, ids

MINUTE = timedelta(seconds=60)


class SlowProber(FakeProber):
    """One whose next answer about activity can be held back after what it says was read."""

    answers: Hold | None = None

    async def activity(self, **asked: object) -> Activity | None:
        activity = await super().activity(**asked)
        hold, self.answers = self.answers, None
        if hold is not None:
            await hold.wait()
        return activity


@pytest.fixture
async def world(tmp_path):
    """One in which a runtime that is idle is put right at once, and looked at again and again until then."""
    limits = Limits(
        start=timedelta(seconds=60),
        stop=timedelta(seconds=60),
        poll=timedelta(milliseconds=20),
        idle_after=timedelta(0),
        idle_poll=timedelta(milliseconds=20),
        delivery_poll=timedelta(milliseconds=20),
    )
    world = World(tmp_path, limits=limits)
    world.prober = SlowProber()
    async with world.running():
        # Nobody listens to it, so that every look is the last act of a plan.
        world.plane.busy_watch.consider = lambda _: None
        await world.ensure()
        yield world


def server_of(world: World) -> FakeOpenCode:
    (server,) = world.prober.servers.values()
    return server


async def want(world: World, **changes: object) -> None:
    """Have the stack want a release of other content, as a rollout does."""
    made = content(**changes)
    values = {name: getattr(made, name) for name in made.__dataclass_fields__}
    release = Release(id=made.id, number=0, created_at=utc_now(), **values)
    await world.store.add_release(release)

    def decide(situation):
        stack = situation.stack
        intent = replace(stack.intent, generation=stack.intent.generation + 1, wanted_release=release.id)
        return Decision(stack=replace(stack, intent=intent), wake=True)

    _, decision = await world.store.decide(ADA, decide)
    world.plane.fleet.put(decision.stack)
    world.plane.dispatcher.hint(ADA)


CONFIG = {"managed_config": '{"share": "disabled"}'}
ENVIRONMENT = {"environment": {"LANG": "C"}}


async def until_the_last_look(world: World, **changes: object) -> Hold:
    """Return when the look is under way that is the last act before the runtime is interrupted."""
    server = server_of(world)
    server.busy = True
    await want(world, **changes)
    await world.until(lambda: world.stack().status.migration_state is MigrationState.DRAINING)
    server.busy = False
    if "environment" not in changes:
        hold = world.prober.answers = Hold()
        await hold.reached.wait()
        return hold
    # Between the look that finds it idle and the last one Nomad is asked whether it would take the job.
    checking = world.nomad.faults.hold_next("validate")
    await checking.reached.wait()
    hold = world.prober.answers = Hold()
    checking.release()
    await hold.reached.wait()
    return hold


@pytest.mark.parametrize("changes", [CONFIG, ENVIRONMENT], ids=["reload", "restart"])
async def test_a_lease_that_comes_after_the_last_look_keeps_the_runtime(world, changes):
    before = ids(world)
    hold = await until_the_last_look(world, **changes)

    await world.plane.leases.extend(ADA, MINUTE)
    hold.release()
    await world.until(lambda: "a backend is at work with it" in world.stack().status.message)

    assert ids(world) == before
    assert server_of(world).reloads == 0
    assert world.stack().status.phase is Phase.RUNNING


async def test_once_a_reload_is_committed_a_lease_is_refused_until_it_is_over(world):
    reloading = world.prober.hold_next("reload")
    await want(world, **CONFIG)
    await reloading.reached.wait()

    with pytest.raises(StackDraining):
        await world.plane.leases.extend(ADA, MINUTE)
    reloading.release()
    await world.until(lambda: world.stack().status.migration_state is MigrationState.CURRENT)

    assert server_of(world).reloads == 1
    assert await world.plane.leases.extend(ADA, MINUTE)


async def test_a_reload_that_a_lease_prevented_is_made_when_the_lease_is_over(world):
    hold = await until_the_last_look(world, **CONFIG)
    await world.plane.leases.extend(ADA, timedelta(seconds=1))
    hold.release()

    await world.until(lambda: server_of(world).reloads == 1)

    assert world.stack().busy_until <= utc_now()
    await world.until(lambda: world.stack().status.migration_state is MigrationState.CURRENT)


async def test_while_only_the_live_files_of_a_runtime_change_it_may_be_leased(world):
    publishing = world.nomad.live_files.faults.hold_next("point")
    await want(world, instructions="Be brief.")
    await publishing.reached.wait()

    assert await world.plane.leases.extend(ADA, MINUTE)
    publishing.release()
    await world.until(lambda: world.stack().status.migration_state is MigrationState.CURRENT)

    assert server_of(world).reloads == 0


async def test_a_runtime_that_restarts_by_itself_under_a_lease_is_not_replaced_by_an_order_meanwhile(world):
    before = ids(world)
    await world.plane.leases.extend(ADA, MINUTE)
    await order_fresh_start(world)
    await world.until(lambda: world.stack().status.migration_state is MigrationState.DRAINING)
    world.nomad.restart_task(world.job_id())
    await world.until(lambda: (runtime := world.stack().status.runtime) is not None and runtime.restarts == 1)

    assert ids(world) == before
