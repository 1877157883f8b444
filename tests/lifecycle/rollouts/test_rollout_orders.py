"""What a rollout decides about a stack is looked at once more in the transaction that writes it: people come first."""

from dataclasses import replace

import pytest

from opencode_lifecycle.lifecycle.rollouts import orders
from opencode_lifecycle.model.migration import OrderOutcome
from opencode_lifecycle.model.rollout import MemberState
from opencode_lifecycle.model.rollout_specification import RolloutSpecification
from opencode_lifecycle.model.states import MigrationState
from opencode_lifecycle.ports.stores import Decision, Situation
from rollout_examples import ToyDriver, a_fleet, a_specification
from toy_fleet import NEW, OLD


@pytest.fixture
def driver():
    return ToyDriver.of(a_fleet(1), a_specification())


def decided(driver, what, *, member=None) -> Decision:
    member = member or driver.members[0]
    stack = driver.fleet.stacks.get(member.user_id)
    decide = what(driver.rollout, member, now=driver.fleet.now)
    return decide(Situation(stack=stack, last_operation=None, kept_workspace=None))


def ordered(driver):
    """Give the one member after its order was written down in both rows."""
    driver.take_turn()
    assert driver.members[0].state is MemberState.ORDERED
    return driver.members[0]


def test_an_order_is_a_new_generation_with_its_event(driver):
    made = decided(driver, orders.order)

    assert made.stack.intent.wanted_release == NEW
    assert (made.stack.intent.generation, made.stack.intent.order.id) == (2, "ro_1")
    assert [(event.kind, event.actor, event.data["rollout"]) for event in made.events] == [
        ("stack.ordered", "olga", "ro_1")
    ]


def test_an_order_that_stands_or_was_seen_to_is_not_issued_again_by_who_does_not_know_of_it(driver):
    forgetful = driver.members[0]
    ordered(driver)
    assert decided(driver, orders.order, member=forgetful) == Decision()

    stack = driver.fleet.stacks[forgetful.user_id]
    done = replace(stack.status, order_done="ro_1", order_outcome=OrderOutcome.DONE)
    driver.fleet.put(replace(stack, status=done))

    assert decided(driver, orders.order, member=forgetful) == Decision()


@pytest.mark.parametrize("what", ["stop", "recreate", "pin", "delete"])
def test_nobody_is_ordered_whose_stack_somebody_changed_a_moment_ago(driver, what):
    getattr(driver.fleet, what)(driver.members[0].user_id)

    assert decided(driver, orders.order) == Decision()


def test_a_migration_that_has_begun_is_not_called_off(driver):
    member = ordered(driver)
    stack = driver.fleet.stacks[member.user_id]
    begun = replace(stack.status, migration_state=MigrationState.REPLACING)
    driver.fleet.put(replace(stack, status=begun))

    assert decided(driver, orders.release) == Decision()


def test_calling_an_order_off_leaves_the_stack_as_it_was(driver):
    ordered(driver)

    made = decided(driver, orders.release)

    assert made.stack.intent.order is None
    assert made.stack.intent.wanted_release == OLD


def test_calling_off_an_order_of_a_fresh_start_leaves_none_due():
    specification = RolloutSpecification(recreate=True, rotate_passwords=True)
    driver = ToyDriver.of(a_fleet(1), specification)
    before = driver.fleet.stacks[driver.members[0].user_id].intent
    ordered(driver)

    made = decided(driver, orders.release)

    assert (made.stack.intent.fresh_start, made.stack.intent.rotation) == (
        before.fresh_start,
        before.rotation,
    )


def test_a_stack_is_ordered_back_in_the_middle_of_its_way_there(driver):
    ordered(driver)

    made = decided(driver, orders.order_back)

    assert made.stack.intent.wanted_release == OLD
    assert made.stack.intent.order.id == "ro_1.back.3"
