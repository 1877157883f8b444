"""A rollout over stacks whose node is drained: it waits for none of them, and they start on the release later."""

from opencode_lifecycle.lifecycle.rollouts.standing import observed
from opencode_lifecycle.model.migration import OrderOutcome
from opencode_lifecycle.model.rollout import MemberReason, MemberState, RolloutState
from rollout_examples import ToyDriver, a_fleet, a_specification
from toy_fleet import NEW, held_by_its_node


def test_an_order_that_ended_because_its_node_is_drained_says_so_and_is_nobodys_failure():
    driver = ToyDriver.of(a_fleet(1), a_specification())
    driver.take_turn()
    (member,) = driver.members
    stack = driver.fleet.stacks[member.user_id]
    held = held_by_its_node(stack, order_done="ro_1", order_outcome=OrderOutcome.HELD)

    after = observed(driver.rollout, member, held, driver.fleet.now)

    assert (after.state, after.reason) == (MemberState.HELD, "node_draining")


def test_what_is_held_by_its_node_is_not_waited_for_and_wants_the_release_when_it_starts():
    fleet = a_fleet(4)
    (held, *_) = sorted(fleet.stacks)
    fleet.put(held_by_its_node(fleet.stacks[held]))
    driver = ToyDriver.of(fleet, a_specification())

    driver.run()

    assert driver.rollout.state is RolloutState.SUCCEEDED
    assert driver.saved[held].reason == MemberReason.NOT_RUNNING
    assert fleet.stacks[held].intent.wanted_release == NEW
    assert fleet.stacks[held].intent.order is None
