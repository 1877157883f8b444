"""A change of a running runtime that is refused: the runtime runs on, and whoever asks has the change tried again."""

from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import MigrationState, Reason
from world import ADA, OPERATOR, World

NO = UpstreamRejected("nomad", "register", "no")


async def refused(world: World) -> None:
    """Let Nomad refuse the labels of a runtime once."""
    await world.ensure()
    world.nomad.faults.fail_next("register", NO)
    await world.ensure(labels={"team": "blue"}, wait=None)
    await world.until(lambda: world.stack().is_settled and world.stack().status.reason is Reason.JOB_REJECTED)


async def test_recover_has_a_refused_change_tried_again(world):
    await refused(world)
    (before,) = world.live_allocations()

    operation = await world.plane.provisioning.recover(ADA, by=OPERATOR, if_match=None)

    assert (await world.finished(operation)).state is OperationState.SUCCEEDED
    status = world.stack().status
    assert status.migration_state is MigrationState.CURRENT
    assert (status.reason, status.message) == (None, "")
    assert [each.id for each in world.live_allocations()] == [before.id]


async def test_an_ensure_has_a_refused_change_tried_again(world):
    await refused(world)
    (before,) = world.live_allocations()

    answer = await world.ensure(labels={"team": "blue"})

    assert answer.ready
    assert world.stack().status.migration_state is MigrationState.CURRENT
    assert [each.id for each in world.live_allocations()] == [before.id]


async def test_an_ensure_that_asks_for_nothing_new_has_a_refused_change_tried_again(world):
    await refused(world)

    assert (await world.ensure()).ready

    assert world.stack().status.migration_state is MigrationState.CURRENT


async def test_an_ensure_has_a_change_that_is_refused_each_time_tried_only_once(world):
    await refused(world)
    world.nomad.faults.fail_next("register", NO, times=None)
    tried = world.nomad.faults.calls["register"]

    answer = await world.ensure()

    assert answer.ready  # the runtime that runs is as good as before
    assert answer.view.stack.status.migration_state is MigrationState.FAILED
    assert world.nomad.faults.calls["register"] == tried + 1
