"""Agents at work in runtimes, and the backends that say so: with a lease or without, with a stream that tells of it or not."""

import asyncio
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

from fakes.opencode import FakeOpenCode
from opencode_lifecycle.model.errors import LifecycleError, StackDraining
from opencode_lifecycle.model.identifiers import UserId, job_id_of
from opencode_lifecycle.model.observation import ClientStatus
from opencode_lifecycle.ports.runtime_events import EventKind
from simulation.cluster import LIFE, Cluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation.replicas import Replica

LEASE = timedelta(seconds=60)
RENEWED_EVERY = 25.0
TURNS = (3.0, 25.0, 70.0, 200.0)
"""Seconds that a turn takes, the time included in which it waits for a permission."""

Place = tuple[str, int]


class Agents:
    """Lets agents begin and end turns. An agent that works, and one that waits for its user, are both at work."""

    def __init__(self, cluster: Cluster, random: Random, some_replica: "Callable[[], Replica]") -> None:
        self._cluster = cluster
        self._random = random
        self._some_replica = some_replica
        self._turns: set[asyncio.Task[None]] = set()
        self.refused = 0
        """How many leases were refused, since their runtime was about to be interrupted."""

    def begin(self, user: UserId) -> None:
        """Let a turn begin, in a task of its own."""
        task = asyncio.get_running_loop().create_task(self._turn(user))
        self._turns.add(task)
        task.add_done_callback(self._turns.discard)

    async def rest(self) -> None:
        """End every turn."""
        tasks = list(self._turns)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for place in list(self._cluster.at_work_since):
            self.end_at(place, is_told=True)

    async def lease(self, user: UserId) -> bool:
        """Ask for a lease, and return whether it was given."""
        replica = self._some_replica()
        plane = replica.plane
        if plane is None:
            return False

        async def extend() -> None:
            LIFE.set(replica.life)
            await plane.leases.extend(user, LEASE)

        try:
            await asyncio.get_running_loop().create_task(extend())
        except StackDraining:
            self._cluster.say(f"{user}: no lease, it is draining")
            self.refused += 1
        except (LifecycleError, asyncio.CancelledError):
            return False
        else:
            self._cluster.say(f"{user}: leased")
            return True
        return False

    async def _turn(self, user: UserId) -> None:
        random = self._random
        is_leased, is_told = random.random() < 0.5, random.random() < 0.7
        left = random.choice(TURNS)
        if is_leased and not await self.lease(user):
            # Whoever was refused sends nothing; whoever cannot know whether it was does not either.
            return
        place = self.place_of(user)
        if place is None or place in self._cluster.at_work_since:
            return
        self.begin_at(place, is_told=is_told)
        self._cluster.say(f"{user}: an agent works for {left:.0f} s{', leased' if is_leased else ''}")
        while left > 0:
            pause = min(left, RENEWED_EVERY)
            await asyncio.sleep(pause)
            left -= pause
            if is_leased and left > 0:
                await self.lease(user)
        self.end_at(place, is_told=is_told)

    def place_of(self, user: UserId) -> Place | None:
        """Return where the server of the user listens, if one does."""
        for allocation in self._cluster.nomad._live(job_id_of("main", user)):
            address = allocation.address
            if allocation.client_status is ClientStatus.RUNNING and address is not None:
                server = self.server_at((address.host, address.port))
                return (address.host, address.port) if server is not None and not server.hangs else None
        return None

    def server_at(self, place: Place) -> FakeOpenCode | None:
        return self._cluster.prober.servers.get(place)

    def begin_at(self, place: Place, *, is_told: bool) -> None:
        server = self.server_at(place)
        assert server is not None, "an agent works in a server"
        self._cluster.at_work_since[place] = self._cluster.loop.time()
        server.changed_at = self._cluster.loop.wall_clock()
        server.busy = True
        self._cluster.write_at(place)
        if is_told:
            server.tell(EventKind.WORKS)

    def end_at(self, place: Place, *, is_told: bool) -> None:
        if self._cluster.at_work_since.pop(place, None) is None:
            return
        server = self.server_at(place)
        if server is not None:
            server.busy = False
            server.changed_at = self._cluster.loop.wall_clock()
            if is_told:
                server.tell(EventKind.CHANGED)
