"""Rollouts through the whole control plane: started, steered, driven, and gone on with after a restart."""

from dataclasses import replace
from datetime import timedelta

import pytest

from opencode_lifecycle.model.errors import (
    InvalidBody,
    NothingToDo,
    PlanNotFound,
    RolloutActive,
    RolloutFinished,
    RolloutNotFound,
)
from opencode_lifecycle.model.group import GroupWish
from opencode_lifecycle.model.identifiers import PlanId, ReleaseId, RolloutId, UserId
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.rollout import MemberReason, MemberState, RolloutReason, RolloutState
from opencode_lifecycle.model.rollout_specification import (
    Amount,
    Gate,
    RolloutSpecification,
    Selector,
    Strategy,
)
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.prober import PromptOutcome, PromptResult
from rollout_worlds import AT_ONCE, USERS, a_new_release, ended, four_that_run, members
from world import BACKEND, OPERATOR, server_of


@pytest.fixture
async def four(tmp_path):
    async with four_that_run(tmp_path) as world:
        yield world


def pinned_to(release: ReleaseId) -> GroupWish:
    return GroupWish(names=frozenset({"pin"}), pin=release)


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


async def test_what_has_ended_is_neither_paused_nor_aborted(four):
    release = await a_new_release(four, instructions="Be brief.")
    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    await ended(four, rollout.id)

    for refused in (four.plane.rollouts.pause, four.plane.rollouts.resume, four.plane.rollouts.abort):
        with pytest.raises(RolloutFinished):
            await refused(rollout.id, by=OPERATOR)
