"""How long ago something was seen, whatever is done to the clock meanwhile."""

from collections.abc import Callable
from datetime import datetime, timedelta
from math import inf

from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.identifiers import JobId


class Freshness:
    """
    Keeps when each job was last seen on a clock that nobody sets.

    By the time of day alone, what is 30 s old would stay fresh for an hour when the clock is set back by one. One that is
    set forward makes everything old at once, until it is seen again.
    """

    def __init__(self, *, now: Clock, monotonic: Callable[[], float], max_age: timedelta) -> None:
        self._now = now
        self._monotonic = monotonic
        self._max_age = max_age.total_seconds()
        self._seen_at: dict[JobId, float] = {}
        """Of those that were seen by themselves since the last whole listing."""
        self._listed_at = -inf

    def saw(self, job_id: JobId, observed_at: datetime) -> None:
        """Take in that the job was seen just now, as it was at *observed_at*."""
        self._seen_at[job_id] = max(self._moment_of(observed_at), self._seen_at.get(job_id, -inf))

    def listed(self, observed_at: datetime) -> None:
        """Take in that all jobs were listed just now, as they were at *observed_at*."""
        self._listed_at = max(self._moment_of(observed_at), self._listed_at)
        self._seen_at = {job_id: at for job_id, at in self._seen_at.items() if at > self._listed_at}

    def forget(self) -> None:
        self._seen_at, self._listed_at = {}, -inf

    def is_too_old(self, job_id: JobId, observed_at: datetime) -> bool:
        """Whether what was observed of the job at *observed_at*, or confirmed by a listing since, is too old."""
        last = max(self._seen_at.get(job_id, -inf), self._listed_at)
        age = max(self._monotonic() - last, (self._now() - observed_at).total_seconds())
        return age > self._max_age

    def _moment_of(self, observed_at: datetime) -> float:
        return self._monotonic() - max(0.0, (self._now() - observed_at).total_seconds())
