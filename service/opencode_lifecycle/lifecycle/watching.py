"""Keeps the fleet current: the listing of Nomad and its event stream, and the sequence of changes in the database."""

import asyncio
from datetime import timedelta
from typing import Protocol

import structlog

from opencode_lifecycle.lifecycle.admission import Admission
from opencode_lifecycle.lifecycle.background import Pulse
from opencode_lifecycle.lifecycle.fleet import Fleet
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.ports.orchestrator import Connected, Listing, Orchestrator
from opencode_lifecycle.ports.stores import StackStore

log = structlog.get_logger(__name__)


class NomadWatch:
    """List, follow from that index, and list again whenever the stream ends or a period is over."""

    def __init__(
        self,
        *,
        orchestrator: Orchestrator,
        admission: Admission,
        fleet: Fleet,
        interval: timedelta,
        timeout: timedelta,
    ) -> None:
        self._orchestrator = orchestrator
        self._admission = admission
        self._fleet = fleet
        self._interval = interval.total_seconds()
        self._timeout = timeout.total_seconds()
        self._index = 0
        self._listing = asyncio.Lock()
        self._stream_is_open = False
        self._stream_seen = Pulse()

    async def list_once(self) -> Listing:
        """Read everything, once. One at a time: of two that overlap, the older would look like a Nomad gone back in time."""
        async with self._listing:
            return await self._list()

    async def _list(self) -> Listing:
        deadline = Deadline.after(self._timeout, "list the jobs")
        before = self._admission.expectations()
        listing = await self._orchestrator.list_all(deadline)
        self._index = listing.index
        await self._admission.admit(listing, before, deadline)
        return listing

    async def list_periodically(self) -> None:
        """Wait one period and list: the guarantee behind the stream."""
        await asyncio.sleep(self._interval)
        await self.list_once()

    async def follow_once(self) -> None:
        """Follow the stream until it ends, then list, since what it left out cannot be told."""
        try:
            async for change in self._orchestrator.follow(self._index):
                if isinstance(change, Connected):
                    log.info("event stream open", index=change.index)
                    self._stream_is_open = True
                    # What happened between the listing and the opening may be in no buffer any more.
                    await self.list_once()
                self._fleet.apply(change)
        finally:
            if self._stream_is_open:
                self._stream_is_open = False
                self._stream_seen.beat()
        await self.list_once()

    def stream_age(self) -> float | None:
        """Seconds since the stream was last open, 0 while it is, None when it never was."""
        return 0.0 if self._stream_is_open else self._stream_seen.age()


class ChangeFeed(Protocol):
    async def wait_for_change(self, timeout: float, *, after: int | None = None) -> None:
        """Return soon once there is a change later than *after* by anyone, or after *timeout* seconds."""
        ...


class StoreWatch:
    """Follows what other replicas, and we ourselves, write."""

    PAGE = 500

    def __init__(self, *, stacks: StackStore, feed: ChangeFeed, fleet: Fleet, interval: timedelta) -> None:
        self._stacks = stacks
        self._feed = feed
        self._fleet = fleet
        self._interval = interval.total_seconds()

    async def catch_up(self) -> None:
        """Take in every change that is not known yet."""
        while True:
            changes = await self._stacks.changes_since(self._fleet.seq, limit=self.PAGE)
            self._fleet.apply_changes(changes)
            if len(changes) < self.PAGE:
                return

    async def follow_once(self) -> None:
        """Wait for a change, or a period, and take in what there is."""
        await self._feed.wait_for_change(self._interval, after=self._fleet.seq)
        await self.catch_up()
