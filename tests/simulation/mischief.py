"""What goes wrong in a schedule that is left to its seed: one thing at a time, of the surroundings or of one user's job."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import LifecycleError
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import AllocationSeen, ClientStatus
from simulation.cluster import Cluster
from simulation.nodes import LEFT
from simulation.replicas import Replica
from simulation.servers import ODDITIES

if TYPE_CHECKING:
    from fakes.nomad_levers import Snapshot

DEATHS = (
    "nomad.register",
    "nomad.deregister",
    "nomad.volume ensure",
    "nomad.publish",
    "nomad.point",
    "nomad.clear",
    "vault.ensure",
    "vault.rotate",
    "vault.destroy",
    "database.save",
    "database.decide",
    "database.claim",
    "database.finish_deletion",
)

KINDS = (
    "die",
    "die",
    "die",
    "die",
    "lose node",
    "restore snapshot",
    "no room",
    "away",
    "flaky",
    "slow",
    "hang",
    "refuse jobs",
    "dud",
    "odd servers",
    "open up",
    "kill allocation",
    "restart task",
    "cut stream",
    "mute stream",
    "lying list",
    "stale list",
    "edit",
    "stop outside",
    "purge outside",
    "put secret",
    "wedge",
    "drain node",
    "close node",
)

KINDS_OF_TWO = (*KINDS, "freeze", "freeze", "freeze", "cut off", "cut off", "no notices")
"""What goes wrong with two replicas: one of them is frozen or cut off, or the database tells nobody of changes."""

SYSTEMS = ("nomad", "vault", "consul", "database")


class Mischief:
    """Lets things go wrong, and right again."""

    def __init__(
        self,
        cluster: Cluster,
        replicas: Sequence[Replica],
        random: Random,
        *,
        begin: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._cluster = cluster
        self._replicas = replicas
        self._random = random
        self._begin = begin
        self._snapshot: Snapshot | None = None
        self._kinds = KINDS if len(replicas) == 1 else KINDS_OF_TWO

    def begin(self, users: Sequence[JobId]) -> None:
        """Let one thing go wrong."""
        kind = self._random.choice(self._kinds)
        self._cluster.say(f"mischief: {kind}")
        job_id = self._random.choice(users)
        if self.to_node(kind):
            return
        self._cluster.is_disturbed = True
        if not (self._around(kind) or self._in_nomad(kind) or self._between_replicas(kind)):
            self._with_job(kind, job_id, self._cluster.nomad._live(job_id))

    def heal(self, *, for_good: bool = False) -> None:
        """Let everything be well again. Nodes take jobs again half of the time, or where it is *for_good*."""
        trouble, cluster = self._cluster.trouble, self._cluster
        cluster.is_disturbed = False
        cluster.disturb()
        trouble.fail = trouble.lose_reply = trouble.slow = trouble.hang = 0.0
        trouble.away.clear()
        trouble.cut_off.clear()
        cluster.servers.are_dud = False
        cluster.servers.oddity = None
        cluster.data.is_full = False
        cluster.refuses_jobs = False
        cluster.store.is_mute = False
        cluster.nomad.is_mute = False
        cluster.nomad.show_in_listings()
        cluster.nomad.list_fresh()
        cluster.nomad.allow_placement()
        if for_good or (cluster.nodes.some_are_closed and self._random.random() < 0.5):
            cluster.nodes.open_all()

    def to_node(self, kind: str) -> bool:
        """Do what operators do to nodes. Return whether *kind* was that."""
        nodes, random = self._cluster.nodes, self._random
        match kind:
            case "drain node":
                name, left = random.choice(nodes.names), random.choice(LEFT)
                self._cluster.say(f"{name} is drained, {left} s are left")
                nodes.drain(name, left)
            case "close node":
                nodes.close(random.choice(nodes.names))
            case _:
                return False
        return True

    def _around(self, kind: str) -> bool:
        """Let calls fail, get lost, hang or be slow. Return whether *kind* was that."""
        trouble, random = self._cluster.trouble, self._random
        match kind:
            case "die":
                trouble.die_at = (random.choice(DEATHS), random.random() < 0.5, random.randint(1, 3))
            case "away":
                trouble.send_away(random.choice(SYSTEMS), self._cluster.loop.time())
            case "flaky":
                chances = random.choice(((0.15, 0.15), (0.4, 0.0), (0.0, 0.4)))
                trouble.fail, trouble.lose_reply = chances
            case "slow":
                trouble.slow = 0.3
            case "hang":
                trouble.hang = 0.1
            case _:
                return False
        return True

    def _in_nomad(self, kind: str) -> bool:
        """Let Nomad keep silent, lie, refuse or go back. Return whether *kind* was that."""
        cluster = self._cluster
        match kind:
            case "cut stream":
                cluster.nomad.drop_streams()
            case "mute stream":
                cluster.nomad.is_mute = True
            case "lying list":
                cluster.nomad.hide_from_listings(what=self._random.choice(("both", "jobs", "allocations")))
            case "stale list":
                cluster.nomad.list_stale()
            case "no room":
                cluster.nomad.refuse_placement("Resources exhausted on 1 node")
            case "refuse jobs":
                cluster.refuses_jobs = True
            case "dud":
                cluster.servers.are_dud = True
            case "odd servers":
                cluster.servers.oddity = self._random.choice(ODDITIES)
                cluster.say(f"servers that start now are {cluster.servers.oddity}")
            case "restore snapshot":
                if self._snapshot is not None:
                    cluster.restore(self._snapshot)
                self._snapshot = cluster.nomad.snapshot()
            case _:
                return False
        return True

    def _between_replicas(self, kind: str) -> bool:
        cluster, random = self._cluster, self._random
        match kind:
            case "freeze":
                replica = random.choice(self._replicas)
                if replica.plane is not None and not cluster.frozen:
                    cluster.say(f"life {replica.life} is frozen")
                    cluster.freeze(replica.life, random.choice((3.0, 40.0, 90.0)))
            case "cut off":
                cluster.trouble.cut_off.add((random.randrange(len(self._replicas)), random.choice(SYSTEMS)))
            case "no notices":
                cluster.store.is_mute = True
            case _:
                return False
        return True

    def _with_job(self, kind: str, job_id: JobId, live: Sequence[AllocationSeen]) -> None:
        cluster = self._cluster
        job = cluster.nomad.jobs.get(job_id)
        match kind:
            case "kill allocation" if live:
                cluster.end(
                    job_id, live[0], self._random.choice((ClientStatus.FAILED, ClientStatus.COMPLETE))
                )
            case "lose node" if live:
                cluster.end(job_id, live[0], ClientStatus.LOST)
            case "restart task" if live and live[0].client_status is ClientStatus.RUNNING:
                cluster.nomad.restart_task(job_id)
            case "edit" if job is not None and not job.seen.stopped:
                cluster.nomad.change_outside(job_id, description="an operator's")
            case "stop outside" if job is not None:
                self._begin(self._stop_outside(job_id))
            case "purge outside" if job is not None and not live:
                cluster.nomad.purge_outside(job_id)
            case "put secret" if job_id in cluster.vault.job_ids:
                password = f"an administrator's {asyncio.get_running_loop().time()}"
                cluster.vault.put(job_id, {"password": password, "env": {}})
            case "wedge" if live and live[0].address is not None:
                address = live[0].address
                server = cluster.prober.servers.get((address.host, address.port))
                if server is not None:
                    server.hangs = True
            case "open up" if live and live[0].address is not None:
                place = (live[0].address.host, live[0].address.port)
                if place in cluster.prober.servers:
                    cluster.servers.open_up(job_id, place)

    async def _stop_outside(self, job_id: str) -> None:
        with contextlib.suppress(LifecycleError):
            await self._cluster.nomad.deregister(job_id, purge=False, deadline=Deadline.after(5, "operator"))
