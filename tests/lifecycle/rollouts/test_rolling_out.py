"""Rollouts through the whole control plane: planned, started, steered, driven, and gone on with after a restart."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.lifecycle.rollouts import planning
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import (
    InvalidBody,
    NothingToDo,
    PlanLapsed,
    PlanNotFound,
    RolloutActive,
    RolloutFinished,
    RolloutNotFound,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.group import GroupWish
from opencode_lifecycle.model.identifiers import PlanId, ReleaseId, RolloutId, UserId
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.rollout import (
    Member,
    MemberReason,
    MemberState,
    Rollout,
    RolloutReason,
    RolloutState,
)
from opencode_lifecycle.model.rollout_specification import (
    Amount,
    Gate,
    RolloutSpecification,
    Selector,
    Strategy,
)
from opencode_lifecycle.model.states import MigrationState, Phase, Reason
from opencode_lifecycle.ports.prober import PromptOutcome, PromptResult
from rollout_examples import a_stored_rollout
from world import BACKEND, OPERATOR, World

USERS = ("ada", "bob", "cyd", "dan")
AT_ONCE = Strategy(soak=timedelta(0), waves=(Amount(percent=50),))


async def a_new_release(world, **changes) -> ReleaseId:
    content = replace(world.content, **changes)
    release = Release(
        id=content.id,
        number=0,
        image=content.image,
        opencode_version=content.opencode_version,
        template=content.template,
        instructions=content.instructions,
        managed_config=content.managed_config,
        environment=content.environment,
        resource_classes=content.resource_classes,
        created_at=utc_now(),
    )
    return (await world.store.add_release(release)).id


@pytest.fixture
async def four(tmp_path):
    """Give a world in which four runtimes run, of which each may be interrupted."""
    limits = Limits(
        start=timedelta(seconds=5),
        stop=timedelta(seconds=60),
        poll=timedelta(milliseconds=50),
        idle_after=timedelta(0),
    )
    world = World(tmp_path, limits=limits)
    async with world.running():
        for user in USERS:
            await world.ensure(user)
        yield world


def pinned_to(release: ReleaseId) -> GroupWish:
    return GroupWish(names=frozenset({"pin"}), pin=release)


def server_of(world, user: str):
    (allocation,) = world.live_allocations(user)
    return world.prober.servers[allocation.address.host, allocation.address.port]


async def ended(world, rollout_id) -> Rollout:
    """Wait until the rollout has ended or waits for somebody, and return how it is."""
    async with asyncio.timeout(20):
        while True:
            rollout = (await world.plane.rollouts.get(rollout_id)).rollout
            if not rollout.is_active or rollout.state is RolloutState.PAUSED:
                return rollout
            await asyncio.sleep(0.02)


async def members(world, rollout_id) -> dict:
    page = await world.plane.rollouts.members(rollout_id, state=None, after=None, limit=500)
    return {member.user_id: member for member in page.items}


async def test_a_release_reaches_everybody_wave_by_wave_and_becomes_the_target(four):
    release = await a_new_release(four, environment={"LANG": "C"})
    specification = RolloutSpecification(release=release, strategy=AT_ONCE)

    rollout = await four.plane.rollouts.start(specification, by=OPERATOR)

    assert (await ended(four, rollout.id)).state is RolloutState.SUCCEEDED
    assert four.plane.releases.current.id == release
    assert {four.stack(user).status.release for user in USERS} == {release}
    assert {m.state for m in (await members(four, rollout.id)).values()} == {MemberState.MIGRATED}


async def test_instructions_reach_everybody_in_the_same_process(four):
    before = {user: four.stack(user).status.runtime.allocation_id for user in USERS}
    release = await a_new_release(four, instructions="Be brief.")
    plan = await four.plane.rollouts.plan(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )

    rollout = await four.plane.rollouts.apply(plan.id, by=OPERATOR)

    assert (await ended(four, rollout.id)).state is RolloutState.SUCCEEDED
    assert {each.migration_class for each in plan.stacks} == {MigrationClass.LIVE}
    assert {user: four.stack(user).status.runtime.allocation_id for user in USERS} == before


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


async def test_a_release_whose_canary_answers_no_prompt_is_taken_back(four):
    target = four.plane.releases.current
    release = await a_new_release(four, environment={"LANG": "C"})
    refused = PromptResult(outcome=PromptOutcome.FAILED, detail="it answered with status 500")
    four.server_changes = {"answers": refused}
    gate = Gate(prompt="Say hello.")
    specification = RolloutSpecification(release=release, strategy=replace(AT_ONCE, gate=gate))

    rollout = await four.plane.rollouts.start(specification, by=OPERATOR)
    found = await ended(four, rollout.id)

    [canary] = [user for user, each in (await members(four, rollout.id)).items() if each.wave == 0]
    assert (found.state, found.reason) == (RolloutState.FAILED, RolloutReason.CANARY_FAILED)
    assert found.message == (
        f"1 stack failed: {canary} (it did not answer the prompt: it answered with status 500)"
    )
    assert four.plane.releases.current == target
    assert {four.stack(user).intent.wanted_release for user in USERS} == {target.id}


async def test_an_ensure_in_the_middle_of_a_migration_does_not_take_it_back(four):
    release = await a_new_release(four, environment={"LANG": "C"})
    four.nomad.autostop = False
    specification = RolloutSpecification(
        release=release, selector=Selector(users=(UserId("ada"),)), strategy=AT_ONCE
    )
    rollout = await four.plane.rollouts.start(specification, by=OPERATOR)
    await four.until(lambda: four.stack("ada").status.phase is not Phase.RUNNING)

    await four.ensure("ada", wait=None)
    assert four.stack("ada").intent.wanted_release == release
    four.nomad.autostop = True
    four.nomad.end_allocation(four.job_id("ada"))

    assert (await ended(four, rollout.id)).state is RolloutState.SUCCEEDED
    assert four.stack("ada").status.release == release


async def test_a_rollout_that_succeeded_is_rolled_back_with_its_target(four):
    target = four.plane.releases.current
    release = await a_new_release(four, environment={"LANG": "C"})
    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    await ended(four, rollout.id)
    await four.ensure("eve")

    await four.plane.rollouts.rollback(rollout.id, by=OPERATOR)

    back = await ended(four, rollout.id)
    assert (back.state, back.message) == (RolloutState.ROLLED_BACK, "by operator")
    assert four.plane.releases.current == target
    assert {four.stack(user).status.release for user in (*USERS, "eve")} == {target.id}


async def test_whoever_comes_to_a_release_after_its_rollback_was_asked_for_is_taken_back_as_well(
    four, monkeypatch
):
    target = four.plane.releases.current
    release = await a_new_release(four, environment={"LANG": "C"})
    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    await ended(four, rollout.id)
    use = four.store.use_release

    async def after_somebody_came(*args, **under):
        if four.plane.fleet.get(UserId("eve")) is None:
            await four.ensure("eve")
        return await use(*args, **under)

    monkeypatch.setattr(four.store, "use_release", after_somebody_came)
    await four.plane.rollouts.rollback(rollout.id, by=OPERATOR)

    assert (await ended(four, rollout.id)).state is RolloutState.ROLLED_BACK
    assert four.stack("eve").status.release == target.id
    found = (await members(four, rollout.id))[UserId("eve")]
    assert (found.state, found.release_before) == (MemberState.TAKEN_BACK, target.id)


async def test_a_stack_that_was_made_anew_under_the_name_of_a_member_is_taken_back_as_well(four):
    target = four.plane.releases.current
    release = await a_new_release(four, environment={"LANG": "C"})
    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    await ended(four, rollout.id)
    allocations = list(four.nomad.allocations[four.job_id("ada")])
    await four.plane.provisioning.delete(UserId("ada"), by=OPERATOR, delete_workspace=False, if_match=None)
    await four.phase(Phase.DELETING, "ada")
    for allocation in allocations:
        four.consul.forget(four.job_id("ada"), allocation.id)
    await four.gone("ada")
    await four.ensure("ada")
    assert four.stack("ada").status.release == release

    await four.plane.rollouts.rollback(rollout.id, by=OPERATOR)

    assert (await ended(four, rollout.id)).state is RolloutState.ROLLED_BACK
    assert {four.stack(user).status.release for user in USERS} == {target.id}


async def test_whoever_is_just_starting_on_a_release_is_taken_back_with_it(four):
    target = four.plane.releases.current
    await four.plane.provisioning.stop(UserId("dan"), by=BACKEND, hold=False, if_match=None)
    await four.phase(Phase.STOPPED, "dan")
    release = await a_new_release(four, environment={"LANG": "C"})
    selector = Selector(users=tuple(map(UserId, ("ada", "bob", "cyd"))))
    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, selector=selector, strategy=AT_ONCE), by=OPERATOR
    )
    await ended(four, rollout.id)
    four.server_changes = {"hangs": True}
    await four.ensure("dan", wait=None)
    await four.phase(Phase.STARTING, "dan")
    assert four.stack("dan").intent.wanted_release == release
    four.server_changes = {}

    await four.plane.rollouts.rollback(rollout.id, by=OPERATOR)
    await four.until(lambda: four.stack("dan").intent.wanted_release == target.id)


async def test_what_its_group_holds_on_a_release_is_not_taken_back_with_the_fleet(four):
    release = await a_new_release(four, environment={"LANG": "C"})
    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    await ended(four, rollout.id)
    await four.plane.groups.put("early", pinned_to(release), by=OPERATOR)
    await four.ensure("eve", group="early")

    await four.plane.rollouts.rollback(rollout.id, by=OPERATOR)

    assert (await ended(four, rollout.id)).state is RolloutState.ROLLED_BACK
    assert four.stack("eve").status.release == release


async def test_a_group_that_is_pinned_in_the_middle_of_a_rollout_is_left_out_of_what_is_left_of_it(four):
    target = four.plane.releases.current
    await four.ensure("eve", group="late")
    release = await a_new_release(four, environment={"LANG": "C"})
    server = server_of(four, "eve")
    server.busy = True
    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    await four.until(lambda: four.stack("eve").standing_order is not None)

    await four.plane.groups.put("late", pinned_to(target.id), by=OPERATOR)
    found = await ended(four, rollout.id)
    server.busy = False

    eve = (await members(four, rollout.id))[UserId("eve")]
    assert (found.state, eve.state, eve.reason) == (
        RolloutState.SUCCEEDED,
        MemberState.LEFT_OUT,
        MemberReason.PINNED.value,
    )
    assert four.stack("eve").intent.wanted_release == target.id
    assert four.stack("eve").intent.order is None


async def test_a_rollout_that_was_paused_goes_on_when_it_is_resumed(four):
    release = await a_new_release(four, environment={"LANG": "C"})
    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    await four.plane.rollouts.pause(rollout.id, by=OPERATOR)

    await four.store.void_claims()
    await four.plane.rollouts.resume(rollout.id, by=OPERATOR)

    assert (await ended(four, rollout.id)).state is RolloutState.SUCCEEDED


async def test_resuming_lets_no_failure_pass_for_whom_the_newer_version_was_kept(four):
    now, release = utc_now(), await a_new_release(four, environment={"LANG": "C"})
    rollout = a_stored_rollout(
        specification=RolloutSpecification(release=release), state=RolloutState.PAUSED, goes_back=True
    )
    reasons = {"ada": Reason.DATA_NEWER, "bob": Reason.NEVER_HEALTHY}
    kept = [
        Member(
            rollout_id=rollout.id,
            user_id=UserId(user),
            stack_created_at=four.stack(user).created_at,
            wave=1,
            state=MemberState.FAILED,
            goes_back=True,
            generation=1,
            reason=reason.value,
            changed_at=now,
        )
        for user, reason in reasons.items()
    ]
    await four.store.create_rollout(rollout, kept)

    resumed = await four.plane.rollouts.resume(rollout.id, by=OPERATOR)

    assert resumed.forgiven == 1


async def test_recreating_everybody_gives_each_a_new_allocation_once(four):
    before = {user: four.stack(user).status.runtime.allocation_id for user in USERS}

    rollout = await four.plane.rollouts.start(
        RolloutSpecification(recreate=True, strategy=AT_ONCE), by=OPERATOR
    )

    assert (await ended(four, rollout.id)).state is RolloutState.SUCCEEDED
    after = {user: four.stack(user).status.runtime.allocation_id for user in USERS}
    assert not set(before.values()) & set(after.values())
    assert {len(four.nomad.allocations[four.job_id(user)]) for user in USERS} == {2}


async def test_rotating_everybodys_password_is_a_rollout(four):
    before = {user: four.stack(user).status.secret_version for user in USERS}

    rollout = await four.plane.rollouts.start(
        RolloutSpecification(rotate_passwords=True, strategy=AT_ONCE), by=OPERATOR
    )

    assert (await ended(four, rollout.id)).state is RolloutState.SUCCEEDED
    assert {user: four.stack(user).status.secret_version for user in USERS} == {
        user: version + 1 for user, version in before.items()
    }


async def test_what_is_stopped_only_wants_the_release_and_starts_on_it(four):
    await four.plane.provisioning.stop(UserId("dan"), by=BACKEND, hold=False, if_match=None)
    await four.phase(Phase.STOPPED, "dan")
    release = await a_new_release(four, environment={"LANG": "C"})

    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )

    await ended(four, rollout.id)
    assert four.stack("dan").intent.wanted_release == release
    assert four.stack("dan").status.phase is Phase.STOPPED


async def test_beside_a_rollout_none_is_begun(four):
    release = await a_new_release(four, environment={"LANG": "C"})
    specification = RolloutSpecification(release=release, strategy=Strategy(soak=timedelta(hours=1)))
    await four.plane.rollouts.start(specification, by=OPERATOR)

    with pytest.raises(RolloutActive):
        await four.plane.rollouts.start(specification, by=OPERATOR)


async def test_what_cannot_be_done_is_refused(four):
    rollouts, current = four.plane.rollouts, four.plane.releases.current
    with pytest.raises(NothingToDo):
        await rollouts.start(RolloutSpecification(release=current.id), by=OPERATOR)
    with pytest.raises(InvalidBody) as refused:
        await rollouts.start(
            RolloutSpecification(
                release=ReleaseId("rel_none"),
                selector=Selector(users=(UserId("ada"), UserId("ada"))),
                strategy=Strategy(
                    waves=(Amount(count=0), Amount(percent=101)), max_unavailable=Amount(count=0)
                ),
            ),
            by=OPERATOR,
        )
    assert [fault.pointer for fault in refused.value.faults] == [
        "/release",
        "/selector/users/1",
        "/strategy/waves/0",
        "/strategy/waves/1",
        "/strategy/max_unavailable",
    ]
    with pytest.raises(RolloutNotFound):
        await rollouts.get(RolloutId("ro_none"))
    with pytest.raises(PlanNotFound):
        await rollouts.apply(PlanId("plan_none"), by=OPERATOR)


async def test_a_plan_for_another_target_has_lapsed(four):
    release = await a_new_release(four, environment={"LANG": "C"})
    plan = await four.plane.rollouts.plan(RolloutSpecification(release=release), by=OPERATOR)
    await four.store.use_release(release)
    await four.plane.releases.refresh()

    with pytest.raises(PlanLapsed):
        await four.plane.rollouts.apply(plan.id, by=OPERATOR)


async def test_a_rollout_brings_back_the_target_that_another_replica_chose_a_moment_before_it(four):
    chosen = await a_new_release(four, environment={"LANG": "C"})
    release = await a_new_release(four, environment={"LANG": "D"})
    await four.store.use_release(chosen)

    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    await ended(four, rollout.id)
    await four.plane.rollouts.rollback(rollout.id, by=OPERATOR)
    await ended(four, rollout.id)

    assert (rollout.target_before, four.plane.releases.current.id) == (chosen, chosen)


async def test_what_has_ended_is_neither_paused_nor_aborted(four):
    release = await a_new_release(four, instructions="Be brief.")
    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    await ended(four, rollout.id)

    for refused in (four.plane.rollouts.pause, four.plane.rollouts.resume, four.plane.rollouts.abort):
        with pytest.raises(RolloutFinished):
            await refused(rollout.id, by=OPERATOR)
