"""One replica of the control plane: one life after another, as a supervisor of processes keeps it going."""

import asyncio
from contextvars import copy_context
from random import Random
from typing import TYPE_CHECKING

from opencode_lifecycle.model.errors import LifecycleError
from simulation.cluster import LIFE, Cluster

if TYPE_CHECKING:
    from opencode_lifecycle.lifecycle.control_plane import ControlPlane


class Replica:
    """`plane` is the control plane that lives now, None while there is none that is ready."""

    def __init__(self, number: int, cluster: Cluster, random: Random, *, shares_database: bool) -> None:
        self.number = number
        self.plane: ControlPlane | None = None
        self.life = 0
        self._cluster = cluster
        self._random = random
        self._shares_database = shares_database
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def ready(self) -> None:
        await self._ready.wait()

    def begin_life(self) -> None:
        life = self.life = self._cluster.new_life(self.number)
        self._ready = asyncio.Event()
        context = copy_context()
        context.run(LIFE.set, life)
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._live(life), context=context, name=f"life {life}")

    async def _live(self, life: int) -> None:
        cluster = self._cluster
        plane = cluster.plane(shares_database=self._shares_database)
        while life not in cluster.dead:
            try:
                async with plane.running(cluster.content()):
                    if life not in cluster.dead:
                        cluster.say(f"life {life} is ready")
                        self.plane = plane
                        self._ready.set()
                    await asyncio.Event().wait()
            except LifecycleError as error:
                # As a supervisor of processes does: start it again.
                cluster.say(f"life {life} cannot start: {error.message}")
                await asyncio.sleep(1)
                plane = cluster.plane(shares_database=self._shares_database)

    def bury(self, life: int) -> None:
        """Let a dead life go, and begin the next one after a while."""
        if self._task is not None and self.life == life:
            self._task.cancel()
            self._task, self.plane = None, None
            asyncio.get_running_loop().call_later(self._random.choice((0.1, 1.0, 5.0)), self.begin_life)
