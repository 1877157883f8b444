"""Counts every call that reaches a neighbour, and tells those of the service's own loops from those of requests."""

import asyncio
from collections import Counter
from typing import Any

_LOOPS = frozenset(
    {
        "dispatcher",
        "nomad listing",
        "nomad events",
        "steady probes",
        "vault versions",
        "usage",
        "consul checks",
        "consul comparison",
        "orphans",
        "retention",
        "database changes",
        "tokens",
    }
)
_WORKERS = ("reconcile ", "prove ", "probe ")


class Counting:
    """Stands in front of a port and passes everything on."""

    def __init__(self, port: Any, name: str, calls: Counter[tuple[str, str]]) -> None:
        self._port = port
        self._name = name
        self._calls = calls

    @staticmethod
    def new() -> Counter[tuple[str, str]]:
        return Counter()

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._port, attribute)
        if not callable(value):
            return value

        def counted(*arguments: Any, **named: Any) -> Any:
            self._calls[whose_call(), f"{self._name}.{attribute}"] += 1
            return value(*arguments, **named)

        return counted


def whose_call() -> str:
    """Say whether the running task is one of the service's own, or answers a request."""
    task = asyncio.current_task()
    name = task.get_name() if task is not None else ""
    return "service" if name in _LOOPS or name.startswith(_WORKERS) else "request"
