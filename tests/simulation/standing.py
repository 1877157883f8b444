"""What is looked at all the time, whatever happens: what must not stay as it is for long (I4)."""

import asyncio
from typing import TYPE_CHECKING

from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_lifecycle.model.identifiers import JobId
    from simulation.cluster import Cluster

MISSED_FOR = 60.0
"""Seconds: two listings, with the looks and the saves that follow on them, where nothing goes wrong."""
_EVERY = 15.0


class Standing:
    """Looks now and then whether rows and what there is contradict one another for longer than they may."""

    def __init__(self, cluster: "Cluster", violate: "Callable[[str], None]") -> None:
        self._cluster = cluster
        self._violate = violate
        self._since: dict[JobId, float] = {}
        """Since when nothing is there of what a row says that it runs."""

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            self._look()

    def _look(self) -> None:
        cluster, now = self._cluster, self._cluster.loop.time()
        is_calm = cluster.is_calm(MISSED_FOR)
        missing = [row.stack for row in cluster.store.rows.values() if self._is_missing(row.stack)]
        for gone in self._since.keys() - {stack.job_id for stack in missing}:
            del self._since[gone]
        for stack in missing:
            since = self._since.setdefault(stack.job_id, now)
            if is_calm and now - since > MISSED_FOR:
                self._violate(
                    f"I4: {stack.user_id} is said to run, and nothing of it is there for {now - since:.0f} s"
                )

    def _is_missing(self, stack: Stack) -> bool:
        return stack.status.phase is Phase.RUNNING and not self._cluster.nomad._live(stack.job_id)
