"""
Listens to the runtimes whose migration waits until they are idle, so that each moves as soon as its agent has finished.

A stream tells nothing of what was before it: each runtime is looked at once when it is opened, and again when something
ended in it. All of it only tells the fleet; before a runtime is interrupted it is looked at once more in any case, and one
to which nobody listens is looked at now and then by the plan. So a stream that is missing costs time, and never a turn.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import nsmallest
from random import Random
from typing import Final, assert_never

import structlog

from opencode_lifecycle.lifecycle.background import keep_going
from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.observing.vouching import Vouching
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId, UserId
from opencode_lifecycle.model.stack import Address, Stack
from opencode_lifecycle.model.states import MigrationState, Phase
from opencode_lifecycle.ports.prober import Activity
from opencode_lifecycle.ports.runtime_events import EventKind, RuntimeEvent, RuntimeEvents

log = structlog.get_logger(__name__)

MOST_STREAMS: Final = 200
"""Of one replica: each holds a connection at both ends, and an agent at work sends hundreds of events a second."""
LOOKS_AT_ONCE: Final = 16
SETTLING: Final = 0.05
"""Seconds in which what comes together is taken together: stacks that begin to wait, and all that the end of a turn ends."""
LAG: Final = 2.0
"""Seconds by which what a look shows may lag behind what the stream has told."""
BETWEEN_LOOKS: Final = 0.5
"""Seconds, at least, between two looks at one runtime, however much ends in it."""

PAUSES: Final = Backoff(first=0.5, most=30)
"""Between two tries to listen to one runtime."""

Run = tuple[AllocationId, int, Address]
"""The allocation, which run of its task, and where it is."""


def waits_until_idle(stack: Stack) -> bool:
    """Whether a migration of the stack waits for its agent."""
    return stack.status.migration_state in {MigrationState.QUEUED, MigrationState.DRAINING}


def _run_to_follow(stack: Stack) -> Run | None:
    runtime = stack.status.runtime
    if not waits_until_idle(stack) or stack.status.phase is not Phase.RUNNING or runtime is None:
        return None
    return (runtime.allocation_id, runtime.restarts, runtime.address) if runtime.address is not None else None


@dataclass(frozen=True, slots=True)
class _Waiting:
    since: datetime
    run: Run


class Listener:
    """Listens to one run of one runtime, and looks at it when something ended in it."""

    def __init__(
        self,
        *,
        user_id: UserId,
        run: Run,
        fleet: Fleet,
        events: RuntimeEvents,
        vouching: Vouching,
        looks: asyncio.Semaphore,
        now: Clock,
        timeout: float,
    ) -> None:
        self.run = run
        self.is_open = False
        self._user_id = user_id
        self._fleet = fleet
        self._events = events
        self._vouching = vouching
        self._looks = looks
        self._now = now
        self._timeout = timeout
        self._ended = asyncio.Event()
        """Set when something ended in it since the last look."""
        self._begun = 0
        """How often it was told that something began to work."""

    async def listen_once(self) -> None:
        """Follow the stream until it ends, and raise why."""
        stack = self._stack()
        if stack is None:
            await asyncio.Event().wait()  # whoever began this is about to end it
            return
        deadline = Deadline.after(self._timeout, f"listen to {stack.job_id}")
        found = self._vouching.reader(stack, deadline)
        assert found is not None, "a run that is followed has an address"
        address, read_password = found
        looking = asyncio.create_task(self._look_when_told(), name=f"look at {stack.job_id}")
        try:
            async for event in self._events.follow(
                address=address, read_password=read_password, deadline=deadline
            ):
                self._take_in(event)
        finally:
            self.is_open = False
            looking.cancel()
            (error,) = await asyncio.gather(looking, return_exceptions=True)
            if isinstance(error, Exception):
                log.error("looking failed", job_id=stack.job_id, error=str(error), kind=type(error).__name__)

    def _take_in(self, event: RuntimeEvent) -> None:
        match event.kind:
            case EventKind.OPENED:
                self.is_open = True
                self._ended.set()
            case EventKind.WORKS:
                self._begun += 1
                now = self._now()
                self._fleet.saw_activity(self._user_id, Activity(busy=True, changed_at=now), now)
            case EventKind.CHANGED:
                self._ended.set()
            case unreachable:
                assert_never(unreachable)

    async def _look_when_told(self) -> None:
        """Look when something ended; and once more a moment later where that showed nothing, since it may lag behind."""
        while True:
            await self._ended.wait()
            await asyncio.sleep(SETTLING)
            is_idle = await self._look()
            await asyncio.sleep(BETWEEN_LOOKS)
            if not is_idle and not await self._is_told_within(LAG):
                await self._look()

    async def _is_told_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    async def _look(self) -> bool:
        """
        Look at all its sessions, and return whether nothing works.

        1. The look reads that nothing works, and its answer is on the way.
        2. A session begins to work, and the stream tells that first.
        3. What the look saw is past, and not told. When that session ends, the stream tells, and it is looked at again.

        That it cannot be seen takes nothing back of what was seen before.
        """
        stack = self._stack()
        if stack is None:
            return True
        async with self._looks:
            self._ended.clear()
            begun, at = self._begun, self._now()
            deadline = Deadline.after(self._timeout, f"look what the sessions of {stack.job_id} do")
            activity = await self._vouching.activity(stack, deadline)
        if activity is None or self._stack() is None:
            return False
        if activity.busy or begun == self._begun:
            self._fleet.saw_activity(self._user_id, activity, at)
        return not activity.busy

    def _stack(self) -> Stack | None:
        """Return the stack as long as it is this run of it that is waited for."""
        known = self._fleet.get(self._user_id)
        return known.stack if known is not None and _run_to_follow(known.stack) == self.run else None


class BusyWatch:
    """Keeps a stream open to each runtime that is waited for, the longest waiting first, up to *most*."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        events: RuntimeEvents,
        vouching: Vouching,
        now: Clock,
        random: Random,
        timeout: timedelta,
        most: int = MOST_STREAMS,
    ) -> None:
        self._fleet = fleet
        self._events = events
        self._vouching = vouching
        self._now = now
        self._random = random
        self._timeout = timeout.total_seconds()
        self._most = most
        self._waiting: dict[UserId, _Waiting] = {}
        self._listeners: dict[UserId, tuple[Listener, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """Those of all listeners, also of those that are about to end."""
        self._news = asyncio.Event()
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE)

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return sum(listener.is_open for listener, _ in self._listeners.values())

    @property
    def waiting(self) -> int:
        """How many runtimes are waited for, listened to or not."""
        return len(self._waiting)

    def consider(self, known: Known) -> None:
        """Take in that the stack waits for its agent, or does so no longer."""
        user_id, run = known.stack.user_id, _run_to_follow(known.stack)
        if run is None:
            self.forget(user_id)
            return
        before = self._waiting.get(user_id)
        if before is None or before.run != run:
            since = before.since if before is not None else known.stack.updated_at
            self._waiting[user_id] = _Waiting(since, run)
            self._news.set()

    def forget(self, user_id: UserId) -> None:
        """Listen no longer to a stack that is no more, or waits for nothing."""
        if self._waiting.pop(user_id, None) is not None:
            self._news.set()

    async def round(self) -> None:
        """Wait until others are waited for than before, and listen to those."""
        await self._news.wait()
        await asyncio.sleep(SETTLING)
        self._news.clear()
        longest = nsmallest(self._most, self._waiting.items(), key=lambda item: (item[1].since, item[0]))
        chosen = {user_id: waiting.run for user_id, waiting in longest}
        for user_id, (listener, task) in list(self._listeners.items()):
            if chosen.get(user_id) != listener.run:
                del self._listeners[user_id]
                task.cancel()
        for user_id in chosen.keys() - self._listeners.keys():
            self._begin(user_id, chosen[user_id])

    def _begin(self, user_id: UserId, run: Run) -> None:
        listener = Listener(
            user_id=user_id,
            run=run,
            fleet=self._fleet,
            events=self._events,
            vouching=self._vouching,
            looks=self._looks,
            now=self._now,
            timeout=self._timeout,
        )
        name = f"listen to {user_id}"
        going = keep_going(name, listener.listen_once, backoff=PAUSES, random=self._random)
        task = asyncio.create_task(going, name=name)
        self._listeners[user_id] = listener, task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all streams and wait until nothing of them runs."""
        self._listeners.clear()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
