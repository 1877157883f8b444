"""An order of a rollout stands until somebody asks otherwise about the same."""

from dataclasses import replace

import pytest

from database_examples import a_stack
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.migration import MigrationOrder, OrderOutcome
from opencode_lifecycle.model.states import Desired

ORDER = MigrationOrder(id="ro_1")
ABOUT_THE_SAME = {
    "a stop": {"desired": Desired.STOPPED, "held": True},
    "a deletion": {"desired": Desired.DELETED},
    "a recreate": {"fresh_start": 7},
    "a rotation": {"rotation": 7},
    "a pin": {"pinned": True},
    "another release": {"wanted_release": ReleaseId("rel_other")},
}
ABOUT_SOMETHING_ELSE = {
    "nothing new": {},
    "another group": {"group": "team-a"},
    "labels": {"labels": {"team": "b"}},
    "resources and environment": {"resources": "large", "environment": {"TZ": "CET"}},
    "what was refused": {"recovered": 7},
}


def ordered(**intent):
    return a_stack(**{"order": ORDER, **intent})


@pytest.mark.parametrize("change", ABOUT_THE_SAME.values(), ids=ABOUT_THE_SAME)
def test_an_order_ends_with_a_request_about_the_same(change):
    stack = ordered()

    assert stack.order_beside(replace(stack.intent, **change)) is None


@pytest.mark.parametrize("change", ABOUT_SOMETHING_ELSE.values(), ids=ABOUT_SOMETHING_ELSE)
def test_an_order_stands_beside_a_request_about_something_else(change):
    stack = ordered()

    assert stack.order_beside(replace(stack.intent, **change)) == ORDER


def test_an_order_that_lies_in_a_stopped_stack_ends_when_that_is_started():
    stack = ordered(desired=Desired.STOPPED)

    assert stack.order_beside(replace(stack.intent, desired=Desired.RUNNING)) is None


def test_an_order_that_was_seen_to_the_end_stays_to_be_read():
    stack = ordered()
    done = replace(stack.status, order_done=ORDER.id, order_outcome=OrderOutcome.DONE)
    stack = replace(stack, status=done)

    assert stack.order_beside(replace(stack.intent, desired=Desired.STOPPED)) == ORDER


@pytest.mark.parametrize("change", [{}, {"pinned": True}], ids=["called off", "overruled by a pin"])
def test_what_an_order_asked_for_and_nothing_came_of_goes_with_it(change):
    stack = ordered(order=MigrationOrder(id="ro_1", rotate=True, fresh=True), fresh_start=5, rotation=5)
    stack = replace(stack, status=replace(stack.status, fresh_start_done=2, rotation_done=3))
    intent = replace(stack.intent, **change)

    left = stack.beside_order(intent) if change else stack.calling_off(intent)

    assert (left.order, left.fresh_start, left.rotation) == (None, 2, 3)


def test_what_somebody_asks_for_stays_when_it_ends_an_order_of_the_same():
    stack = ordered(order=MigrationOrder(id="ro_1", rotate=True, fresh=True), fresh_start=5, rotation=5)

    left = stack.beside_order(replace(stack.intent, fresh_start=6, rotation=6))

    assert (left.order, left.fresh_start, left.rotation) == (None, 6, 6)
