"""What bears our names without a row: proven, adopted, swept after repeated confirmation, or left alone."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from lost_rows import HASTY, first_sweep, lose_row, remember_removal
from opencode_lifecycle.lifecycle.orphans.judgement import OrphanLimits, orphans_among
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import ClaimLost, OrphanNotFound, OrphanNotProven, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import AllocationId, JobId, UserId, job_id_of
from opencode_lifecycle.model.orphan import Find, OrphanKind
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.model.states import Desired, Phase
from world import ADA, BACKEND, OPERATOR, World

OURS = {"managed_by": "opencode-lifecycle", "installation": "main"}
NOW = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
EVE = UserId("eve")
EVES_JOB = job_id_of("main", EVE)


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, orphan_limits=HASTY)
    async with world.running():
        await first_sweep(world)
        yield world


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


async def test_nothing_is_destroyed_while_something_that_may_use_it_still_ends(world):
    await world.ensure()
    await world.until(lambda: world.vault._items[world.job_id()].installation == "main")
    world.nomad.autostop = False
    lose_row(world, deleted=True)

    await sweep(world, 4)

    (ending,) = world.live_allocations()
    assert ending.desired_status == "stop"
    assert world.job_id() in world.vault.job_ids
    assert world.job_id() in world.nomad.live_files.pointers
    assert world.job_id() in world.consul.job_ids

    world.nomad.end_allocation(world.job_id())
    await sweep(world, 3)
    assert await kinds(world) == {OrphanKind.VOLUME}


async def test_nothing_is_destroyed_that_an_allocation_without_a_job_may_use(world):
    await world.ensure()
    await world.until(lambda: world.vault._items[world.job_id()].installation == "main")
    world.nomad.autostop = False
    world.nomad.purge_outside(world.job_id())
    lose_row(world, deleted=True)

    await sweep(world, 4)

    assert world.live_allocations()
    assert world.job_id() in world.vault.job_ids


async def test_data_is_never_swept(world):
    await world.ensure()
    await world.until(lambda: world.vault._items[world.job_id()].installation == "main")
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


async def test_a_service_that_a_deletion_left_in_consul_is_taken_out(world):
    """Nothing else of its name is there to say whose it is, but the removal of its stack."""
    remember_removal(world, "eve")
    world.consul.register(EVES_JOB, AllocationId("old"), Address(host="127.0.0.1", port=4000))

    first, *_ = await sweep(world)
    await sweep(world, 2)

    assert (first.orphan.proven, first.orphan.find.user_id) == (True, EVE)
    assert EVES_JOB not in world.consul.job_ids


async def test_a_volume_that_a_deletion_left_is_kept_until_a_person_deletes_it(world):
    remember_removal(world, "eve")
    await world.nomad.workspaces.ensure(EVES_JOB, soon())

    (plan,) = await sweep(world, 3)

    assert (plan.orphan.proven, plan.action) == (True, "report")
    await world.plane.oversight.delete_orphan(plan.orphan.id, by=OPERATOR)
    assert EVES_JOB not in world.nomad.workspaces.volumes


async def test_what_nobody_had_a_stack_of_is_not_proven_by_its_name(world):
    world.consul.register(EVES_JOB, AllocationId("old"), Address(host="127.0.0.1", port=4000))

    (plan,) = await sweep(world, 3)

    assert (plan.orphan.proven, plan.action) == (False, "report")
    assert EVES_JOB in world.consul.job_ids


async def test_nothing_is_swept_while_a_condition_stands(world):
    for user in ("ada", "bob", "cyd", "dan"):
        await world.ensure(user)
    await world.vault.ensure(EVES_JOB, soon())
    world.nomad.plant_job(EVES_JOB, **OURS, user="eve")
    world.nomad.hide_from_listings(*(world.job_id(user) for user in ("ada", "bob", "cyd", "dan")))
    await world.until(lambda: bool(world.plane.fleet.frozen))

    await sweep(world, 5)

    assert world.plane.fleet.get(EVE) is None


async def test_a_condition_that_is_raised_during_a_sweep_holds_back_what_is_left_of_it(world):
    for user in ("eve", "fay"):
        job_id = world.job_id(user)
        await world.vault.ensure(job_id, soon())
        await world.vault.mark(job_id, installation="main", user_id=UserId(user), deadline=soon())
        lose_row(world, user, deleted=True)
    await sweep(world)
    hold = world.vault.hold_next("destroy")
    sweeping = asyncio.create_task(sweep(world))
    await hold.reached.wait()
    world.nomad.become_another_cluster()
    await world.until(lambda: bool(world.plane.fleet.frozen))
    hold.release()

    assert [plan.action for plan in await sweeping] == ["delete", "report"]
    assert len(world.vault.job_ids) == 1


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


async def a_secret_without_a_row(world: World) -> None:
    await world.vault.ensure(EVES_JOB, soon())
    await world.vault.mark(EVES_JOB, installation="main", user_id=EVE, deadline=soon())


async def kinds_of_events(world: World) -> list[str]:
    page = await world.plane.provisioning.events(EVE, None, 100)
    return [event.kind for event in page.items]


async def test_what_is_made_for_a_stack_waits_until_the_deletion_of_its_name_has_ended(world):
    await a_secret_without_a_row(world)
    (plan,) = await sweep(world)
    hold = world.vault.hold_next("destroy")
    deleting = asyncio.create_task(world.plane.oversight.delete_orphan(plan.orphan.id, by=OPERATOR))
    await hold.reached.wait()

    ensuring = asyncio.create_task(world.ensure(EVE))
    await world.until(lambda: world.plane.fleet.get(EVE) is not None)
    await world.ensure("bob")
    assert world.stack(EVE).status.secret_version is None
    hold.release()
    await deleting

    assert (await ensuring).ready
    assert EVES_JOB in world.vault.job_ids


async def test_a_stack_is_not_stopped_by_a_deletion_that_began_before_it(world):
    await world.ensure(EVE)
    lose_row(world, EVE)
    (job,) = [plan.orphan for plan in await sweep(world) if plan.orphan.find.kind is OrphanKind.JOB]
    hold = world.nomad.faults.hold_next("deregister")
    deleting = asyncio.create_task(world.plane.oversight.delete_orphan(job.id, by=OPERATOR))
    await hold.reached.wait()

    ensuring = asyncio.create_task(world.ensure(EVE))
    await world.until(lambda: world.plane.fleet.get(EVE) is not None)
    await world.ensure("bob")
    assert world.stack(EVE).status.phase is Phase.PENDING
    hold.release()
    await deleting

    assert (await ensuring).ready
    assert world.nomad.faults.calls["deregister"] == 1


async def test_two_replicas_delete_an_orphan_once(world):
    await a_secret_without_a_row(world)
    (plan,) = await sweep(world)
    hold = world.vault.hold_next("destroy")
    deleting = asyncio.create_task(world.plane.oversight.delete_orphan(plan.orphan.id, by=OPERATOR))
    await hold.reached.wait()

    with pytest.raises(ClaimLost):
        await world.another_plane().oversight.delete_orphan(plan.orphan.id, by=OPERATOR)
    hold.release()
    await deleting

    assert (await kinds_of_events(world)).count("orphan.deleted") == 1


async def test_two_replicas_adopt_an_orphan_once(world):
    await world.ensure(EVE)
    lose_row(world, EVE)
    await sweep(world)
    other = world.another_plane()
    await world.begin(other)

    await gather(*(plane._orphans.sweep_once() for plane in (world.plane, other, world.plane, other)))

    await world.phase(Phase.RUNNING, EVE)
    kinds = await kinds_of_events(world)
    assert (kinds.count("orphan.adopted"), kinds.count("stack.adopt")) == (1, 1)


async def test_what_became_of_a_deletion_is_not_known_until_its_claim_lapses(world):
    await a_secret_without_a_row(world)
    (plan,) = await sweep(world)
    world.vault.faults.fail_next("destroy", UpstreamUnavailable("vault", "destroy"))
    with pytest.raises(UpstreamUnavailable):
        await world.plane.oversight.delete_orphan(plan.orphan.id, by=OPERATOR)

    with pytest.raises(ClaimLost):
        await world.plane.oversight.delete_orphan(plan.orphan.id, by=OPERATOR)

    await world.store.void_claims()
    await world.plane.oversight.delete_orphan(plan.orphan.id, by=OPERATOR)
    assert EVES_JOB not in world.vault.job_ids


async def confirmations(world: World) -> int:
    (orphan,) = (await world.plane.oversight.orphans(after=None, limit=10)).items
    return orphan.confirmations


async def test_two_replicas_that_compare_at_once_confirm_once(world):
    await a_secret_without_a_row(world)
    other = world.another_plane()
    await world.begin(other)
    await sweep(world)
    # Both have read what is known, and both look.
    hold = world.vault.hold_next("list_all")
    comparing = asyncio.create_task(other._orphans.sweep_once())
    await hold.reached.wait()
    await sweep(world)
    hold.release()
    await comparing

    assert await confirmations(world) == 2


async def test_replicas_and_reconciles_do_not_make_up_in_numbers_for_time(tmp_path):
    limits = OrphanLimits(confirmations=2, grace=timedelta(0))
    world = World(tmp_path, orphan_limits=limits, comparison_interval=timedelta(minutes=5))
    async with world.running():
        await first_sweep(world)
        await a_secret_without_a_row(world)
        other = world.another_plane()
        await world.begin(other)

        for _ in range(3):
            await world.plane._orphans.sweep_once()
            await other._orphans.sweep_once()
            await world.plane.oversight.reconcile(dry_run=False, by=OPERATOR)

        assert await confirmations(world) == 1


@pytest.mark.parametrize(("minutes", "counted"), [(0, 1), (4, 1), (5, 2), (300, 2)])
def test_a_comparison_counts_when_a_period_has_passed_since_the_last_that_counted(minutes, counted):
    find = Find(kind=OrphanKind.SECRET, job_id=EVES_JOB, reference=EVES_JOB, installation="main", user_id=EVE)
    about = {"installation": "main", "apart": timedelta(minutes=5)}
    (first,) = orphans_among([find], {}, now=NOW, **about)

    (again,) = orphans_among([find], {first.id: first}, now=NOW + timedelta(minutes=minutes), **about)

    assert again.confirmations == counted
    assert (again == first) is (counted == 1)


async def gather(*those):
    return await asyncio.gather(*those)


def soon() -> Deadline:
    return Deadline.after(5, "test")
