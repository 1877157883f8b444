"""What becomes of a stack that gets its row back: what runs runs on, and as it is."""

import sqlite3
from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.orphans import OrphanLimits
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.orphan import Orphan, OrphanKind
from opencode_lifecycle.model.states import Desired, Phase
from world import ADA, BACKEND, OPERATOR, World

HASTY = OrphanLimits(confirmations=2, grace=timedelta(0), apart=timedelta(0))


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, orphan_limits=HASTY)
    async with world.running():
        await first_sweep(world)
        yield world


async def first_sweep(world: World) -> None:
    """Wait until the comparison of the start has ended, which would count, too."""
    await world.until(lambda: world.plane._orphans.pulse.age() is not None)


async def lose_row(world: World) -> None:
    """Take the row out of the database behind everybody's back, when everything of the stack says whose it is."""
    await world.until(lambda: world.vault._items[world.job_id()].installation == "main")
    with sqlite3.connect(world.path / "world.db") as database:
        database.execute("DELETE FROM user_stacks WHERE user_id = ?", (ADA,))
    world.plane.fleet.remove(UserId(ADA))


async def sweep(world: World) -> None:
    await world.plane._orphans.sweep_once()


async def orphan_of(world: World, kind: OrphanKind) -> Orphan:
    page = await world.plane.oversight.orphans(after=None, limit=100)
    (found,) = [each for each in page.items if each.find.kind is kind]
    return found


async def adopt(world: World, kind: OrphanKind) -> None:
    """Adopt what the last comparison found of that kind, and wait until the stack has come to rest."""
    await world.plane.oversight.adopt_orphan((await orphan_of(world, kind)).id, by=OPERATOR)
    await world.until(lambda: world.stack().is_settled)


@pytest.mark.parametrize("kind", OrphanKind)
async def test_whatever_part_of_a_stack_is_adopted_its_runtime_runs_on(world, kind):
    await world.ensure()
    before = world.live_allocations()
    await lose_row(world)
    await sweep(world)

    await adopt(world, kind)

    assert world.stack().status.phase is Phase.RUNNING
    assert world.live_allocations() == before


@pytest.mark.parametrize("kind", [OrphanKind.JOB, OrphanKind.SECRET])
async def test_what_was_started_since_the_last_comparison_runs_on(world, kind):
    await world.ensure()
    await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))
    await lose_row(world)
    await sweep(world)
    world.nomad.edit_outside(world.job_id())  # as an operator's `nomad job start` does
    before = [each.id for each in world.live_allocations()]

    await adopt(world, kind)

    assert world.stack().status.phase is Phase.RUNNING
    assert [each.id for each in world.live_allocations()] == before


async def test_what_was_stopped_since_the_last_comparison_stays_stopped(world):
    await world.ensure()
    await lose_row(world)
    await sweep(world)
    world.nomad.purge_outside(world.job_id())

    await adopt(world, OrphanKind.JOB)

    assert world.stack().intent.desired is Desired.STOPPED
    assert world.live_allocations() == []


async def test_nothing_is_adopted_while_nomad_cannot_say_what_runs(world):
    await world.ensure()
    before = world.live_allocations()
    await lose_row(world)
    await sweep(world)
    orphan = await orphan_of(world, OrphanKind.SECRET)
    world.nomad.faults.fail_next("observe", UpstreamUnavailable("nomad", "observe"))

    with pytest.raises(UpstreamUnavailable):
        await world.plane.oversight.adopt_orphan(orphan.id, by=OPERATOR)
    assert world.plane.fleet.get(ADA) is None

    await adopt(world, OrphanKind.SECRET)
    assert world.live_allocations() == before


async def test_what_another_cluster_shows_decides_no_adoption(world):
    await world.ensure()
    await lose_row(world)
    await sweep(world)
    orphan = await orphan_of(world, OrphanKind.JOB)
    world.nomad.become_another_cluster()
    await world.until(lambda: ConditionKind.OTHER_CLUSTER in world.plane.fleet.frozen)

    with pytest.raises(UpstreamUnavailable):
        await world.plane.oversight.adopt_orphan(orphan.id, by=OPERATOR)

    assert world.plane.fleet.get(ADA) is None
