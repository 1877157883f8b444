"""What becomes of a stack that gets its row back: what runs runs on, and as it is."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lost_rows import HASTY, first_sweep, lose_marked_row, remember_removal
from opencode_lifecycle.lifecycle.orphans.adoption import Found, as_it_is
from opencode_lifecycle.lifecycle.orphans.judgement import orphans_among, was_left_behind
from opencode_lifecycle.lifecycle.reconciling.wanted import environment_of
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import ClaimLost, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import job_id_of
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.states import Desired, Phase
from world import ADA, BACKEND, OPERATOR, SITE, World, content

ADAS_JOB = job_id_of("main", ADA)
NOW = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, orphan_limits=HASTY)
    async with world.running():
        await first_sweep(world)
        yield world


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
    await lose_marked_row(world)
    await sweep(world)

    await adopt(world, kind)

    assert world.stack().status.phase is Phase.RUNNING
    assert world.live_allocations() == before


@pytest.mark.parametrize("kind", [OrphanKind.JOB, OrphanKind.SECRET])
async def test_what_was_started_since_the_last_comparison_runs_on(world, kind):
    await world.ensure()
    await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))
    await lose_marked_row(world)
    await sweep(world)
    world.nomad.edit_outside(world.job_id())  # as an operator's `nomad job start` does
    before = [each.id for each in world.live_allocations()]

    await adopt(world, kind)

    assert world.stack().status.phase is Phase.RUNNING
    assert [each.id for each in world.live_allocations()] == before


async def test_what_was_stopped_since_the_last_comparison_stays_stopped(world):
    await world.ensure()
    await lose_marked_row(world)
    await sweep(world)
    world.nomad.purge_outside(world.job_id())

    await adopt(world, OrphanKind.JOB)

    assert world.stack().intent.desired is Desired.STOPPED
    assert world.live_allocations() == []


async def test_nothing_is_adopted_while_nomad_cannot_say_what_runs(world):
    await world.ensure()
    before = world.live_allocations()
    await lose_marked_row(world)
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
    await lose_marked_row(world)
    await sweep(world)
    orphan = await orphan_of(world, OrphanKind.JOB)
    world.nomad.become_another_cluster()
    await world.until(lambda: ConditionKind.OTHER_CLUSTER in world.plane.fleet.frozen)

    with pytest.raises(UpstreamUnavailable):
        await world.plane.oversight.adopt_orphan(orphan.id, by=OPERATOR)

    assert world.plane.fleet.get(ADA) is None


# --- as what it is adopted

WISH = {
    "resources": "large",
    "group": "night",
    "labels": {"team": "blue"},
    "environment": {"TZ": "UTC", "LANG": "C", "MINE": "x"},
}
OF_RELEASE = {"TZ": "CET", "LANG": "C"}


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_stack_is_adopted_as_what_it_was_asked_to_be(tmp_path, stopped):
    world = World(tmp_path, orphan_limits=HASTY)
    world.content = content(environment=OF_RELEASE)
    async with world.running():
        await first_sweep(world)
        await world.ensure(**WISH)
        if stopped:
            await world.finished(
                await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None)
            )
        before, intent = world.live_allocations(), world.stack().intent
        await lose_marked_row(world)
        await sweep(world)

        await adopt(world, OrphanKind.JOB)

        stack = world.stack()
        assert stack.status.phase is (Phase.STOPPED if stopped else Phase.RUNNING)
        assert (stack.status.stale, stack.status.edits) == (frozenset(), ())
        assert world.live_allocations() == before
        adopted = stack.intent
        assert (adopted.resources, adopted.group, adopted.labels) == ("large", "night", {"team": "blue"})
        assert adopted.environment == {"TZ": "UTC", "MINE": "x"}
        assert environment_of(stack, release_of(world)) == {**OF_RELEASE, **intent.environment}


async def test_history_says_what_an_adoption_took_over_and_no_values_of_the_environment(world):
    await world.ensure(**WISH)
    await lose_marked_row(world)
    await sweep(world)

    await adopt(world, OrphanKind.JOB)

    (event,) = [each for each in await events(world) if each.kind == "stack.adopt"]
    assert event.data["resources"] == {"from": "small", "to": "large"}
    assert event.data["labels"] == {"from": {}, "to": {"team": "blue"}}
    assert event.data["environment"] == {"names": ["LANG", "MINE", "TZ"]}
    assert event.data["not_known"] == []


async def test_history_says_what_of_an_adopted_stack_is_not_known(world):
    await world.ensure(**WISH)
    job = world.nomad.jobs[world.job_id()]
    job.specification = {name: value for name, value in job.specification.items() if name != "Variables"}
    await lose_marked_row(world)
    await sweep(world)

    await adopt(world, OrphanKind.JOB)

    assert world.stack().intent.resources == "large"
    (event,) = [each for each in await events(world) if each.kind == "stack.adopt"]
    assert event.data["not_known"] == ["labels", "group", "environment"]


@pytest.mark.parametrize(
    "said",
    [
        {"labels": "blue", "environment": ["x"], "description": 7},
        {"labels": {"team": 1}, "environment": {"A": None}, "description": "- group: `NO`"},
        {},
    ],
)
async def test_what_somebody_else_submitted_is_taken_over_only_where_it_makes_sense(world, said):
    await world.ensure(resources="large")
    job = world.nomad.jobs[world.job_id()].seen
    stack = world.stack()
    plain = replace(stack, intent=replace(stack.intent, resources="small"))

    intent, unknown = as_it_is(plain, Found(job=job, variables=said), release_of(world), SITE)

    assert (intent, unknown) == (stack.intent, [])


async def test_of_two_classes_that_are_alike_the_usual_one_is_taken(world):
    await world.ensure()
    job, release = world.nomad.jobs[world.job_id()].seen, release_of(world)
    alike = replace(
        release, resource_classes={"alike": release.resource_classes["small"], **release.resource_classes}
    )

    intent, _ = as_it_is(world.stack(), Found(job=job, variables={}), alike, SITE)

    assert intent.resources == "small"


async def test_nothing_is_adopted_while_nomad_cannot_say_with_what_it_was_submitted(world):
    await world.ensure()
    await lose_marked_row(world)
    await sweep(world)
    orphan = await orphan_of(world, OrphanKind.JOB)
    world.nomad.faults.fail_next("submitted", UpstreamUnavailable("nomad", "submitted"))

    with pytest.raises(UpstreamUnavailable):
        await world.plane.oversight.adopt_orphan(orphan.id, by=OPERATOR)

    await adopt(world, OrphanKind.JOB)


def release_of(world: World) -> Release:
    release = world.plane.provisioning._releases.current
    assert release is not None
    return release


async def events(world: World) -> Sequence[Event]:
    return (await world.plane.provisioning.events(ADA, None, 100)).items


# --- a database that was restored


async def restore_a_database_that_knows_only_of_the_deletion(world: World) -> None:
    """Delete the stack, save the database, ensure the stack anew, and go back to what was saved."""
    live, saved = world.path / "world.db", world.path / "saved.db"
    async with world.running():
        await first_sweep(world)
        await world.ensure()
        world.consul.forget(world.job_id(), world.live_allocations()[0].id)
        await world.finished(
            await world.plane.provisioning.delete(ADA, delete_workspace=False, by=BACKEND, if_match=None)
        )
    _copy(live, saved)
    async with world.running():
        await world.ensure()
        await world.until(lambda: world.vault._items[world.job_id()].installation == "main")
    _copy(saved, live)


def _copy(source: Path, target: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


@pytest.mark.parametrize(
    ("seconds", "is_left_behind"),
    [(-3600, True), (-60, True), (-59, False), (0, False), (3600, False), (None, False)],
)
def test_a_removal_speaks_only_of_what_was_surely_written_before_it(seconds, is_left_behind):
    written_at = None if seconds is None else NOW + timedelta(seconds=seconds)
    find = Find(kind=OrphanKind.JOB, job_id=ADAS_JOB, reference=ADAS_JOB).dated(written_at)

    assert was_left_behind(find, NOW, clocks_apart=timedelta(minutes=1)) is is_left_behind
    assert not was_left_behind(find, None, clocks_apart=timedelta(minutes=1))


@pytest.mark.parametrize(
    ("kind", "stopped", "age"), [("job", True, 9), ("job", False, 1), ("secret", True, 1)]
)
def test_a_job_grows_no_younger_by_being_stopped(kind, stopped, age):
    find = Find(kind=OrphanKind(kind), job_id=ADAS_JOB, reference=ADAS_JOB, installation="main", user_id=ADA)
    about = {"installation": "main", "apart": timedelta(0), "now": NOW}
    (first,) = orphans_among([find.dated(NOW - timedelta(minutes=9))], {}, **about)

    later = replace(find, details={"stopped": stopped}).dated(NOW - timedelta(minutes=1))
    (again,) = orphans_among([later], {first.id: first}, **about)

    assert again.find.written_at == NOW - timedelta(minutes=age)


@pytest.mark.parametrize("clocks_apart", [0, 3600])
async def test_a_removal_that_is_older_than_a_stack_takes_nothing_of_it(tmp_path, clocks_apart):
    limits = replace(HASTY, clocks_apart=timedelta(seconds=clocks_apart))
    world = World(tmp_path, orphan_limits=limits)
    await restore_a_database_that_knows_only_of_the_deletion(world)
    before = world.live_allocations()
    async with world.running():
        await world.until(lambda: world.plane._orphans.last != ())

        await sweep(world)

        await world.phase(Phase.RUNNING)
        assert world.live_allocations() == before
        assert world.job_id() in world.vault.job_ids
        assert world.job_id() in world.nomad.live_files.pointers


async def test_a_secret_that_is_younger_than_the_removal_waits_for_a_person(tmp_path):
    world = World(tmp_path, orphan_limits=HASTY)
    await restore_a_database_that_knows_only_of_the_deletion(world)
    world.nomad.purge_outside(world.job_id())
    async with world.running():
        await world.until(lambda: world.plane._orphans.last != ())

        for _ in range(3):
            await sweep(world)

        assert world.job_id() in world.vault.job_ids


async def test_what_is_started_before_a_removal_is_acted_on_is_not_stopped_by_it(world):
    await world.ensure()
    await lose_marked_row(world)
    remember_removal(world)
    await sweep(world)
    hold = world.consul.hold_next("list_all", after_commit=True)
    sweeping = asyncio.create_task(sweep(world))
    await hold.reached.wait()  # the jobs were read before
    world.nomad.edit_outside(world.job_id())
    before = [each.id for each in world.live_allocations()]
    hold.release()
    await sweeping

    assert [each.id for each in world.live_allocations()] == before

    await sweep(world)
    await world.phase(Phase.RUNNING)
    assert [each.id for each in world.live_allocations()] == before


@pytest.mark.parametrize("what", ["the secret is written anew", "a job is registered"])
async def test_a_secret_that_is_used_again_since_it_was_looked_at_is_not_destroyed(world, what):
    await world.vault.ensure(world.job_id(), soon())
    await world.vault.mark(world.job_id(), installation="main", user_id=ADA, deadline=soon())
    remember_removal(world)
    await sweep(world)
    hold = world.vault.hold_next("look", after_commit=True)
    sweeping = asyncio.create_task(sweep(world))
    await hold.reached.wait()
    if what == "a job is registered":
        world.nomad.plant_job(world.job_id())
    else:
        world.vault.put(world.job_id(), {"password": "another"})
    hold.release()
    await sweeping

    assert world.job_id() in world.vault.job_ids


async def test_a_job_that_was_registered_anew_since_it_was_found_is_not_stopped(world):
    await world.ensure()
    await lose_marked_row(world)
    await sweep(world)
    orphan = await orphan_of(world, OrphanKind.JOB)
    world.nomad.edit_outside(world.job_id())
    before = world.live_allocations()

    with pytest.raises(ClaimLost):
        await world.plane.oversight.delete_orphan(orphan.id, by=OPERATOR)
    assert world.live_allocations() == before

    await sweep(world)
    await world.phase(Phase.RUNNING)


def soon() -> Deadline:
    return Deadline.after(5, "test")
