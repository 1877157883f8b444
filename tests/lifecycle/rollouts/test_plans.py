"""Plans of rollouts: they say whom they would move and why, change nothing, and are applied as they were made."""

import asyncio
from datetime import timedelta

import pytest

from migrating import QUICK
from opencode_lifecycle.lifecycle.rollouts import planning
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import NothingToDo, PlanLapsed, UpstreamUnavailable
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.rollout import MemberReason, MemberState
from opencode_lifecycle.model.rollout_specification import RolloutSpecification
from opencode_lifecycle.model.states import MigrationState, Phase, WhenStale
from rollout_worlds import AT_ONCE, USERS, a_new_release, ended, four_that_run, members
from world import BACKEND, OPERATOR, World, server_of


@pytest.fixture
async def four(tmp_path):
    async with four_that_run(tmp_path) as world:
        yield world


async def test_a_plan_says_why_and_how_and_changes_nothing(four):
    release = await a_new_release(four, environment={"LANG": "C"})
    target = four.plane.releases.current

    plan = await four.plane.rollouts.plan(RolloutSpecification(release=release), by=OPERATOR)

    assert [each.user_id for each in plan.stacks] == list(USERS)
    assert {reason.facet for each in plan.stacks for reason in each.why} == {Facet.ENVIRONMENT}
    assert {each.migration_class for each in plan.stacks} == {MigrationClass.RESTART}
    assert sorted(each.wave for each in plan.stacks) == [0, 1, 2, 3]
    assert four.plane.releases.current == target
    assert not await four.plane.rollouts.is_active()


async def test_whoever_is_being_replaced_counts_as_restarted_whatever_the_release_changes(four):
    release = await a_new_release(four, instructions="Be brief.")
    four.nomad.faults.fail_next("deregister", UpstreamUnavailable("nomad", "deregister"), times=None)
    await four.plane.provisioning.recreate("ada", by=BACKEND, if_match=None)
    await four.phase(Phase.STOPPING, "ada")

    plan = await four.plane.rollouts.plan(RolloutSpecification(release=release), by=OPERATOR)

    assert [each.migration_class for each in plan.stacks] == [
        MigrationClass.RESTART,
        *[MigrationClass.LIVE] * 3,
    ]


async def test_whoever_waits_has_a_turn_while_a_plan_is_made(four, monkeypatch):
    monkeypatch.setattr(planning, "PLANNED_AT_ONCE", 1)
    ground = planning.Ground(target=None, pins={}, facets_on=lambda *_: None, now=utc_now())
    turns = []

    async def wait_for_turns() -> None:
        while True:
            turns.append("a turn")
            await asyncio.sleep(0)

    waiting = asyncio.create_task(wait_for_turns())
    stacks, _ = await planning.planned(four.plane.fleet, RolloutSpecification(recreate=True), ground)
    waiting.cancel()

    assert [each.user_id for each in stacks] == list(USERS)
    assert len(turns) >= len(USERS)


async def test_whoever_changed_since_the_plan_is_left_out_and_said_so(four):
    release = await a_new_release(four, environment={"LANG": "C"})
    plan = await four.plane.rollouts.plan(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    await four.ensure("bob", labels={"team": "a"})

    rollout = await four.plane.rollouts.apply(plan.id, by=OPERATOR)

    await ended(four, rollout.id)
    found = (await members(four, rollout.id))[UserId("bob")]
    assert (found.state, found.reason) == (MemberState.LEFT_OUT, MemberReason.CHANGED.value)
    assert found.message == "something else was asked for it since: generation 2, planned at 1"
    assert four.stack("bob").status.release != release


async def test_a_plan_to_change_a_prompt_restarts_nobody_whose_secret_was_rotated_since(tmp_path):
    sweep = timedelta(milliseconds=20)
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT, secret_sweep_interval=sweep)
    async with world.running():
        await world.ensure("ada")
        await world.ensure("bob")
        before = [each.id for each in world.live_allocations("ada")]
        release = await a_new_release(world, instructions="Be brief.")
        wish = RolloutSpecification(release=release, strategy=AT_ONCE)
        plan = await world.plane.rollouts.plan(wish, by=OPERATOR)
        world.vault.put(world.job_id("ada"), {"password": "of-an-administrator", "env": {}})
        await world.until(lambda: Facet.SECRET_VERSION in world.stack("ada").status.stale)

        rollout = await world.plane.rollouts.apply(plan.id, by=OPERATOR)

        await ended(world, rollout.id)
        found = await members(world, rollout.id)
        assert {user: (each.state, each.reason) for user, each in found.items()} == {
            "ada": (MemberState.LEFT_OUT, MemberReason.CHANGED.value),
            "bob": (MemberState.MIGRATED, None),
        }
        assert found[UserId("ada")].message == (
            "live for prompt was planned, and by now it is restart for prompt, secret_version"
        )
        assert [each.id for each in world.live_allocations("ada")] == before


async def test_a_plan_of_which_nobody_who_runs_is_left_makes_no_release_the_target_unproven(four):
    target = four.plane.releases.current
    await four.plane.provisioning.stop(UserId("dan"), by=BACKEND, hold=False, if_match=None)
    await four.phase(Phase.STOPPED, "dan")
    release = await a_new_release(four, environment={"LANG": "C"})
    plan = await four.plane.rollouts.plan(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    for user in ("ada", "bob", "cyd"):
        await four.ensure(user, labels={"team": "a"})

    with pytest.raises(NothingToDo):
        await four.plane.rollouts.apply(plan.id, by=OPERATOR)
    await four.ensure("dan", labels={"team": "a"})
    with pytest.raises(NothingToDo):
        await four.plane.rollouts.apply(plan.id, by=OPERATOR)
    assert (await four.store.current_release()).id == target.id


async def test_a_plan_knows_what_stacks_want_that_another_replica_made(four):
    server_of(four, "ada").busy = True
    release = await a_new_release(four, environment={"LANG": "C"})
    await four.plane.provisioning.pin(UserId("ada"), release, by=OPERATOR, if_match=None)
    await four.until(lambda: four.stack("ada").status.migration_state is MigrationState.DRAINING)
    del four.plane.releases._known[release]

    plan = await four.plane.rollouts.plan(RolloutSpecification(), by=OPERATOR)

    assert [each.user_id for each in plan.stacks] == ["ada"]


async def test_a_plan_for_another_target_has_lapsed(four):
    release = await a_new_release(four, environment={"LANG": "C"})
    plan = await four.plane.rollouts.plan(RolloutSpecification(release=release), by=OPERATOR)
    await four.store.use_release(release)
    await four.plane.releases.refresh()

    with pytest.raises(PlanLapsed):
        await four.plane.rollouts.apply(plan.id, by=OPERATOR)
