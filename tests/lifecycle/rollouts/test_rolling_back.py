"""Rollouts that are rolled back: whoever came to the release goes back, and so does the fleet's target."""

import pytest

from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.group import GroupWish
from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.rollout import Member, MemberState, RolloutState
from opencode_lifecycle.model.rollout_specification import RolloutSpecification, Selector
from opencode_lifecycle.model.states import Phase, Reason
from rollout_examples import a_stored_rollout
from rollout_worlds import AT_ONCE, USERS, a_new_release, ended, four_that_run, members
from world import BACKEND, OPERATOR


@pytest.fixture
async def four(tmp_path):
    async with four_that_run(tmp_path) as world:
        yield world


def pinned_to(release: ReleaseId) -> GroupWish:
    return GroupWish(names=frozenset({"pin"}), pin=release)


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


async def test_what_its_group_was_pinned_to_since_it_was_moved_stays_on_that(four):
    release = await a_new_release(four, environment={"LANG": "C"})
    await four.ensure("ada", group="early")
    rollout = await four.plane.rollouts.start(
        RolloutSpecification(release=release, strategy=AT_ONCE), by=OPERATOR
    )
    await ended(four, rollout.id)
    await four.plane.groups.put("early", pinned_to(release), by=OPERATOR)

    await four.plane.rollouts.rollback(rollout.id, by=OPERATOR)
    await ended(four, rollout.id)

    assert four.stack("ada").status.release == release
    assert (await members(four, rollout.id))["ada"].state is MemberState.LEFT_OUT


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
