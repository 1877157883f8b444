"""Until when a drain waits for anybody."""

from datetime import UTC, datetime, timedelta

from opencode_lifecycle.model.node import Drain

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def test_a_drain_waits_for_nobody_in_the_last_two_minutes_before_its_deadline():
    assert Drain(deadline=NOON).forced_at == NOON - timedelta(minutes=2)


def test_a_drain_without_a_deadline_waits_for_ever():
    assert Drain(deadline=None).forced_at is None
