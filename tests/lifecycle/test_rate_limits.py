"""Token buckets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opencode_lifecycle.lifecycle.requests.rate_limits import (
    DEFAULT_POLICIES,
    RateClass,
    RateLimiter,
    RatePolicy,
)

POLICY = RatePolicy(per_second=10, burst=20)


def test_a_full_bucket_gives_its_burst_and_then_refuses():
    limiter = RateLimiter(POLICY)

    verdicts = [limiter.take("ada", 100.0) for _ in range(21)]

    assert [verdict.remaining for verdict in verdicts[:20]] == list(range(19, -1, -1))
    assert [verdict.retry_after for verdict in verdicts] == [0] * 20 + [1]


def test_a_refused_call_costs_nothing():
    limiter = RateLimiter(RatePolicy(per_second=1, burst=1))
    limiter.take("ada", 0.0)
    for _ in range(50):
        limiter.take("ada", 0.5)

    assert limiter.take("ada", 1.0).retry_after == 0


def test_a_bucket_refills_at_its_rate():
    limiter = RateLimiter(POLICY)
    for _ in range(20):
        limiter.take("ada", 0.0)

    allowed = [limiter.take("ada", 0.5).retry_after == 0 for _ in range(6)]

    assert allowed == [True] * 5 + [False]


def test_buckets_of_different_principals_are_apart():
    limiter = RateLimiter(RatePolicy(per_second=1, burst=1))
    limiter.take("ada", 0.0)

    assert limiter.take("bob", 0.0).retry_after == 0
    assert limiter.take("ada", 0.0).retry_after == 1


def test_waiting_as_long_as_told_is_always_enough():
    limiter = RateLimiter(RatePolicy(per_second=0.25, burst=2))
    for _ in range(2):
        limiter.take("ada", 0.0)

    told = limiter.take("ada", 0.0).retry_after

    assert limiter.take("ada", float(told)).retry_after == 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 0.4), max_size=200), st.integers(1, 30), st.floats(0.5, 50))
def test_no_span_of_time_ever_gets_more_than_burst_and_refill(gaps, burst, per_second):
    limiter = RateLimiter(RatePolicy(per_second=per_second, burst=burst))
    now, granted = 0.0, []
    for gap in gaps:
        now += gap
        if limiter.take("ada", now).retry_after == 0:
            granted.append(now)

    for first, start in enumerate(granted):
        for last in range(first, len(granted)):
            assert last - first + 1 <= burst + (granted[last] - start) * per_second + 1e-3


def test_memory_is_bounded_and_full_buckets_are_forgotten_first():
    limiter = RateLimiter(POLICY, capacity=10)
    for number in range(10):
        limiter.take(f"old-{number}", 0.0)
    limiter.take("one-more", 1000.0)

    assert len(limiter) == 1


def test_a_clock_that_steps_back_gives_nothing_away():
    limiter = RateLimiter(RatePolicy(per_second=1, burst=1))
    limiter.take("ada", 1000.0)

    assert limiter.take("ada", 900.0).retry_after > 0


@pytest.mark.parametrize(
    ("rate", "per_second", "burst"),
    [("read", 500, 1000), ("ensure", 200, 400), ("lifecycle", 50, 100), ("admin", 20, 40)],
)
def test_the_defaults_are_those_of_the_contract(rate, per_second, burst):
    assert DEFAULT_POLICIES[RateClass(rate)] == RatePolicy(per_second=per_second, burst=burst)
