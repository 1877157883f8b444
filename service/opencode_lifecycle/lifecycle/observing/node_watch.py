"""Keeps the fleet told of the nodes that take nothing new: a listing every period, and sooner when a node changed."""

import asyncio
from datetime import timedelta

from opencode_lifecycle.lifecycle.background import Pulse, set_within
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.ports.orchestrator import Orchestrator


class NodeWatch:
    """The listing is the guarantee; a hint only makes it come sooner, and never more often than every *pause*."""

    def __init__(
        self,
        *,
        orchestrator: Orchestrator,
        fleet: Fleet,
        interval: timedelta,
        timeout: timedelta,
        pause: timedelta = timedelta(milliseconds=500),
    ) -> None:
        self._orchestrator = orchestrator
        self._fleet = fleet
        self._interval = interval.total_seconds()
        self._timeout = timeout.total_seconds()
        self._pause = min(pause, interval).total_seconds()
        self._hinted = asyncio.Event()
        self.pulse = Pulse()

    def hint(self) -> None:
        """Have the nodes listed soon: something about one of them changed."""
        self._hinted.set()

    async def list_once(self) -> None:
        self._hinted.clear()
        begun = self._fleet.nodes.now()
        closed = await self._orchestrator.closed_nodes(Deadline.after(self._timeout, "list the nodes"))
        self._fleet.apply_nodes(closed, begun=begun)
        self.pulse.beat()

    async def round(self) -> None:
        """Wait for a hint or until a period is over, and list."""
        await asyncio.sleep(self._pause)
        await set_within(self._hinted, self._interval - self._pause)
        await self.list_once()
