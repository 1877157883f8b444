"""Scripted trouble for the in-memory fakes: calls that fail, before or after they took effect, and calls that hang."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded


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


class _Turn:
    """Lets others run first, as `asyncio.sleep(0)` does, without a coroutine of its own: most calls of a schedule pass here."""

    def __await__(self) -> Generator[None, None, None]:
        yield


_TURN = _Turn()


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
        self.policy: Callable[[str, bool], Awaitable[None] | None] | None = None
        """Asked before and after the effect of every call; it may raise what the caller gets, or return what to wait for."""
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

    def call(self, method: str, deadline: Deadline | None) -> "_Call":
        """Surround the effect of one call. Others run before it, as they would while a request travels."""
        self.calls[method] += 1
        return _Call(self, method, deadline)

    def strike(self, method: str, *, after_commit: bool) -> Awaitable[None] | None:
        """Raise what shall go wrong here, or return what the call has to wait for."""
        wait = self.policy(method, after_commit) if self.policy is not None else None
        for fault in self._faults:
            if fault.method in {method, "*"} and fault.after_commit is after_commit:
                break
        else:
            return wait
        return self._wait_and_strike(wait, fault)

    async def _wait_and_strike(self, wait: Awaitable[None] | None, fault: _Fault) -> None:
        if wait is not None:
            await wait
        if fault.left is not None:
            fault.left -= 1
            if fault.left <= 0:
                self._faults.remove(fault)
        if isinstance(fault.what, Hold):
            await fault.what.wait()
        else:
            raise fault.what


class _Call:
    """
    One call, around its effect.

    The effect itself takes no time, so the deadline is held against what is waited for before and after it.
    """

    __slots__ = ("_deadline", "_faults", "_method")

    def __init__(self, faults: Faults, method: str, deadline: Deadline | None) -> None:
        self._faults = faults
        self._method = method
        self._deadline = deadline

    async def __aenter__(self) -> None:
        await _TURN
        if self._deadline is not None and not self._deadline.left():
            raise DeadlineExceeded(self._deadline.purpose)
        wait = self._faults.strike(self._method, after_commit=False)
        if wait is not None:
            await self._within_deadline(wait)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        wait = self._faults.strike(self._method, after_commit=True)
        if wait is not None:
            await self._within_deadline(wait)

    async def _within_deadline(self, wait: Awaitable[None]) -> None:
        if self._deadline is None:
            await wait
            return
        async with self._deadline.enforce():
            await wait
