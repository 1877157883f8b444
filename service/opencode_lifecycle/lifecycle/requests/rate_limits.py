"""
Token buckets, one per principal and class of call. Time is an argument.

A bucket is a single number, the moment at which it will be full again (the generic cell rate algorithm): each call moves
it one emission interval into the future, and a call is refused when that would lie further ahead than the bucket is deep.
A bucket whose moment has passed is full, so forgetting it changes nothing, and memory is bounded by who called lately.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final, NamedTuple


class RateClass(StrEnum):
    READ = "read"
    ENSURE = "ensure"
    LIFECYCLE = "lifecycle"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePolicy:
    """A bucket of `burst` calls that refills at `per_second`."""

    per_second: float
    burst: int

    @property
    def window_seconds(self) -> int:
        """Time in which an empty bucket is full again, in whole seconds."""
        return max(1, ceil(self.burst / self.per_second))


DEFAULT_POLICIES: Final[Mapping[RateClass, RatePolicy]] = {
    RateClass.READ: RatePolicy(per_second=500, burst=1000),
    RateClass.ENSURE: RatePolicy(per_second=200, burst=400),
    RateClass.LIFECYCLE: RatePolicy(per_second=50, burst=100),
    RateClass.ADMIN: RatePolicy(per_second=20, burst=40),
}


class Verdict(NamedTuple):
    """`remaining` calls are left now; `retry_after` is 0 when this one is allowed, else whole seconds to wait."""

    remaining: int
    reset_seconds: int
    retry_after: int


class RateLimiter:
    """
    The buckets of one class of call.

    At most *capacity* principals that are short of a full bucket are remembered. Beyond that the one that was first
    seen is forgotten, which can only ever allow more.
    """

    def __init__(self, policy: RatePolicy, *, capacity: int = 100_000) -> None:
        self.policy = policy
        self._interval = 1 / policy.per_second
        self._depth = policy.burst / policy.per_second
        self._slack = self._interval * 1e-6
        self._capacity = capacity
        self._full_at: dict[str, float] = {}

    def take(self, principal: str, now: float) -> Verdict:
        """Take one call out of the bucket of *principal* at *now*, in seconds of a clock that never steps back."""
        full_at = max(self._full_at.get(principal, now), now)
        missing = full_at + self._interval - now
        if missing > self._depth + self._slack:
            wait = missing - self._depth
            return Verdict(0, ceil(full_at - now), max(1, ceil(wait)))
        if principal not in self._full_at and len(self._full_at) >= self._capacity:
            self._forget(now)
        self._full_at[principal] = now + missing
        return Verdict(int((self._depth - missing) / self._interval + 1e-6), ceil(missing), 0)

    def _forget(self, now: float) -> None:
        self._full_at = {name: at for name, at in self._full_at.items() if at > now}
        while len(self._full_at) >= self._capacity:
            del self._full_at[next(iter(self._full_at))]

    def __len__(self) -> int:
        return len(self._full_at)
