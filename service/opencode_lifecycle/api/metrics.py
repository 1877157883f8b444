"""
What this API counts about itself. Label values come from the route table, so their number is bounded.

Counting is done on every request, on one thread: plain numbers are many times cheaper than the library's locked ones, and
become its metric families when they are asked for.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

UNMATCHED: Final = "unmatched"
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"})
_LABELS: Final = ("route", "method", "status")


class _Timings:
    __slots__ = ("in_bucket", "seconds")

    def __init__(self) -> None:
        self.in_bucket = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0


class RequestMetrics(Collector):
    """Counts requests and times them, by route template, method and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._timings: dict[tuple[str, str, int], _Timings] = {}
        registry.register(self)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        timings = self._timings.get((route, method, status))
        if timings is None:
            key = (route, method if method in _METHODS else "other", status)
            timings = self._timings.setdefault(key, _Timings())
        timings.in_bucket[bisect_left(BUCKETS, seconds)] += 1
        timings.seconds += seconds

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "opencode_lifecycle_http_requests", "Requests answered.", labels=_LABELS
        )
        durations = HistogramMetricFamily(
            "opencode_lifecycle_http_request_duration_seconds",
            "Time from the request's header to its answer, whole.",
            labels=_LABELS,
        )
        for (route, method, status), timings in self._timings.items():
            labels = (route, method, str(status))
            cumulative = list(accumulate(timings.in_bucket))
            bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
            requests.add_metric(labels, cumulative[-1])
            durations.add_metric(labels, list(zip(bounds, cumulative, strict=True)), timings.seconds)
        yield requests
        yield durations
