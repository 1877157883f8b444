"""What a rollout does next, case by case. `test_rollout_schedules` has everything at once."""

from dataclasses import replace
from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.rollouts.engine import BLOCKED_AFTER, STALLED_AFTER
from opencode_lifecycle.lifecycle.rollouts.gates import GATE_PATIENCE
from opencode_lifecycle.lifecycle.rollouts.standing import OrderName, order_of
from opencode_lifecycle.lifecycle.rollouts.turns import Ask, Order, Release, UseRelease
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import RolloutId
from opencode_lifecycle.model.migration import AtDeadline, DataPolicy, MigrationClass
from opencode_lifecycle.model.rollout import (
    MemberReason,
    MemberState,
    PromptVerdict,
    RolloutReason,
    RolloutState,
)
from opencode_lifecycle.model.rollout_specification import Amount, Gate, RolloutSpecification, Strategy
from opencode_lifecycle.model.states import Desired, Health, MigrationState, Phase, Reason
from rollout_examples import ToyDriver, a_fleet, driven, users
from toy_fleet import NEW, OLD, asleep


def test_more_failures_than_the_budget_pause_it_and_resuming_lets_them_pass():
    fleet = a_fleet(10)
    driver = driven(fleet, waves=(Amount(count=3),), gate=Gate(failure_budget=Amount(count=0)))
    driver.run(stop=lambda: driver.rollout.wave == 1)
    fleet.clumsy = frozenset(driver.in_state(MemberState.WAITING)[:1])

    driver.run()
    assert (driver.rollout.state, driver.rollout.reason) == (RolloutState.PAUSED, RolloutReason.FAILURES)
    driver.resume()
    driver.run()

    assert driver.rollout.state is RolloutState.SUCCEEDED
    assert driver.in_state(MemberState.FAILED) == sorted(fleet.clumsy)


def test_an_agent_at_work_keeps_nobody_waiting_and_moves_when_it_has_finished():
    fleet = a_fleet(4)
    driver = driven(fleet, max_in_flight=1)
    fleet.busy = {driver.members[-1].user_id}

    driver.run(stop=lambda: len(driver.in_state(MemberState.MIGRATED)) == 3)
    fleet.busy.clear()
    driver.run()

    assert driver.rollout.state is RolloutState.SUCCEEDED
    assert len(driver.in_state(MemberState.MIGRATED)) == 4


def test_who_failed_keeps_its_place_until_what_ran_before_runs_again():
    fleet = a_fleet(4)
    budget = Gate(failure_budget=Amount(percent=100))
    driver = driven(fleet, canary=Amount(count=0), max_in_flight=1, gate=budget)
    fleet.clumsy = frozenset(fleet.stacks)
    driver.run(stop=lambda: bool(driver.in_state(MemberState.FAILED)))
    (failed,) = driver.in_state(MemberState.FAILED)
    stack = fleet.stacks[failed]
    down = replace(
        stack.status,
        phase=Phase.STARTING,
        health=Health.STARTING,
        migration_state=MigrationState.FAILED,
        runtime=None,
    )

    fleet.put(replace(stack, status=down))
    assert driver.look().actions == ()
    fleet.put(stack)
    assert [type(action) for action in driver.look().actions] == [Order]


@pytest.mark.parametrize("what", [{"recreate": True}, {}])
def test_nothing_is_done_to_who_is_stopped_before_its_turn_where_it_starts_as_it_should_in_any_case(what):
    fleet = a_fleet(4)
    driver = ToyDriver.of(fleet, RolloutSpecification(**what, strategy=Strategy(soak=timedelta(0))))
    fleet.stop(driver.members[-1].user_id)

    driver.run(seconds=600)

    assert driver.rollout.state is RolloutState.SUCCEEDED
    last = driver.members[-1]
    assert (last.state, last.reason) == (MemberState.LEFT_OUT, MemberReason.NOT_RUNNING)


@pytest.mark.parametrize(
    ("what", "state"),
    [
        ({"recreate": True}, MemberState.LEFT_OUT),
        ({}, MemberState.LEFT_OUT),
        ({"rotate_passwords": True}, MemberState.MIGRATED),
    ],
)
def test_a_pin_changes_nothing_for_who_is_stopped_where_no_release_is_rolled_out(what, state):
    fleet = a_fleet(4)
    driver = ToyDriver.of(fleet, RolloutSpecification(**what, strategy=Strategy(soak=timedelta(0))))
    user = driver.members[-1].user_id
    stack = fleet.stacks[user]
    fleet.put(replace(stack, intent=replace(stack.intent, pinned=True)))
    fleet.stop(user)

    driver.run(seconds=600)

    assert driver.rollout.state is RolloutState.SUCCEEDED
    assert (driver.members[-1].state, driver.members[-1].reason) == (state, MemberReason.NOT_RUNNING)


@pytest.mark.parametrize(
    ("policy", "state"), [(AtDeadline.SKIP, MemberState.SKIPPED), (AtDeadline.HOLD, MemberState.HELD)]
)
def test_at_its_deadline_an_agent_that_never_rests_is_left_as_it_is(policy, state):
    fleet = a_fleet(4)
    driver = driven(fleet, at_deadline=policy, deadline=timedelta(minutes=10))
    busy = driver.members[-1].user_id
    fleet.busy = {busy}

    driver.run()

    assert driver.rollout.state is RolloutState.SUCCEEDED
    assert driver.in_state(state) == [busy]
    assert fleet.now < driver.rollout.created_at + timedelta(minutes=12)


def test_what_cannot_be_called_healthy_is_not_and_pauses_it_after_a_while():
    fleet = a_fleet(4)
    driver = driven(fleet)
    driver.run(stop=lambda: bool(driver.in_state(MemberState.MIGRATED)))
    for user in driver.in_state(MemberState.MIGRATED):
        stack = fleet.stacks[user]
        fleet.put(replace(stack, status=replace(stack.status, health=Health.UNKNOWN)))
    began = fleet.now

    driver.run()

    assert (driver.rollout.state, driver.rollout.reason) == (RolloutState.PAUSED, RolloutReason.INCONCLUSIVE)
    assert fleet.now - began >= GATE_PATIENCE


def test_the_prompt_is_put_before_the_gate_opens_and_decides_about_it():
    driver = driven(gate=Gate(prompt="Say hello."))
    driver.answers = PromptVerdict.FAILED

    driver.run()

    assert driver.asked == driver.in_state(MemberState.TAKEN_BACK)
    assert driver.rollout.state is RolloutState.FAILED


def test_of_many_that_failed_a_few_are_told_with_what_was_the_matter():
    fleet = a_fleet(10)
    fleet.clumsy = frozenset(fleet.stacks)
    driver = driven(fleet, canary=Amount(count=0), waves=(Amount(percent=100),), max_in_flight=10)

    driver.run(stop=lambda: driver.rollout.state is RolloutState.PAUSED)

    message = driver.rollout.message
    assert message.startswith("10 stacks failed: user-000 (")
    assert message.endswith("; and 7 more")


def test_a_runtime_that_could_not_be_asked_is_asked_again_and_is_no_pass():
    driver = driven(gate=Gate(prompt="Say hello."))
    driver.answers = PromptVerdict.UNKNOWN

    driver.run()

    assert len(driver.asked) > 1
    assert driver.rollout.reason is RolloutReason.INCONCLUSIVE


def test_it_soaks_before_the_gate_is_asked():
    driver = driven(soak=timedelta(minutes=3))
    driver.run(stop=lambda: driver.rollout.settled_at is not None)

    turn = driver.look()

    assert not any(isinstance(action, UseRelease | Ask) for action in turn.actions)
    assert turn.again_at == driver.rollout.settled_at + timedelta(minutes=3)


def test_while_paused_nobody_is_ordered():
    driver = driven()
    driver.pause()

    assert driver.look().actions == ()


def test_pausing_calls_off_whoever_still_waits_until_it_goes_on():
    fleet = a_fleet(4)
    driver = driven(fleet, canary=Amount(count=0), waves=(Amount(percent=100),))
    fleet.busy = set(users(4)[:2])
    driver.run(stop=lambda: len(driver.in_state(MemberState.ORDERED)) == 4)
    driver.pause()
    while driver.take_turn().actions or driver.in_state(MemberState.ORDERED):
        for user in users(4):
            fleet.step(user)
    assert driver.in_state(MemberState.WAITING) == sorted(fleet.busy)
    assert {fleet.stacks[user].intent.wanted_release for user in fleet.busy} == {OLD}

    fleet.busy = set()
    for user in users(4):
        fleet.step(user)
    assert driver.look().actions == ()
    assert {fleet.stacks[user].status.release for user in users(4)[:2]} == {OLD}

    driver.resume()
    driver.run()
    assert driver.in_state(MemberState.MIGRATED) == users(4)


def test_aborting_calls_off_whoever_still_waits_and_lets_the_others_finish():
    fleet = a_fleet(4)
    driver = driven(fleet, canary=Amount(count=0), waves=(Amount(percent=100),))
    fleet.busy = set(users(4)[:2])
    driver.run(stop=lambda: len(driver.in_state(MemberState.ORDERED)) == 4)
    driver.abort()

    assert sum(isinstance(action, Release) for action in driver.look().actions) == 2
    driver.run()

    assert driver.rollout.finished_at is not None
    assert driver.in_state(MemberState.LEFT_OUT) == sorted(fleet.busy)
    assert {fleet.stacks[user].intent.wanted_release for user in fleet.busy} == {OLD}


def test_rolling_back_restores_the_target_before_anybody_is_ordered_back():
    driver = driven()
    driver.run()
    driver.roll_back()

    assert driver.look().actions == (UseRelease(OLD, back=True),)
    driver.run()

    assert driver.rollout.state is RolloutState.ROLLED_BACK
    assert set(driver.states().values()) == {MemberState.TAKEN_BACK}


@pytest.mark.parametrize("is_stopped", [False, True])
def test_who_is_pinned_with_its_group_to_the_release_stays_on_it_and_is_left_out(is_stopped):
    fleet = a_fleet(10)
    driver = driven(fleet)
    driver.run()
    early = users(10)[0]
    fleet.intend(early, group="early", **({"desired": Desired.STOPPED} if is_stopped else {}))
    driver.pins["early"] = NEW

    driver.roll_back()
    driver.run()

    assert driver.rollout.state is RolloutState.ROLLED_BACK
    assert fleet.stacks[early].intent.wanted_release == NEW
    assert (driver.saved[early].state, driver.saved[early].reason) == (MemberState.LEFT_OUT, "pinned")
    assert len(driver.in_state(MemberState.TAKEN_BACK)) == 9


def test_who_was_taken_back_and_comes_to_the_release_again_is_taken_back_again():
    """
    1. A stack that was moved is stopped. The rollout goes back, which disturbs nobody there: it is taken back at once.
    2. Before all others are, it is started on the release.
    """
    fleet = a_fleet(10)
    driver = driven(fleet)
    driver.run()
    early = users(10)[0]
    fleet.stop(early)
    driver.roll_back()
    while driver.states()[early] is not MemberState.TAKEN_BACK:
        driver.take_turn()
    assert driver.rollout.state is RolloutState.ROLLING_BACK

    fleet.intend(early, desired=Desired.RUNNING, wanted_release=NEW)
    driver.run()

    assert driver.rollout.state is RolloutState.ROLLED_BACK
    assert set(driver.states().values()) == {MemberState.TAKEN_BACK}
    assert fleet.stacks[early].intent.wanted_release == OLD


def test_whoever_has_worked_on_stays_on_the_newer_version_and_keeps_nobody_from_going_back():
    fleet = a_fleet(10)
    driver = driven(fleet)
    driver.run()
    fleet.wrote = set(users(10)[:6])
    driver.roll_back()

    driver.run()

    assert driver.rollout.state is RolloutState.ROLLED_BACK
    assert driver.in_state(MemberState.FAILED) == sorted(fleet.wrote)
    assert len(driver.in_state(MemberState.TAKEN_BACK)) == 4
    assert {each.reason for each in driver.members if each.state is MemberState.FAILED} == {"data_newer"}
    assert driver.rollout.message.startswith("6 stacks kept the newer version")


def test_whoever_gives_up_what_was_written_takes_everybody_back():
    fleet = a_fleet(10)
    driver = driven(fleet)
    driver.run()
    fleet.wrote = set(users(10)[:6])
    driver.rollout = replace(driver.rollout, rollback_data=DataPolicy.RESTORE)
    driver.roll_back()

    driver.run()

    assert set(driver.states().values()) == {MemberState.TAKEN_BACK}
    assert driver.rollout.message == ""


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("stop", None),
        ("recreate", MemberReason.RECREATED),
        ("pin", MemberReason.PINNED),
        ("delete", MemberReason.DELETED),
    ],
)
def test_what_somebody_does_to_a_stack_meanwhile_counts_more_than_the_rollout(what, reason):
    fleet = a_fleet(6)
    driver = driven(fleet)
    user = driver.members[-1].user_id
    getattr(fleet, what)(user)

    driver.run()

    member = driver.saved[user]
    expected = MemberState.MIGRATED if reason is None else MemberState.LEFT_OUT
    assert (member.state, member.reason) == (expected, (reason or MemberReason.NOT_RUNNING).value)


def test_who_is_pinned_to_what_ran_before_as_soon_as_it_was_moved_is_not_called_moved():
    fleet = a_fleet(6)
    driver = driven(fleet)
    user = driver.members[-1].user_id
    step = fleet.step

    def step_and_pin(moved):
        step(moved)
        stack = fleet.stacks[moved]
        if moved == user and stack.status.order_done is not None and not stack.intent.pinned:
            fleet.intend(moved, pinned=True, wanted_release=OLD)

    fleet.step = step_and_pin

    driver.run()

    member = driver.saved[user]
    assert (member.state, member.reason) == (MemberState.LEFT_OUT, MemberReason.PINNED)


def test_who_wakes_before_its_wave_has_come_is_moved_as_any_other():
    fleet = a_fleet(3)
    sleeper = users(3)[0]
    awake = fleet.stacks[sleeper]
    fleet.put(asleep(awake))
    driver = driven(fleet)
    driver.run(stop=lambda: driver.rollout.wave == 1)
    fleet.put(awake)

    driver.run()

    assert driver.rollout.state is RolloutState.SUCCEEDED
    assert driver.saved[sleeper].orders > 0
    assert fleet.stacks[sleeper].status.release == NEW


@pytest.mark.parametrize("max_unavailable", [None, Amount(count=1)])
def test_who_falls_asleep_after_it_was_moved_is_neither_waited_for_nor_missed(max_unavailable):
    fleet = a_fleet(4)
    driver = driven(
        fleet, soak=timedelta(minutes=1), max_unavailable=max_unavailable, waves=(Amount(percent=100),)
    )
    driver.run(stop=lambda: driver.rollout.wave == 1 and len(driver.in_state(MemberState.MIGRATED)) > 1)
    moved = driver.in_state(MemberState.MIGRATED)[-1]
    fleet.put(asleep(fleet.stacks[moved]))
    step, fleet.step = fleet.step, lambda user: None if user == moved else step(user)

    driver.run()

    assert driver.rollout.state is RolloutState.SUCCEEDED


@pytest.mark.parametrize(("stale", "at_once"), [(Facet.PROMPT, 4), (Facet.SECRET_VERSION, 1)])
def test_whoever_is_restarted_for_something_else_while_its_prompt_is_changed_counts_as_unavailable(
    stale, at_once
):
    fleet = a_fleet(4, migration_class=MigrationClass.LIVE)
    driver = driven(
        fleet, canary=Amount(count=0), waves=(Amount(percent=100),), max_unavailable=Amount(count=1)
    )
    for stack in list(fleet.stacks.values()):
        fleet.put(replace(stack, status=replace(stack.status, stale=frozenset({stale}))))
    fleet.step = lambda _: None

    driver.run(stop=lambda: bool(driver.in_state(MemberState.ORDERED)))

    assert len(driver.in_state(MemberState.ORDERED)) == at_once


def test_when_as_many_are_without_a_runtime_as_may_be_a_person_looks():
    fleet = a_fleet(6)
    driver = driven(fleet, max_unavailable=Amount(count=1))
    driver.run(stop=lambda: driver.rollout.wave == 1)
    moved = driver.in_state(MemberState.MIGRATED)[0]
    stack = fleet.stacks[moved]
    lost = replace(stack.status, phase=Phase.PENDING, runtime=None, reason=Reason.LOST)
    fleet.put(replace(stack, status=lost))
    step, fleet.step = fleet.step, lambda user: None if user == moved else step(user)
    began = fleet.now

    driver.run()

    assert (driver.rollout.state, driver.rollout.reason) == (RolloutState.PAUSED, RolloutReason.UNAVAILABLE)
    assert fleet.now - began >= BLOCKED_AFTER


def test_when_nothing_comes_of_an_order_a_person_looks():
    fleet = a_fleet(1)
    driver = driven(fleet)
    fleet.step = lambda _: None

    driver.run()

    assert driver.rollout.reason is RolloutReason.INCONCLUSIVE
    assert fleet.now >= driver.rollout.created_at + timedelta(hours=1) + STALLED_AFTER


def test_the_first_order_bears_the_id_of_the_rollout_and_every_other_one_of_its_own():
    rollout = RolloutId("ro_1")
    names = [OrderName(back=back, number=number) for back in (False, True) for number in (1, 2, 31)]

    assert names[0].id_in(rollout) == rollout
    assert [order_of(rollout, name.id_in(rollout)) for name in names] == names
    assert order_of(rollout, "ro_11") is None
    assert order_of(rollout, "op_1") is None
