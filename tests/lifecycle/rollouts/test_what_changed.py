"""What is said of a stack that is left out of a plan since it is not as it was planned."""

from dataclasses import replace

import pytest

from opencode_lifecycle.lifecycle.rollouts.planning import what_changed
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.rollout import PlannedStack
from opencode_lifecycle.model.staleness import Severity, Staleness
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


def reasons(*facets: Facet) -> tuple[Staleness, ...]:
    return tuple(
        Staleness(facet=facet, have="a", want="b", severity=Severity.INFO, restart=False) for facet in facets
    )


def test_of_a_stack_that_is_as_it_was_planned_nothing_is_said(stack):
    assert what_changed(planned(stack), stack, planned(stack)) == ""


def test_it_says_that_something_else_was_asked_for(stack):
    asked = replace(stack, intent=replace(stack.intent, generation=7))

    assert what_changed(planned(stack), asked, None) == (
        "something else was asked for it since: generation 7, planned at 1"
    )


def test_it_says_that_a_runtime_has_started(stack):
    assert what_changed(planned(stack, revision=None), stack, None) == "it had not started yet, and runs now"


def test_it_says_that_a_runtime_is_not_there_any_more(stack):
    gone = replace(stack, status=replace(stack.status, runtime=None))

    assert what_changed(planned(stack), gone, None) == "it ran, and does not run now"


def test_it_says_from_which_revision_to_which_a_runtime_went(stack):
    runs = stack.status.runtime.revision

    assert (
        what_changed(planned(stack, revision="r1"), stack, None) == f"it ran revision r1, and runs {runs} now"
    )


def test_it_says_that_it_would_be_moved_in_another_way_by_now(stack):
    live = planned(stack, why=reasons(Facet.PROMPT), migration_class=MigrationClass.LIVE)
    restart = planned(
        stack, why=reasons(Facet.PROMPT, Facet.SECRET_VERSION), migration_class=MigrationClass.RESTART
    )

    assert what_changed(live, stack, restart) == (
        "live for prompt was planned, and by now it is restart for prompt, secret_version"
    )


def test_it_says_that_it_is_stale_in_something_else_by_now(stack):
    before = planned(stack, why=reasons(Facet.IMAGE), migration_class=MigrationClass.RESTART)
    by_now = planned(
        stack, why=reasons(Facet.IMAGE, Facet.EDITED_OUTSIDE), migration_class=MigrationClass.RESTART
    )

    assert "by now it is restart for edited_outside, image" in what_changed(before, stack, by_now)


def test_it_says_that_there_is_nothing_to_move_by_now(stack):
    assert what_changed(planned(stack), stack, None) == "it is as it should be by now"
