"""
An event loop in virtual time: nothing waits, and what is ready at the same moment runs in an order that a seed chooses.

Its innermost part is written anew, since it has no files and no threads to look after. Everything above it (tasks, futures,
timeouts) is asyncio's own.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from random import Random
from typing import Any

from opencode_lifecycle.model.errors import LifecycleError

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class Stuck(Exception):
    """Everybody waits for something that nobody will do."""


class _Handle:
    """What `asyncio.Handle` is, without what tells of slow callbacks."""

    __slots__ = ("args", "callback", "context", "is_cancelled")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None) -> None:
        self.callback = callback
        self.args = args
        self.context = context if context is not None else copy_context()
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class VirtualLoop(asyncio.BaseEventLoop):
    """Use it for one schedule and close it."""

    def __init__(self, random: Random) -> None:
        self._random = random
        super().__init__()
        self.errors: list[str] = []
        self._now = 0.0
        self._told, self._date = 0.0, BEGINNING
        self._timers: list[tuple[float, int, _Handle]] = []
        self._made = 0
        self._turns, self._moment = 0, 0.0
        self._is_frozen: Callable[[Context], bool] | None = None
        self._held: list[_Handle] = []
        self.set_exception_handler(self._note)

    def forgive(self) -> None:
        """Let what is left be cleared away, however many turns that takes."""
        self.thaw()
        self._turns = -(10**9)
        self._moment = self._now

    def freeze(self, is_frozen: Callable[[Context], bool]) -> None:
        """Run nothing of the contexts that are frozen, as of a process that was stopped, until `thaw`."""
        self._is_frozen = is_frozen

    def thaw(self) -> None:
        """Let what was held back run, in the order in which it became due."""
        self._is_frozen = None
        held, self._held = self._held, []
        self._ready.extend(held)

    def time(self) -> float:
        return self._now

    def wall_clock(self) -> datetime:
        # It is read several times in each moment.
        if self._told != self._now:
            self._told, self._date = self._now, BEGINNING + timedelta(seconds=self._now)
        return self._date

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        handle = _Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon
    """There are no threads; asyncio itself uses it for generators that were left open."""

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        handle = _Handle(callback, args, context)
        self._made += 1
        # Those of one moment fire in the order in which they were set.
        heappush(self._timers, (when, self._made, handle))
        return handle

    def _run_once(self) -> None:
        self._let_time_pass()
        self._turns = self._turns + 1 if self._now == self._moment else 0
        self._moment = self._now
        if self._turns > _HOT:
            raise Stuck(f"{_HOT} turns without a moment's pause: a hot loop")
        ready = self._ready
        if len(ready) > 1 and self._random.random() < _SHUFFLED:
            # Order within one moment is no promise of any loop.
            ready.rotate(self._random.randrange(len(ready)))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.is_cancelled:
                continue
            if self._is_frozen is not None and self._is_frozen(handle.context):
                self._held.append(handle)
                continue
            try:
                handle.context.run(handle.callback, *handle.args)
            except Exception as error:  # noqa: BLE001 - a callback that fails ends no loop
                self.call_exception_handler({"message": "in a callback", "exception": error})

    def _let_time_pass(self) -> None:
        """Move what is due among what is ready; with nothing ready, go on to the moment of the next timer."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2].is_cancelled:
            heappop(timers)
        if not ready and not self._stopping:
            if not timers:
                raise Stuck
            self._now = max(self._now, timers[0][0])
            if self._now > _END:
                raise Stuck(f"no end after {_END:.0f} s")
        now = self._now
        while timers and timers[0][0] <= now:
            ready.append(heappop(timers)[2])

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, LifecycleError):
            # What a call came to, of which nobody waits to hear any more.
            return
        self.errors.append(f"{context.get('message')}: {error!r}")


_END = 86_400.0
"""Seconds after which whoever still waits waits for ever: something that looks now and then keeps the loop going without end."""
_SHUFFLED = 0.3
_HOT = 20_000
"""More turns than all that can be ready at one moment takes."""
