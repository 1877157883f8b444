"""Canaries prove a release before anybody else comes to it: who is one, and what is so where none proves anything."""

from dataclasses import replace
from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.rollouts.turns import Order, UseRelease
from opencode_lifecycle.lifecycle.rollouts.waves import Candidate, in_waves
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.migration import OrderOutcome
from opencode_lifecycle.model.rollout import (
    BusyState,
    MemberReason,
    MemberState,
    RolloutReason,
    RolloutState,
)
from opencode_lifecycle.model.rollout_specification import Amount, Strategy
from opencode_lifecycle.model.states import Phase, Reason
from rollout_examples import a_fleet, driven, users
from toy_fleet import NEW, OLD, asleep, held_by_its_node, stopped


def test_canaries_are_idle_ones_of_every_group_and_always_the_same():
    candidates = [
        Candidate(
            user_id=UserId(f"{group}-{number}"),
            group=group,
            rests=number == 0,
            busy=BusyState.IDLE if number == 3 else BusyState.BUSY if number == 1 else BusyState.UNKNOWN,
        )
        for group in ("a", "b", "c")
        for number in range(5)
    ]
    strategy = Strategy(canary=Amount(count=3), waves=(Amount(percent=20),))

    waves = in_waves(candidates, strategy, NEW)

    assert sorted(user for user, wave in waves.of.items() if wave == 0) == ["a-3", "b-3", "c-3"]
    assert in_waves(list(reversed(candidates)), strategy, NEW) == waves
    assert waves.of[UserId("a-0")] == waves.count == 3
    assert {waves.of[UserId(f"{group}-1")] for group in "abc"} == {3}


def test_only_the_canary_is_ordered_first():
    turn = driven(a_fleet(20)).look()

    assert [type(action) for action in turn.actions] == [Order]
    assert turn.actions[0].member.wave == 0


def test_the_release_becomes_the_target_when_the_canary_has_passed():
    driver = driven()
    driver.run(stop=lambda: driver.rollout.promoted_at is not None)

    assert driver.fleet.target == NEW
    assert len(driver.in_state(MemberState.MIGRATED)) == 1


def test_what_does_not_run_wants_the_release_only_when_that_is_proven():
    fleet = a_fleet(4)
    driver_user = users(4)[0]
    fleet.put(stopped(fleet.stacks[driver_user]))
    driver = driven(fleet)

    driver.run(stop=lambda: driver.rollout.promoted_at is not None)
    assert fleet.stacks[driver_user].intent.wanted_release == OLD
    driver.run()

    assert fleet.stacks[driver_user].intent.wanted_release == NEW
    assert not fleet.issued[driver_user, "ro_1"]


def test_a_bad_release_stops_at_its_canary_and_is_taken_back():
    driver = driven(a_fleet(10, bad=frozenset({NEW})))

    driver.run()

    assert (driver.rollout.state, driver.rollout.reason) == (RolloutState.FAILED, RolloutReason.CANARY_FAILED)
    assert driver.fleet.target == OLD
    assert len(driver.in_state(MemberState.TAKEN_BACK)) == 1
    assert sum(driver.fleet.replaced.values()) == 1


def test_a_canary_that_failed_for_want_of_a_neighbour_is_no_verdict():
    driver = driven()
    canary = driver.look().actions[0].member.user_id
    driver.take_turn()
    stack = driver.fleet.stacks[canary]
    status = replace(
        stack.status,
        order_done=stack.intent.order.id,
        order_outcome=OrderOutcome.FAILED,
        reason=Reason.NOMAD_UNAVAILABLE,
    )
    driver.fleet.put(replace(stack, status=status))

    driver.take_turn()

    assert (driver.rollout.state, driver.rollout.reason) == (RolloutState.PAUSED, RolloutReason.INCONCLUSIVE)
    assert driver.saved[canary].reason == MemberReason.UNSEEN.value


def test_a_busy_canary_gives_its_part_to_another():
    fleet = a_fleet(4)
    driver = driven(fleet)
    canary = next(user for user, member in driver.saved.items() if member.wave == 0)
    fleet.busy = {canary}

    driver.run(stop=lambda: driver.rollout.promoted_at is not None)

    assert driver.saved[canary].wave == driver.rollout.waves + 1
    assert driver.saved[canary].state is not MemberState.MIGRATED


@pytest.mark.parametrize("meddle", ["stop", "recreate", "delete"])
def test_another_canary_is_looked_at_when_somebody_takes_the_first_away_before_it_has_soaked(meddle):
    fleet = a_fleet(4)
    driver = driven(fleet, soak=timedelta(minutes=1))
    driver.run(stop=lambda: driver.rollout.settled_at is not None)
    (canary,) = driver.in_state(MemberState.MIGRATED)

    getattr(fleet, meddle)(canary)
    driver.run(stop=lambda: driver.rollout.promoted_at is not None)

    (other,) = set(driver.in_state(MemberState.MIGRATED)) - {canary}
    assert driver.rollout.promoted_at - driver.saved[other].changed_at >= timedelta(minutes=1)


def test_a_stack_that_is_just_starting_may_be_all_that_there_is_to_prove_a_release():
    fleet = a_fleet(2)
    driver = driven(fleet)
    canary, other = sorted(driver.members, key=lambda member: member.wave)
    pinned = replace(fleet.stacks[canary.user_id].intent, pinned=True)
    fleet.put(replace(fleet.stacks[canary.user_id], intent=pinned))
    starting = replace(fleet.stacks[other.user_id].status, phase=Phase.STARTING, runtime=None)
    fleet.put(replace(fleet.stacks[other.user_id], status=starting))

    actions = [action for _ in range(3) for action in driver.take_turn().actions]

    assert driver.saved[other.user_id].wave == 0
    assert not any(isinstance(action, UseRelease) for action in actions)


def test_without_a_canary_that_could_be_moved_nothing_is_known_and_nothing_goes_on():
    fleet = a_fleet(2)
    fleet.busy = set(fleet.stacks)
    driver = driven(fleet, deadline=timedelta(0))

    driver.run()

    assert (driver.rollout.state, driver.rollout.reason) == (RolloutState.FAILED, RolloutReason.NO_CANARY)
    assert fleet.target == OLD
    assert {stack.intent.wanted_release for stack in fleet.stacks.values()} == {OLD}


def test_nothing_is_known_of_a_release_whose_only_canary_somebody_took_out_before_it_was_moved():
    fleet = a_fleet(1)
    driver = driven(fleet)
    driver.take_turn()
    fleet.recreate(driver.members[0].user_id)

    driver.run()

    assert (driver.rollout.state, driver.rollout.reason) == (RolloutState.FAILED, RolloutReason.NO_CANARY)
    assert fleet.target == OLD


def test_nothing_is_known_of_a_release_whose_only_canary_waited_for_its_agent_when_its_group_was_pinned():
    driver = driven(a_fleet(1))
    driver.take_turn()
    driver.pins["default"] = OLD

    driver.run()

    assert (driver.rollout.state, driver.rollout.reason) == (RolloutState.FAILED, RolloutReason.NO_CANARY)
    assert driver.fleet.target == OLD


def test_nothing_is_known_of_a_release_whose_canary_gave_its_place_away_before_everybody_was_stopped():
    fleet = a_fleet(2)
    fleet.busy = set(fleet.stacks)
    driver = driven(fleet)
    driver.run(stop=lambda: any(member.reason == MemberReason.AT_WORK for member in driver.members))
    for user in users(2):
        fleet.stop(user)

    driver.run()

    assert (driver.rollout.state, driver.rollout.reason) == (RolloutState.FAILED, RolloutReason.NO_CANARY)
    assert fleet.target == OLD


@pytest.mark.parametrize("taken_away", [stopped, asleep, held_by_its_node])
def test_nothing_is_known_of_a_release_whose_only_canary_is_down_before_it_was_judged(taken_away):
    fleet = a_fleet(1)
    driver = driven(fleet, soak=timedelta(minutes=1))
    driver.run(stop=lambda: driver.rollout.settled_at is not None)
    (canary,) = fleet.stacks.values()
    fleet.put(taken_away(canary))
    fleet.step = lambda _: None

    driver.run()

    assert (driver.rollout.state, driver.rollout.reason) == (RolloutState.FAILED, RolloutReason.NO_CANARY)
    assert fleet.target == OLD


def test_a_release_that_was_proven_stays_so_when_its_canary_is_stopped_before_the_next_wave():
    fleet = a_fleet(1)
    driver = driven(fleet)
    driver.run(stop=lambda: driver.rollout.promoted_at is not None)
    fleet.stop(driver.members[0].user_id)

    driver.run()

    assert driver.rollout.state is RolloutState.SUCCEEDED
    assert fleet.target == NEW


def test_a_failed_canary_is_what_it_ends_for_also_when_its_way_back_was_paused():
    fleet = a_fleet(4)
    driver = driven(fleet)
    fleet.clumsy = frozenset(fleet.stacks)
    driver.run(stop=lambda: driver.rollout.goes_back)
    message = driver.rollout.message

    driver.pause()
    driver.resume()
    assert (driver.rollout.reason, driver.rollout.message) == (RolloutReason.CANARY_FAILED, message)
    driver.run()

    assert (driver.rollout.state, driver.rollout.reason) == (
        RolloutState.FAILED,
        RolloutReason.CANARY_FAILED,
    )
