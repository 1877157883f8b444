"""
Synchronous client libraries, kept off the event loop.

A thread cannot be cancelled, so a call that hangs would take its thread away for good. Three things prevent that: the pool
is bounded, a call that cannot start in time is not started, and every client is given a socket timeout below the
deadline of the call (`socket_timeout`).
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from opencode_lifecycle.model.deadline import Deadline

T = TypeVar("T")
Client = TypeVar("Client")

_SHARE_OF_DEADLINE: Final = 0.9


def socket_timeout(deadline: Deadline) -> float:
    """Return seconds for one socket operation, below what is left, so that the thread is free again before the caller."""
    return max(0.05, deadline.left() * _SHARE_OF_DEADLINE)


class PerThread(Generic[Client]):
    """One client per thread: the sessions inside such clients are not made to be shared."""

    def __init__(self, make: Callable[[], Client], *, close: Callable[[Client], None]) -> None:
        self._make = make
        self._close = close
        self._local = threading.local()
        self._all: list[Client] = []
        self._lock = threading.Lock()

    def get(self) -> Client:
        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            client = self._make()
            self._local.client = client
            with self._lock:
                self._all.append(client)
        return client

    def close(self) -> None:
        """Close every client that was made. No thread may use one any more."""
        with self._lock:
            clients, self._all = self._all, []
        for client in clients:
            self._close(client)


class BlockingPool:
    """A bounded number of threads."""

    def __init__(self, *, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    async def run(self, call: Callable[[], T], deadline: Deadline) -> T:
        """
        Run *call* in a thread and return its result, or raise what it raised.

        Raises `DeadlineExceeded` when the deadline comes first. A call that waits for a thread is then withdrawn; one that
        has begun goes on until its socket timeout, and its result is dropped: the outcome is unknown.
        """
        async with deadline.enforce():
            return await asyncio.wrap_future(self._executor.submit(call))

    async def close(self) -> None:
        """Withdraw what has not begun and wait for what has."""
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)
