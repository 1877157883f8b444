"""When not to believe what Nomad shows: nothing is concluded from absence that may be a lie."""

from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.braking.brake import is_gone_in_mass
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.identifiers import JobId, UserId
from opencode_lifecycle.model.states import Health, Phase, Reason
from world import ADA, BACKEND, OPERATOR, World

USERS = ("ada", "bob", "cyd", "dan")


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, observation_max_age=timedelta(seconds=30))
    async with world.running():
        yield world


async def a_fleet(world: World) -> dict[str, list[str]]:
    """Return the allocations of four users who run."""
    for user in USERS:
        assert (await world.ensure(user)).ready
    return allocations(world)


def allocations(world: World) -> dict[str, list[str]]:
    return {user: [each.id for each in world.live_allocations(user)] for user in USERS}


def standing(world: World) -> dict[ConditionKind, bool]:
    """Return what stands, and whether it freezes."""
    return {each.kind: each.freezes for each in world.plane.conditions.standing()}


async def confirm(world: World, kind: ConditionKind) -> None:
    (condition,) = [each for each in world.plane.conditions.standing() if each.kind is kind]
    await world.plane.oversight.confirm_condition(condition.id, by=OPERATOR)


async def some_listings(world: World) -> None:
    """Let several listings pass, whatever they show."""
    for _ in range(4):
        await world.plane._nomad.list_once()


@pytest.mark.parametrize("what", ["both", "jobs", "allocations"])
async def test_an_empty_listing_raises_a_condition_and_ends_nothing(world, what):
    before = await a_fleet(world)

    world.nomad.hide_from_listings(what=what)
    await some_listings(world)

    assert standing(world) == {ConditionKind.MASS_DISAPPEARANCE: True}
    assert allocations(world) == before
    assert {world.stack(user).status.phase for user in USERS} == {Phase.RUNNING}
    shown = [(await world.plane.provisioning.inspect(UserId(user))).stack.status for user in USERS]
    assert {(status.health, status.reason) for status in shown} == {(Health.HEALTHY, None)}


async def test_ensure_still_answers_for_what_a_lying_listing_hides(world):
    await a_fleet(world)
    world.nomad.hide_from_listings()
    await some_listings(world)

    assert (await world.ensure("ada")).ready


async def test_a_listing_that_shows_everything_again_ends_the_condition(world):
    await a_fleet(world)
    world.nomad.hide_from_listings()
    await some_listings(world)

    world.nomad.show_in_listings()
    await some_listings(world)

    assert standing(world) == {}
    conditions = await world.plane.oversight.conditions(standing=False, after=None, limit=10)
    assert [each.cleared_at is not None for each in conditions.items] == [True]


async def test_one_job_that_is_removed_by_hand_is_started_again_without_asking(world):
    await a_fleet(world)
    job_id = world.job_id("bob")

    world.nomad.purge_outside(job_id)

    await world.until(lambda: job_id in world.nomad.jobs)
    await world.phase(Phase.RUNNING, "bob")
    assert standing(world) == {}


@pytest.mark.parametrize("what", ["both", "jobs", "allocations"])
async def test_an_empty_listing_of_two_stacks_raises_a_condition_and_ends_neither(world, what):
    for user in ("ada", "bob"):
        assert (await world.ensure(user)).ready
    before = allocations(world)

    world.nomad.hide_from_listings(what=what)
    await some_listings(world)

    assert standing(world) == {ConditionKind.MASS_DISAPPEARANCE: True}
    assert allocations(world) == before


async def test_the_only_job_there_is_that_is_removed_by_hand_is_started_again_without_asking(world):
    await world.ensure("ada")
    job_id = world.job_id("ada")

    world.nomad.purge_outside(job_id)
    await some_listings(world)

    await world.until(lambda: job_id in world.nomad.jobs)
    await world.phase(Phase.RUNNING, "ada")
    assert standing(world) == {}


@pytest.mark.parametrize(
    ("count", "of", "is_in_mass"),
    [
        (0, 0, False),
        (1, 1, False),
        (1, 2, False),
        (2, 2, True),
        (2, 3, False),
        (3, 3, True),
        (3, 60, False),
        (4, 60, True),
    ],
)
def test_all_of_several_or_a_share_of_many_are_gone_in_mass(count, of, is_in_mass):
    assert is_gone_in_mass(count, of) is is_in_mass


async def test_many_jobs_that_are_really_gone_wait_for_an_operator(world):
    await a_fleet(world)

    for user in USERS:
        world.nomad.purge_outside(world.job_id(user))
    await some_listings(world)

    assert standing(world) == {ConditionKind.MASS_DISAPPEARANCE: True}
    assert world.nomad.jobs == {}


async def test_a_confirmed_disappearance_is_made_good(world):
    await a_fleet(world)
    for user in USERS:
        world.nomad.purge_outside(world.job_id(user))
    await some_listings(world)

    await confirm(world, ConditionKind.MASS_DISAPPEARANCE)

    for user in USERS:
        await world.until(lambda user=user: len(world.live_allocations(user)) == 1)
        await world.phase(Phase.RUNNING, user)
    await some_listings(world)
    assert standing(world) == {}


async def test_who_confirmed_is_kept_with_the_condition_and_in_the_history(world):
    await a_fleet(world)
    world.nomad.hide_from_listings()
    await some_listings(world)

    await confirm(world, ConditionKind.MASS_DISAPPEARANCE)

    page = await world.plane.oversight.conditions(standing=False, after=None, limit=10)
    assert page.items[0].confirmed_by == "operator"
    events = await world.plane.provisioning.events(None, None, 500)
    assert [e.actor for e in events.items if e.kind == "condition.confirmed"] == ["operator"]


async def test_what_stands_holds_through_a_restart(tmp_path):
    world = World(tmp_path)
    async with world.running():
        before = await a_fleet(world)
        world.nomad.hide_from_listings()
        await some_listings(world)
    async with world.running():
        await some_listings(world)

        assert standing(world) == {ConditionKind.MASS_DISAPPEARANCE: True}
        assert allocations(world) == before


async def test_an_empty_listing_at_start_is_not_believed_either(tmp_path):
    world = World(tmp_path)
    async with world.running():
        before = await a_fleet(world)
    world.nomad.hide_from_listings()
    async with world.running():
        await some_listings(world)

        assert standing(world) == {ConditionKind.MASS_DISAPPEARANCE: True}
        assert allocations(world) == before
        assert {world.stack(user).status.phase for user in USERS} == {Phase.RUNNING}


async def test_another_cluster_at_the_same_address_gets_nothing_from_us(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await a_fleet(world)
    world.nomad.become_another_cluster()
    async with world.running():
        await some_listings(world)

        assert standing(world)[ConditionKind.OTHER_CLUSTER]
        assert world.nomad.jobs == {}


async def test_a_new_user_is_not_started_in_a_cluster_that_is_not_known_to_be_ours(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await a_fleet(world)
    world.nomad.become_another_cluster()
    async with world.running():
        await some_listings(world)
        await world.ensure("eve", wait=None)
        await world.until(lambda: world.stack("eve").status.reason is Reason.BRAKE)

        assert world.nomad.jobs == {}


async def test_a_new_cluster_is_taken_over_once_it_is_confirmed(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await a_fleet(world)
    world.nomad.become_another_cluster()
    async with world.running():
        await some_listings(world)
        await confirm(world, ConditionKind.OTHER_CLUSTER)
        await world.until(lambda: ConditionKind.OTHER_CLUSTER not in standing(world))

        assert world.nomad.cluster_mark.marks["main"] is not None


async def test_a_nomad_of_an_older_snapshot_freezes_what_it_lacks(world):
    await world.ensure("ada")
    snapshot = world.nomad.snapshot()
    await world.ensure("bob")
    world.nomad.restore(snapshot)

    await world.until(lambda: ConditionKind.OLDER_SNAPSHOT in standing(world))
    await some_listings(world)

    assert world.job_id("bob") not in world.nomad.jobs


async def test_an_older_snapshot_stays_one_when_others_have_written_past_our_last_write(world):
    await world.ensure("ada")
    snapshot = world.nomad.snapshot()
    await world.finished(await world.plane.provisioning.recreate(ADA, by=BACKEND, if_match=None))
    await world.phase(Phase.RUNNING)
    world.nomad.restore(snapshot)
    await world.until(lambda: ConditionKind.OLDER_SNAPSHOT in standing(world))

    for number in range(20):
        world.nomad.plant_job(JobId(f"another-{number}"))
    await some_listings(world)

    assert world.nomad.index > world.stack().status.job_modify_index
    assert standing(world) == {ConditionKind.OLDER_SNAPSHOT: True}


async def test_what_an_older_snapshot_runs_again_is_shown_as_it_is(world):
    await world.ensure("ada")
    await world.ensure("bob")
    snapshot = world.nomad.snapshot()
    await world.finished(await world.plane.provisioning.recreate(ADA, by=BACKEND, if_match=None))
    await world.phase(Phase.RUNNING)
    before = world.plane.fleet.latest(world.job_id()).job.version

    world.nomad.restore(snapshot)
    await world.until(lambda: ConditionKind.OLDER_SNAPSHOT in standing(world))
    await some_listings(world)

    assert world.plane.fleet.latest(world.job_id()).job.version < before


async def test_a_confirmed_older_snapshot_is_brought_to_where_it_should_be(world):
    await world.ensure("ada")
    snapshot = world.nomad.snapshot()
    await world.ensure("bob")
    world.nomad.restore(snapshot)
    await world.until(lambda: ConditionKind.OLDER_SNAPSHOT in standing(world))

    await confirm(world, ConditionKind.OLDER_SNAPSHOT)

    await world.until(lambda: world.job_id("bob") in world.nomad.jobs)
    await world.phase(Phase.RUNNING, "bob")
    assert len(world.live_allocations("ada")) == 1


async def test_a_stack_that_is_held_back_is_shown_as_such_and_not_as_lost(world):
    await a_fleet(world)
    for user in USERS:
        world.nomad.purge_outside(world.job_id(user))
    await some_listings(world)
    await world.until(lambda: world.stack().status.reason is Reason.BRAKE)

    shown = (await world.plane.provisioning.inspect(ADA)).stack.status

    assert (shown.phase, shown.health, shown.reason) == (Phase.RUNNING, Health.UNKNOWN, Reason.BRAKE)
    assert ConditionKind.MASS_DISAPPEARANCE in shown.message


async def test_a_deletion_waits_while_a_disappearance_is_not_confirmed(world):
    await a_fleet(world)
    world.consul.forget(world.job_id(), world.live_allocations()[0].id)
    for user in USERS:
        world.nomad.purge_outside(world.job_id(user))
    await some_listings(world)

    operation = await world.plane.provisioning.delete(ADA, delete_workspace=True, by=BACKEND, if_match=None)
    await world.until(lambda: world.stack().status.reason is Reason.BRAKE)
    assert world.job_id() in world.vault.job_ids
    assert world.job_id() in world.nomad.workspaces.volumes

    await confirm(world, ConditionKind.MASS_DISAPPEARANCE)
    done = await world.finished(operation)
    assert done.receipt["secret"] == "destroyed"


async def test_what_is_seen_to_be_there_can_be_stopped_while_a_condition_stands(world):
    await a_fleet(world)
    for user in ("bob", "cyd", "dan"):
        world.nomad.purge_outside(world.job_id(user))
    await some_listings(world)

    operation = await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None)
    await world.finished(operation)

    await world.phase(Phase.STOPPED)


async def test_a_new_user_is_started_while_a_disappearance_is_not_confirmed(world):
    await a_fleet(world)
    world.nomad.hide_from_listings()
    await some_listings(world)

    assert (await world.ensure("eve")).ready


async def test_many_secrets_that_are_missing_at_once_are_not_made_again(world):
    await a_fleet(world)
    versions = {user: world.stack(user).status.secret_version for user in USERS}
    for user in USERS:
        world.vault.delete_latest(world.job_id(user))

    await world.until(lambda: ConditionKind.SECRETS_MISSING in standing(world))

    assert {user: world.stack(user).status.secret_version for user in USERS} == versions


async def test_one_secret_that_an_operator_deleted_is_made_again(world):
    await a_fleet(world)
    world.vault.delete_latest(world.job_id("bob"))

    await world.until(lambda: world.stack("bob").status.secret_version == 2)

    assert world.plane.fleet.get(UserId("bob")).stack.status.phase is Phase.RUNNING


async def test_another_replica_holds_back_what_one_has_raised(tmp_path):
    world = World(tmp_path, shares_database=True)
    async with world.running():
        await a_fleet(world)
        other = world.another_plane()
        async with other.running(world.content):
            world.nomad.hide_from_listings()
            await some_listings(world)
            await world.until(lambda: bool(other.fleet.frozen))

            await confirm(world, ConditionKind.MASS_DISAPPEARANCE)

            await world.until(lambda: not other.fleet.frozen)


async def test_an_open_server_is_not_started_again_because_a_condition_stood_meanwhile(world):
    """It was failed for good; its stop had not reached Nomad when another cluster showed."""
    world.server_changes = {"password": ""}
    world.nomad.faults.fail_next("deregister", UpstreamUnavailable("nomad", "call", "no"), times=None)
    await world.ensure(wait=None)
    await world.until(lambda: world.stack().status.reason is Reason.OPEN_WITHOUT_PASSWORD)
    mark = world.nomad.cluster_mark.marks.pop("main")
    await world.until(lambda: ConditionKind.OTHER_CLUSTER in world.plane.fleet.frozen)
    world.plane.dispatcher.hint(ADA)
    await world.until(lambda: "condition stands" in world.stack().status.message)
    world.nomad.faults.heal()
    world.nomad.cluster_mark.marks["main"] = mark
    await world.until(lambda: not world.plane.fleet.frozen)
    await world.until(lambda: world.nomad.jobs[world.job_id()].seen.stopped)
    await world.ensure("bob")

    assert world.stack().status.reason is Reason.OPEN_WITHOUT_PASSWORD
    assert not world.live_allocations()
