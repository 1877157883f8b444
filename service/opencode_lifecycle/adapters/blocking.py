"""Synchronous client libraries, called from a bounded pool of threads."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from opencode_lifecycle.model.deadline import Deadline

P = ParamSpec("P")
T = TypeVar("T")


class BlockingCalls:
    """
    At most *threads* calls at a time; more of them wait, within their deadlines.

    A thread cannot be cancelled. When a deadline cuts a call short the caller goes on at once, but the thread is busy
    until its socket gives up: whoever passes a function in must keep its socket timeouts below the deadline.
    """

    def __init__(self, *, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    async def run(self, deadline: Deadline, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call *function* in a thread and return what it returns, or raise `DeadlineExceeded`.

        A call that still waits for a thread when the deadline passes is never made.
        """
        call = partial(contextvars.copy_context().run, function, *args, **kwargs)
        async with deadline.enforce():
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Take no more calls and forget those that wait. Those that run end by their socket timeouts."""
        self._executor.shutdown(wait=False, cancel_futures=True)
