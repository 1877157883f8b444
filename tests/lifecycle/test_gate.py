"""Whether a runtime may be interrupted: every row of the table."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from database_examples import RUNTIME, a_stack
from opencode_lifecycle.lifecycle.reconciling.planning.gate import Busy, Idle, Unknown, may_interrupt
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.prober import Activity

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LIMITS = Limits(
    start=timedelta(minutes=3),
    stop=timedelta(minutes=2),
    idle_after=timedelta(minutes=5),
    idle_poll=timedelta(seconds=30),
)
MOMENT = timedelta(microseconds=1)
AN_HOUR = timedelta(hours=1)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


@dataclass(frozen=True)
class Seen:
    """What the gate looks at of a `Work`."""

    stack: Stack
    activity: Activity | None
    activity_at: datetime | None


def verdict(
    *,
    activity: Activity | None = None,
    looked_at: datetime | None = NOW,
    busy_until: datetime | None = None,
    proven_at: datetime = NOW - AN_HOUR,
):
    stack = a_stack()
    status = replace(stack.status, phase=Phase.RUNNING, runtime=replace(RUNTIME, proven_at=proven_at))
    stack = replace(stack, status=status, busy_until=busy_until)
    return may_interrupt(Seen(stack, activity, looked_at), NOW, LIMITS)


def idle(**span: float) -> Activity:
    return Activity(busy=False, changed_at=ago(**span))


AT_WORK = Activity(busy=True, changed_at=ago(seconds=1))


def test_a_runtime_that_was_idle_for_the_quiet_period_may_be_interrupted():
    assert verdict(activity=idle(minutes=5)) == Idle()


def test_a_runtime_that_no_session_ever_used_may_be_interrupted_after_the_quiet_period():
    unused = Activity(busy=False, changed_at=None)

    assert verdict(activity=unused, proven_at=ago(minutes=5)) == Idle()
    assert isinstance(verdict(activity=unused, proven_at=ago(minutes=5) + MOMENT), Busy)


def test_a_runtime_at_work_is_busy_and_cannot_be_idle_before_the_quiet_period_is_over():
    found = verdict(activity=AT_WORK)

    assert found == Busy(until=ago(seconds=1) + LIMITS.idle_after, why=found.why)
    assert "works or waits for its user" in found.why


def test_a_runtime_that_has_been_at_work_without_a_change_for_long_may_be_idle_any_moment():
    assert verdict(activity=Activity(busy=True, changed_at=ago(hours=1))).until == NOW


def test_a_runtime_that_changed_within_the_quiet_period_is_busy_until_that_is_over():
    found = verdict(activity=idle(minutes=4))

    assert found == Busy(until=ago(minutes=4) + LIMITS.idle_after, why="it was used a moment ago")


def test_a_runtime_that_has_just_started_is_about_to_be_used():
    found = verdict(activity=idle(hours=1), proven_at=ago(minutes=1))

    assert found == Busy(until=ago(minutes=1) + LIMITS.idle_after, why="it was used a moment ago")


@pytest.mark.parametrize("looked_at", [None, NOW], ids=["never looked at", "looked at in vain"])
def test_what_cannot_be_seen_is_unknown(looked_at):
    assert isinstance(verdict(activity=None, looked_at=looked_at), Unknown)


def test_idle_that_was_seen_too_long_ago_is_unknown_until_it_is_looked_at_again():
    seen = idle(hours=1)

    assert verdict(activity=seen, looked_at=NOW - LIMITS.idle_poll) == Idle()
    assert isinstance(verdict(activity=seen, looked_at=NOW - LIMITS.idle_poll - MOMENT), Unknown)


@pytest.mark.parametrize(
    "activity", [None, AT_WORK, idle(minutes=1), idle(hours=1)], ids=["unknown", "at work", "quiet", "idle"]
)
def test_a_lease_counts_before_everything_that_is_seen(activity):
    until = NOW + timedelta(seconds=60)

    assert verdict(activity=activity, busy_until=until) == Busy(
        until=until + LIMITS.idle_after, why="a backend is at work with it"
    )


@pytest.mark.parametrize("lapsed", [timedelta(0), LIMITS.idle_after - MOMENT], ids=["now", "a while ago"])
def test_the_quiet_period_begins_anew_when_a_lease_lapses(lapsed):
    found = verdict(activity=idle(hours=1), busy_until=NOW - lapsed)

    assert found == Busy(until=NOW - lapsed + LIMITS.idle_after, why="it was used a moment ago")


def test_a_lease_that_lapsed_a_quiet_period_ago_is_in_no_way():
    assert verdict(activity=idle(minutes=5), busy_until=NOW - LIMITS.idle_after) == Idle()
