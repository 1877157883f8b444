"""What is said of a stack that is left out of a plan since it is not as it was planned."""

from dataclasses import replace

import pytest

from opencode_lifecycle.lifecycle.rollouts.planning import what_changed
from opencode_lifecycle.model.rollout import PlannedStack
from rollout_examples import a_fleet


@pytest.fixture
def stack():
    (made,) = a_fleet(1).stacks.values()
    return made


def planned(stack, **changes) -> PlannedStack:
    """Return what was planned for *stack* as it is, but for *changes*."""
    runtime = stack.status.runtime
    as_it_is = PlannedStack(
        user_id=stack.user_id,
        generation=stack.intent.generation,
        revision=runtime.revision if runtime is not None else None,
        release=None,
    )
    return replace(as_it_is, **changes)


def test_of_a_stack_that_is_as_it_was_planned_nothing_is_said(stack):
    assert what_changed(planned(stack), stack) == ""


def test_it_says_that_something_else_was_asked_for(stack):
    asked = replace(stack, intent=replace(stack.intent, generation=7))

    assert what_changed(planned(stack), asked) == (
        "something else was asked for it since: generation 7, planned at 1"
    )


def test_it_says_that_a_runtime_has_started(stack):
    assert what_changed(planned(stack, revision=None), stack) == "it had not started yet, and runs now"


def test_it_says_that_a_runtime_is_not_there_any_more(stack):
    gone = replace(stack, status=replace(stack.status, runtime=None))

    assert what_changed(planned(stack), gone) == "it ran, and does not run now"


def test_it_says_from_which_revision_to_which_a_runtime_went(stack):
    runs = stack.status.runtime.revision

    assert what_changed(planned(stack, revision="r1"), stack) == f"it ran revision r1, and runs {runs} now"
