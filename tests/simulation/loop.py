"""An event loop in virtual time: nothing waits, and what is ready at the same moment runs in an order that a seed chooses."""

import asyncio
import selectors
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class Stuck(Exception):
    """Everybody waits for something that nobody will do."""


class _Time(selectors.BaseSelector):
    """A selector that knows no files: being asked to wait, it lets time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, -1, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, -1, 0, None)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck
        self.now += max(timeout, 0.0)
        return []

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class VirtualLoop(asyncio.SelectorEventLoop):
    """Use it for one schedule and close it."""

    def __init__(self, random: Random) -> None:
        self._virtual = _Time()
        self._random = random
        super().__init__(self._virtual)
        self.errors: list[str] = []
        self._turns, self._moment = 0, 0.0
        self.set_exception_handler(self._note)

    def forgive(self) -> None:
        """Let what is left be cleared away, however many turns that takes."""
        self._turns = -(10**9)
        self._moment = self._virtual.now

    def time(self) -> float:
        return self._virtual.now

    def wall_clock(self) -> datetime:
        return BEGINNING + timedelta(seconds=self._virtual.now)

    def _run_once(self) -> None:
        self._turns = self._turns + 1 if self._virtual.now == self._moment else 0
        self._moment = self._virtual.now
        if self._turns > _HOT:
            raise Stuck(f"{_HOT} turns without a moment's pause: a hot loop")
        ready = self._ready
        if len(ready) > 1 and self._random.random() < _SHUFFLED:
            # Order within one moment is no promise of any loop.
            ready.rotate(self._random.randrange(len(ready)))
        super()._run_once()

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context.get('message')}: {error!r}")


_SHUFFLED = 0.3
_HOT = 20_000
"""More turns than all that can be ready at one moment takes."""
