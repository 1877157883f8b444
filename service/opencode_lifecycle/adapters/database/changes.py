"""Word of commits: from this process at once, from others through PostgreSQL's NOTIFY."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from opencode_lifecycle.adapters.database.failures import translated
from opencode_lifecycle.adapters.database.transaction import CHANNEL
from opencode_lifecycle.model.errors import LifecycleError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_RECONNECT_SECONDS: Final = 1.0


class Changes:
    """The last change that this process has heard of."""

    def __init__(self) -> None:
        self._latest = 0
        self._news = asyncio.Event()

    def announce(self, seq: int) -> None:
        self._latest = max(self._latest, seq)
        self._news.set()
        self._news = asyncio.Event()

    async def wait(self, seconds: float, *, after: int | None = None) -> None:
        """Return at the next commit, at once when one later than *after* is known already, or after *seconds*."""
        if after is not None and self._latest > after:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()


class Listener:
    """Listens for the commits of other processes, and connects anew when the connection is lost."""

    def __init__(self, *, engine: "AsyncEngine", changes: Changes) -> None:
        self._engine = engine
        self._changes = changes
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._listen(), name="database listener")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _listen(self) -> None:
        while True:
            # What is heard is a hint; whoever needs certainty asks `changes_since`.
            with contextlib.suppress(LifecycleError), translated("listen"):
                await self._listen_once()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen_once(self) -> None:
        ended = asyncio.Event()

        def heard(connection: Any, process: int, channel: str, payload: str) -> None:
            del connection, process, channel
            self._changes.announce(int(payload) if payload.isdigit() else 0)

        async with self._engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver.add_termination_listener(lambda _: ended.set())
            await driver.add_listener(CHANNEL, heard)
            try:
                # Something may have happened while nobody listened.
                self._changes.announce(0)
                await ended.wait()
            finally:
                with contextlib.suppress(Exception):
                    await driver.remove_listener(CHANNEL, heard)
