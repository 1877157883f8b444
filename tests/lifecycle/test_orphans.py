"""What bears our names without a row: proven, adopted, swept after repeated confirmation, or left alone."""

import sqlite3
from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.orphans import OrphanLimits
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import OrphanNotFound, OrphanNotProven
from opencode_lifecycle.model.identifiers import AllocationId, JobId, UserId, job_id_of
from opencode_lifecycle.model.orphan import OrphanKind
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.model.states import Desired, Phase
from world import ADA, BACKEND, OPERATOR, World

OURS = {"managed_by": "opencode-lifecycle", "installation": "main"}
EVE = UserId("eve")
EVES_JOB = job_id_of("main", EVE)


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, orphan_limits=OrphanLimits(confirmations=2, grace=timedelta(0)))
    async with world.running():
        yield world


def lose_row(world: World, user: str = ADA, *, deleted: bool = False) -> None:
    """Take the row out of the database behind everybody's back, as a restored backup does."""
    with sqlite3.connect(world.path / "world.db") as database:
        database.execute("DELETE FROM user_stacks WHERE user_id = ?", (user,))
        if deleted:
            database.execute(
                "INSERT INTO removed_stacks VALUES (?, 1000000, '2026-01-01 00:00:00.000000')", (user,)
            )
    world.plane.fleet.remove(UserId(user))


async def sweep(world: World, times: int = 1):
    for _ in range(times):
        _, plans = await world.plane._orphans.sweep_once()
    return plans


async def kinds(world: World) -> set[OrphanKind]:
    page = await world.plane.oversight.orphans(after=None, limit=100)
    return {orphan.find.kind for orphan in page.items}


async def test_a_fleet_with_all_its_rows_has_no_orphans(world):
    await world.ensure()

    assert await sweep(world, 3) == []


async def test_everything_of_a_stack_without_its_row_is_found(world):
    await world.ensure()
    await world.until(lambda: world.vault._items[world.job_id()].installation == "main")
    lose_row(world)

    plans = await sweep(world)

    assert {plan.orphan.find.kind for plan in plans} == set(OrphanKind)
    assert all(plan.orphan.proven and plan.orphan.find.user_id == ADA for plan in plans)


async def test_a_runtime_whose_row_was_lost_gets_it_back_and_runs_on(world):
    await world.ensure()
    before = world.live_allocations()[0].id
    lose_row(world)

    await sweep(world, 2)

    stack = await world.phase(Phase.RUNNING)
    assert [each.id for each in world.live_allocations()] == [before]
    assert stack.status.runtime.allocation_id == before
    assert await sweep(world) == []


async def test_an_adoption_is_in_the_history(world):
    await world.ensure()
    lose_row(world)
    await sweep(world, 2)
    await world.phase(Phase.RUNNING)

    events = await world.plane.provisioning.events(ADA, None, 100)

    assert {"orphan.adopted", "stack.adopt"} <= {event.kind for event in events.items}


async def test_a_stopped_job_whose_row_was_lost_gets_it_back_and_stays_stopped(world):
    await world.ensure()
    await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))
    lose_row(world)

    await sweep(world, 2)

    stack = await world.phase(Phase.STOPPED)
    assert stack.intent.desired is Desired.STOPPED
    assert world.live_allocations() == []


async def test_nothing_is_done_about_what_was_found_only_once(world):
    await world.ensure()
    lose_row(world)

    (job, *_) = [plan for plan in await sweep(world) if plan.orphan.find.kind is OrphanKind.JOB]

    assert (job.action, job.message) == ("report", "found 1 of 2 times in a row")
    assert world.plane.fleet.get(ADA) is None


async def test_what_a_deletion_left_behind_is_stopped_purged_and_deleted(world):
    await world.ensure()
    await world.until(lambda: world.vault._items[world.job_id()].installation == "main")
    lose_row(world, deleted=True)

    await sweep(world, 4)

    assert world.job_id() not in world.nomad.jobs
    assert world.job_id() not in world.vault.job_ids
    assert world.job_id() not in world.nomad.live_files.pointers
    assert world.plane.fleet.get(ADA) is None


async def test_data_is_never_swept(world):
    await world.ensure()
    lose_row(world, deleted=True)

    await sweep(world, 5)

    assert world.job_id() in world.nomad.workspaces.volumes
    assert await kinds(world) == {OrphanKind.VOLUME}


async def test_a_kept_workspace_is_no_orphan(world):
    await world.ensure()
    world.consul.forget(world.job_id(), world.live_allocations()[0].id)
    await world.finished(
        await world.plane.provisioning.delete(ADA, delete_workspace=False, by=BACKEND, if_match=None)
    )

    assert await sweep(world, 2) == []


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"managed_by": "somebody", "installation": "main", "user": "eve"},
        {**OURS, "installation": "other", "user": "eve"},
    ],
)
async def test_jobs_of_others_are_not_even_listed(world, meta):
    world.nomad.plant_job(EVES_JOB, **meta)

    assert await sweep(world, 4) == []
    assert EVES_JOB in world.nomad.jobs


@pytest.mark.parametrize("user", ["mallory", ""])
async def test_a_job_whose_mark_and_name_disagree_is_listed_and_left_alone(world, user):
    world.nomad.plant_job(EVES_JOB, **OURS, user=user)

    (plan,) = await sweep(world, 4)

    assert (plan.orphan.proven, plan.action) == (False, "report")
    assert EVES_JOB in world.nomad.jobs


async def test_secrets_of_another_installation_in_the_same_vault_are_left_alone(world):
    job_id = job_id_of("other", EVE)
    await world.vault.ensure(job_id, soon())
    await world.vault.mark(job_id, installation="other", user_id=EVE, deadline=soon())

    assert await sweep(world, 4) == []
    assert job_id in world.vault.job_ids


async def test_a_secret_of_which_no_deletion_is_known_waits_for_a_person(world):
    await world.vault.ensure(EVES_JOB, soon())
    await world.vault.mark(EVES_JOB, installation="main", user_id=EVE, deadline=soon())

    (plan,) = await sweep(world, 4)

    assert (plan.orphan.proven, plan.action) == (True, "report")
    assert EVES_JOB in world.vault.job_ids


async def test_a_service_that_nomad_left_in_consul_is_taken_out(world):
    await world.vault.ensure(EVES_JOB, soon())
    await world.vault.mark(EVES_JOB, installation="main", user_id=EVE, deadline=soon())
    world.consul.register(EVES_JOB, AllocationId("old"), Address(host="127.0.0.1", port=4000))

    await sweep(world, 3)

    assert EVES_JOB not in world.consul.job_ids


async def test_nothing_is_swept_while_a_condition_stands(world):
    for user in ("ada", "bob", "cyd", "dan"):
        await world.ensure(user)
    await world.vault.ensure(EVES_JOB, soon())
    world.nomad.plant_job(EVES_JOB, **OURS, user="eve")
    world.nomad.hide_from_listings(*(world.job_id(user) for user in ("ada", "bob", "cyd", "dan")))
    await world.until(lambda: bool(world.plane.fleet.frozen))

    await sweep(world, 5)

    assert world.plane.fleet.get(EVE) is None


async def test_a_stack_that_is_made_while_everything_is_compared_is_no_orphan(world):
    hold = world.vault.hold_next("list_all", after_commit=True)
    sweeping = world.plane._orphans.sweep_once()

    async def make() -> None:
        await hold.reached.wait()
        await world.ensure()
        hold.release()

    (_, plans), _ = await gather(sweeping, make())

    assert plans == []


async def test_a_row_that_came_meanwhile_keeps_everything_of_its_name(world):
    await world.vault.ensure(EVES_JOB, soon())
    await world.vault.mark(EVES_JOB, installation="main", user_id=EVE, deadline=soon())
    (plan,) = await sweep(world)
    await world.ensure(EVE)

    with pytest.raises(OrphanNotFound):
        await world.plane.oversight.delete_orphan(plan.orphan.id, by=OPERATOR)

    assert EVES_JOB in world.vault.job_ids


async def test_an_operator_can_delete_at_once_what_is_proven(world):
    await world.vault.ensure(EVES_JOB, soon())
    await world.vault.mark(EVES_JOB, installation="main", user_id=EVE, deadline=soon())
    (plan,) = await sweep(world)

    await world.plane.oversight.delete_orphan(plan.orphan.id, by=OPERATOR)

    assert EVES_JOB not in world.vault.job_ids
    assert await kinds(world) == set()


async def test_an_operator_can_adopt_at_once_what_is_proven(world):
    await world.ensure()
    lose_row(world)
    plans = await sweep(world)
    (job,) = [plan.orphan for plan in plans if plan.orphan.find.kind is OrphanKind.JOB]

    view = await world.plane.oversight.adopt_orphan(job.id, by=OPERATOR)

    assert view.stack.user_id == ADA
    await world.phase(Phase.RUNNING)


async def test_what_is_not_proven_is_refused_to_operators_too(world):
    world.nomad.plant_job(JobId(EVES_JOB), **OURS, user="mallory")
    (plan,) = await sweep(world)

    for call in (world.plane.oversight.adopt_orphan, world.plane.oversight.delete_orphan):
        with pytest.raises(OrphanNotProven):
            await call(plan.orphan.id, by=OPERATOR)


async def test_a_dry_run_names_orphans_and_does_not_count_as_a_confirmation(world):
    await world.ensure()
    lose_row(world)

    for _ in range(5):
        report = await world.plane.oversight.reconcile(dry_run=True, by=OPERATOR)

    assert {plan.action for plan in report.orphans} == {"report"}
    assert world.plane.fleet.get(ADA) is None


async def test_a_reconcile_counts_as_a_comparison_and_sees_to_what_is_ripe(world):
    await world.ensure()
    lose_row(world)

    for _ in range(2):
        await world.plane.oversight.reconcile(dry_run=False, by=OPERATOR)

    await world.phase(Phase.RUNNING)


async def gather(*those):
    import asyncio  # noqa: PLC0415

    return await asyncio.gather(*those)


def soon() -> Deadline:
    return Deadline.after(5, "test")
