"""Scripted trouble for the in-memory fakes: calls that fail, before or after they took effect, and calls that hang."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field

from opencode_lifecycle.model.deadline import Deadline


@dataclass(slots=True)
class Hold:
    """A call stops here. `reached` is set when it has come; it goes on once `release()` is called."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _go: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        self._go.set()

    async def wait(self) -> None:
        self.reached.set()
        await self._go.wait()


@dataclass(slots=True)
class _Fault:
    method: str
    what: Exception | Hold
    after_commit: bool
    left: int | None


class Faults:
    """What shall go wrong in which call. A method is named as in the port; `"*"` is any of them."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.policy: Callable[[str, bool], Awaitable[None]] | None = None
        """Asked before and after the effect of every call; it may wait, or raise what the caller gets."""
        self._faults: list[_Fault] = []

    def fail_next(
        self, method: str, error: Exception, *, after_commit: bool = False, times: int | None = 1
    ) -> None:
        """Let the next *times* calls fail (None: all until `heal`); *after_commit* once they took effect."""
        self._faults.append(_Fault(method, error, after_commit, times))

    def hold_next(self, method: str, *, after_commit: bool = False) -> Hold:
        """Let the next call hang until it is released, or its deadline ends it."""
        hold = Hold()
        self._faults.append(_Fault(method, hold, after_commit, 1))
        return hold

    def heal(self) -> None:
        self._faults.clear()

    @asynccontextmanager
    async def call(self, method: str, deadline: Deadline | None) -> AsyncIterator[None]:
        """Surround the effect of one call. Others run before it, as they would while a request travels."""
        self.calls[method] += 1
        async with deadline.enforce() if deadline is not None else nullcontext():
            await asyncio.sleep(0)
            await self._strike(method, after_commit=False)
            yield
            await self._strike(method, after_commit=True)

    async def _strike(self, method: str, *, after_commit: bool) -> None:
        if self.policy is not None:
            await self.policy(method, after_commit)
        for fault in self._faults:
            if fault.method in {method, "*"} and fault.after_commit is after_commit:
                break
        else:
            return
        if fault.left is not None:
            fault.left -= 1
            if fault.left <= 0:
                self._faults.remove(fault)
        if isinstance(fault.what, Hold):
            await fault.what.wait()
        else:
            raise fault.what
