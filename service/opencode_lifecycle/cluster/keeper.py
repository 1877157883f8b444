"""Keeps one server running."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from opencode_lifecycle.cluster.processes import identify, terminate
from opencode_lifecycle.cluster.state import ServerState

MAX_LOG_BYTES: Final = 32 * 1024 * 1024
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_STEADY_SECONDS: Final = 60.0
"""A server that ran this long has recovered; its next failure counts as the first."""
_STOP_GRACE: Final = timedelta(seconds=20)


class Keeper:
    """
    Starts a server again whenever it ends, after a pause that grows with each failure in a row.

    Cancelling `run` leaves the process alone: who ends the cluster ends its processes in the right order.
    """

    def __init__(
        self,
        *,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        held: Path,
        on_start: Callable[[], Coroutine[Any, Any, None]],
        on_change: Callable[[], None],
    ) -> None:
        self._command = command
        self._environment = environment
        self._log = log
        self._held = held
        self._on_start = on_start
        self._on_change = on_change
        self.state = ServerState()
        self._child: subprocess.Popen[bytes] | None = None

    async def run(self) -> None:
        failures = 0
        while True:
            await self._until_released()
            began = time.monotonic()
            # Not in a thread: a cancellation while it starts would leave a process that nobody knows.
            child = self._child = self._spawn()
            self._move("running", process_of=child)
            reason = await self._until_ended(child)
            self.state.last_exit = reason
            if self._held.exists():
                self._move("held")
                continue
            failures = 1 if time.monotonic() - began > _STEADY_SECONDS else failures + 1
            self.state.restarts += 1
            self._move("restarting")
            await asyncio.sleep(min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE))

    def reap(self) -> None:
        """Take note of the end of a process that somebody else ended after `run` was cancelled."""
        if self._child is not None:
            self._child.wait()

    def rotate_log(self) -> None:
        """Set a log aside that has grown too long. The server goes on writing to the same, now empty file."""
        if self._log.exists() and self._log.stat().st_size > MAX_LOG_BYTES:
            shutil.copyfile(self._log, self._log.with_name(f"{self._log.name}.1"))
            os.truncate(self._log, 0)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  (a program of ours or one that setup has checked)
                self._command,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._log.parent,
                start_new_session=True,
            )

    async def _until_released(self) -> None:
        while self._held.exists():
            if self.state.state != "held":
                self._move("held")
            await asyncio.sleep(0.1)

    async def _until_ended(self, child: subprocess.Popen[bytes]) -> str:
        async with asyncio.TaskGroup() as tasks:
            started = tasks.create_task(self._on_start(), name="after the start")
            holding = tasks.create_task(self._end_when_held(child), name="end when held")
            await _ended(child)
            started.cancel()
            holding.cancel()
        code = child.wait()
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    async def _end_when_held(self, child: subprocess.Popen[bytes]) -> None:
        while not self._held.exists():  # noqa: ASYNC110  (a file has no event)
            await asyncio.sleep(0.1)
        process = identify(child.pid)
        if process is not None:
            await asyncio.to_thread(terminate, [process], _STOP_GRACE)

    def _move(self, state: str, process_of: subprocess.Popen[bytes] | None = None) -> None:
        self.state.state = state
        self.state.process = identify(process_of.pid) if process_of is not None else None
        self.state.since = time.time()
        self._on_change()


async def _ended(child: subprocess.Popen[bytes]) -> None:
    """Return once *child* has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(child.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
