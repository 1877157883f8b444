"""Keeps the fleet current: the listing of Nomad and its event stream, and the sequence of changes in the database."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol

import structlog

from opencode_lifecycle.lifecycle.background import Pulse
from opencode_lifecycle.lifecycle.braking.admission import Admission
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.ports.orchestrator import Connected, Listing, NodesChanged, Orchestrator
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
        on_nodes: Callable[[], None],
        interval: timedelta,
        timeout: timedelta,
    ) -> None:
        self._orchestrator = orchestrator
        self._on_nodes = on_nodes
        self._admission = admission
        self._fleet = fleet
        self._interval = interval.total_seconds()
        self._timeout = timeout.total_seconds()
        self._index: int | None = None
        """Of the last listing."""
        self._followed_from: int | None = None
        """The index after which the stream tells."""
        self.looked = asyncio.Event()
        """Set when Nomad was seen for the first time, or could not be."""
        self._patience: asyncio.Timeout | None = None
        """Of the wait for the next event, while there is one."""
        self._listing = asyncio.Lock()
        self._stream_is_open = False
        self._stream_seen = Pulse()

    async def list_once(self) -> Listing:
        """Read everything, once. One at a time: of two that overlap, the older would look like a Nomad gone back in time."""
        try:
            async with self._listing:
                listing = await self._list()
        finally:
            self.looked.set()
        self._end_if_past()
        return listing

    def _end_if_past(self) -> None:
        """Leave the stream when Nomad counts from an older index: what happens now lies before what it is to tell."""
        if self._index is None or self._followed_from is None or self._patience is None:
            return
        if self._index < self._followed_from:
            patience, self._patience = self._patience, None
            patience.reschedule(asyncio.get_running_loop().time())

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
        """
        Follow the stream until it ends, then list, since what it left out cannot be told. Raises why it ended.

        The first thing that is seen of Nomad is a listing, too: under the stream, or without one that cannot be opened.
        It is left, to be opened anew, when a listing shows that Nomad went back to an index before that of its opening.
        """
        self._followed_from = self._index
        try:
            async with asyncio.timeout(None) as patience:
                try:
                    await self._follow(patience)
                finally:
                    self._patience = None
        except TimeoutError:
            log.warning("event stream opened anew", index=self._index, before=self._followed_from)
        except Exception:
            # Whatever it ended of, a defect of ours too: who has not seen Nomad yet shall.
            if self._has_ended() or not self.looked.is_set():
                await self.list_once()
            raise
        finally:
            self._has_ended()

    def _has_ended(self) -> bool:
        """Take in that the stream is not open any more, and return whether it was."""
        was_open, self._stream_is_open = self._stream_is_open, False
        if was_open:
            self._stream_seen.beat()
        return was_open

    async def _follow(self, patience: asyncio.Timeout) -> None:
        async for change in self._orchestrator.follow(self._followed_from):
            self._patience = None
            if isinstance(change, Connected):
                log.info("event stream open", index=change.index)
                self._stream_is_open, self._followed_from = True, change.index
                # What happened since the last listing, and before the opening, may be in no buffer any more.
                await self.list_once()
                self._on_nodes()
            elif isinstance(change, NodesChanged):
                self._on_nodes()
            elif ConditionKind.OTHER_CLUSTER not in self._fleet.frozen:
                self._fleet.apply(change)
            self._patience = patience
            self._end_if_past()

    def stream_age(self) -> float | None:
        """Seconds since the stream was last open, 0 while it is, None when it never was."""
        return 0.0 if self._stream_is_open else self._stream_seen.age()


class ChangeFeed(Protocol):
    async def wait_for_change(self, timeout: float, *, after: int | None = None) -> None:
        """Return soon once there is a change later than *after* by anyone, or after *timeout* seconds."""
        ...


class StoreWatch:
    """
    Follows what is written to stacks.

    What this replica writes is in memory at once. So where nobody else writes, it is read from time to time, and else as
    soon as it is heard of.
    """

    PAGE = 500
    MOST_BEHIND = timedelta(seconds=1)
    """How much older than the database memory may be and still answer for it."""
    ALONE = timedelta(seconds=2)
    """How often the database is looked at that is ours alone."""

    def __init__(
        self,
        *,
        stacks: StackStore,
        feed: ChangeFeed,
        fleet: Fleet,
        load_releases: Callable[[Stack], Awaitable[None]],
        shares_database: bool,
        interval: timedelta = MOST_BEHIND / 2,
    ) -> None:
        self._stacks = stacks
        self._feed = feed
        self._fleet = fleet
        self._load_releases = load_releases
        self._shares_database = shares_database
        self._interval = interval.total_seconds()
        self._most_behind = self.MOST_BEHIND.total_seconds()
        self._caught_up = Pulse()

    def is_behind(self) -> bool:
        """Whether another replica may have written, for longer than memory may lag, what is not in memory yet."""
        if not self._shares_database:
            return False
        age = self._caught_up.age()
        return age is None or age > self._most_behind

    async def catch_up(self) -> None:
        """Take in every change that is not known yet."""
        while True:
            changes = await self._stacks.changes_since(self._fleet.seq, limit=self.PAGE)
            for change in changes:
                if change.stack is not None:
                    # Another replica may have made one wanted that is new here; without it nothing can be called stale.
                    await self._load_releases(change.stack)
            self._fleet.apply_changes(changes)
            if len(changes) < self.PAGE:
                self._caught_up.beat()
                return

    async def follow_once(self) -> None:
        """Wait for a change, or a period, and take in what there is."""
        if self._shares_database:
            await self._feed.wait_for_change(self._interval, after=self._fleet.seq)
        else:
            await asyncio.sleep(self.ALONE.total_seconds())
        await self.catch_up()
