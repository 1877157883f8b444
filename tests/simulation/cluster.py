"""The neighbours of a simulated control plane: the fakes, with clients that take their time and answers that get lost."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

from fakes.consul import FakeConsul
from fakes.nomad import FakeNomad
from fakes.nomad_levers import Snapshot
from fakes.opencode import FakeProber
from fakes.store import FakeStore
from fakes.vault import FakeVault
from opencode_lifecycle.lifecycle.control_plane import ControlPlane, Neighbours, Parameters
from opencode_lifecycle.lifecycle.observing.watching import StoreWatch
from opencode_lifecycle.lifecycle.orphans.judgement import OrphanLimits
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.errors import UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import AllocationSeen, ClientStatus, TaskTrouble
from opencode_lifecycle.model.snapshot import REPORT_PATH
from opencode_lifecycle.model.states import WhenStale
from opencode_lifecycle.workspace_data.documents import EXIT_DISK_FULL
from simulation.data import Start, Workspaces
from simulation.loop import VirtualLoop
from simulation.nodes import Nodes
from simulation.servers import MANNER, Servers
from simulation.trouble import UNTOLD, WRITES, Trouble
from world import SITE, content

LIFE: ContextVar[int] = ContextVar("LIFE", default=0)
"""Which life of the control plane a call belongs to."""

_POLL = 4.0
"""Seconds between two looks for stacks that are due, where nobody has hinted at one."""
_MOST_BEHIND = 3 * StoreWatch.MOST_BEHIND.total_seconds()
"""Seconds that the memory of one of two replicas may lag, which looks a little more often for what the other wrote."""

LIMITS = Limits(start=timedelta(seconds=60), stop=timedelta(seconds=60), idle_after=timedelta(seconds=20))

LOOKS_EVERY = 2.0
"""Seconds between two looks of a replica at the rollout, the target and the groups."""
LISTENS_EVERY = 0.3
"""Seconds between two looks whether a runtime listens. Some never do, and are looked at until their start is overdue."""


class SharedStore(FakeStore):
    """The database as replicas share it: its notices of changes can get lost, and who holds which claim is known."""

    is_mute = False
    """Whether nobody is told of changes; that they are there can still be read."""
    on_commit: Callable[[], None] | None = None
    """Called in the very moment in which something is written."""

    def _announce(self) -> None:
        if self.on_commit is not None:
            self.on_commit()
        if not self.is_mute:
            super()._announce()

    async def save_rollout(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().save_rollout(*args, **kwargs)
        finally:
            if self.on_commit is not None:
                self.on_commit()


class Cluster:
    """Everything outside the control plane, and the lives that the control plane has lived so far."""

    def __init__(self, loop: VirtualLoop, random: Random) -> None:
        self.loop = loop
        self.random = random
        self.trouble = Trouble()
        self.store = SharedStore(clock=loop.wall_clock)
        self.nomad = FakeNomad(autorun=False, autostop=False, now=loop.wall_clock)
        self.nomad.is_racy = True
        self.nomad.on_run = self._on_run
        self._moved = asyncio.Event()
        self.nomad.on_change = self._moved.set
        self.nodes = Nodes(self.nomad.nodes, loop, random)
        self.nomad.workspaces._pick_node = self.nodes.pick
        self.data = Workspaces(loop)
        self.on_start: Callable[[JobId, str, str, Start], None] = lambda *_: None
        """Called when a version starts on the data of a job, with the snapshot that the job names."""
        self.vault = FakeVault(now=loop.wall_clock)
        self.consul = FakeConsul()
        self.prober = FakeProber(now=loop.wall_clock)
        self.servers = Servers(self, random)
        self.owner: dict[tuple[str, int], JobId] = {}
        self.ended_at: dict[tuple[str, int], float] = {}
        """When the server at an address ended, of which Nomad knows."""
        self.restored_at = -1000.0
        """When Nomad last went back to an older snapshot."""
        self.has_rollouts = False
        """Whether there are any, so that those who drive them are run."""
        self.when_stale = WhenStale.IDLE
        self.at_work_since: dict[tuple[str, int], float] = {}
        """By the address of its server, since when an agent is at work there."""
        self.thawed_at = -1000.0
        """When something that was frozen went on last."""
        self.is_disturbed = False
        """Whether something goes wrong at the moment, be it unknown to who looks."""
        self._disturbed_at = self.troubled_at = -1000.0
        """When something last went wrong or right, and when a call last met trouble, or could have."""
        self.refuses_jobs = False
        """Whether Nomad takes no job."""
        self.refused = 0
        self.lives: list[int] = []
        """Of each life, in order, the number of the replica that lived it. The first life is number 1."""
        self.frozen = 0
        """The life that is frozen at the moment; 0 when none is."""
        self.dead: set[int] = set()
        self.effects: list[tuple[str, bool]] = []
        """Every external effect that happened, as (method, after)."""
        self.trace: list[str] = []
        self.on_death = lambda _: None
        self._pass_calls()

    def _pass_calls(self) -> None:
        """Let every call pass here, to meet whatever trouble there is."""
        systems = {
            "nomad": (self.nomad, self.nomad.workspaces, self.nomad.live_files, self.nomad.cluster_mark),
            "vault": (self.vault,),
            "consul": (self.consul,),
            "database": (self.store,),
            "opencode": (self.prober,),
        }
        for system, fakes in systems.items():
            for fake in fakes:
                fake.faults.policy = self._policy_of(system)
        # Both have a call of this name, and they are not the same effect.
        self.nomad.workspaces.faults.policy = self._policy_of("nomad", "volume ")

    def plane(self, *, shares_database: bool = False) -> ControlPlane:
        plane = ControlPlane(
            Neighbours(
                store=self.store,
                orchestrator=self.nomad,
                workspaces=self.nomad.workspaces,
                live_files=self.nomad.live_files,
                cluster_mark=self.nomad.cluster_mark,
                passwords=self.vault,
                catalog=self.consul,
                prober=self.prober,
                events=self.prober,
            ),
            Parameters(
                site=SITE,
                limits=LIMITS,
                namespace="opencode",
                region="global",
                default_resources="small",
                secret_sweep_interval=timedelta(seconds=60),
                usage_interval=timedelta(hours=1),
                comparison_interval=timedelta(seconds=60),
                # All of them have one clock here.
                orphan_limits=OrphanLimits(
                    confirmations=2, grace=timedelta(seconds=60), clocks_apart=timedelta(0)
                ),
                shares_database=shares_database,
                when_stale=self.when_stale,
                allowed_environment=frozenset({"LANG", MANNER}),
                clock=self.loop.wall_clock,
                random=Random(self.random.random()),
            ),
        )
        # What asks once or twice a second takes half of the time of a schedule, where mostly there is nothing new.
        plane.dispatcher._poll = _POLL
        plane._changes._interval, plane._changes._most_behind = 0.9 * _MOST_BEHIND, _MOST_BEHIND
        if self.has_rollouts:
            plane._refresh_targets = partial(_refresh_slowly, plane)
        else:
            plane._rollout_driver.once = plane._refresh_targets = asyncio.Event().wait
        # Reading tokens twice a second is the most frequent thing of all, and no request here bears one.
        plane._refresh_tokens = asyncio.Event().wait
        return plane

    content = staticmethod(content)

    def disturb(self) -> None:
        """Note that something goes wrong, or right again."""
        self._disturbed_at = self.loop.time()

    def is_calm(self, seconds: float) -> bool:
        """Whether nothing has gone wrong for so long, and nobody has died, but what operators do to nodes."""
        are_bad = self.servers.are_dud or self.servers.oddity is not None
        is_off = self.is_disturbed or self.frozen or are_bad or self.refuses_jobs or self.nomad.is_mute
        return not is_off and self.loop.time() - self._disturbed_at >= seconds

    def new_life(self, replica: int) -> int:
        self.disturb()
        self.lives.append(replica)
        return len(self.lives)

    def freeze(self, life: int, seconds: float) -> None:
        """Let a life do nothing at all for a while, as when its process is stopped and goes on later."""
        self.frozen = life
        self.loop.freeze(lambda context: context.get(LIFE) == life)
        self.loop.call_later(seconds, self._thaw, life)

    def _thaw(self, life: int) -> None:
        if self.frozen == life:
            self.say(f"life {life} goes on")
            self.frozen, self.thawed_at = 0, self.loop.time()
            self.disturb()
            self.loop.thaw()

    def say(self, text: str) -> None:
        self.trace.append(f"{self.loop.time():9.3f}  {text}")

    def _policy_of(self, system: str, prefix: str = ""):
        effects = {method: f"{system}.{prefix}{method}" for method in WRITES}

        def policy(method: str, after: bool) -> Awaitable[None] | None:  # noqa: FBT001 - as `Faults` calls it
            life = LIFE.get()
            if life in self.dead:
                raise asyncio.CancelledError
            if life == 0:
                return None
            full = effects.get(method)
            if full is not None:
                self.effects.append((full, after))
                if after and method not in UNTOLD:
                    self.say(f"  {full}")
                if self.trouble.die_at is not None:
                    self._die_if_so(full, after, life)
                if self.trouble.fail_at is not None:
                    self._fail_if_so(system, prefix + method, after)
                if self.refuses_jobs and full == "nomad.register" and not after:
                    self.refused += 1
                    self.say("  nomad refuses the job")
                    raise UpstreamRejected("nomad", "register", "1 error occurred: it is refused")
            t = self.trouble
            if not (t.fail or t.lose_reply or t.slow or t.hang or t.away or t.cut_off):
                # Most calls meet no trouble, and all calls pass here.
                return None
            return self._trouble(system, method, life, after=after)

        return policy

    def _die_if_so(self, method: str, after: bool, life: int) -> None:  # noqa: FBT001
        die = self.trouble.die_at
        if die is None or die[:2] != (method, after):
            return
        if die[2] > 1:
            self.trouble.die_at = (*die[:2], die[2] - 1)
            return
        self.trouble.die_at = None
        self.say(f"the control plane dies {'after' if after else 'before'} {method}")
        self.dead.add(life)
        self.on_death(life)
        raise asyncio.CancelledError

    def _fail_if_so(self, system: str, method: str, after: bool) -> None:  # noqa: FBT001
        fail = self.trouble.fail_at
        if fail is None or fail[:2] != (f"{system}.{method}", after):
            return
        if fail[2] > 1:
            self.trouble.fail_at = (*fail[:2], fail[2] - 1)
            return
        self.trouble.fail_at, self.trouble.failed = None, True
        self.disturb()
        self.say(f"{system}.{method} {'has lost its reply' if after else 'fails'}")
        raise UpstreamUnavailable(system, method, "the connection broke")

    def _trouble(self, system: str, method: str, life: int, *, after: bool) -> Awaitable[None] | None:
        trouble = self.trouble
        self._disturbed_at = self.troubled_at = self.loop.time()
        if trouble.hang and system != "database" and self.random.random() < trouble.hang:
            self.say(f"{system}.{method} is not answered")
            return self.loop.create_future()
        if trouble.slow and self.random.random() < trouble.slow:
            return self._wait(system, method, life, self.random.choice((0.01, 0.3, 2.0)), after=after)
        self._refuse_if_so(system, method, life, after=after)
        return None

    async def _wait(self, system: str, method: str, life: int, seconds: float, *, after: bool) -> None:
        await asyncio.sleep(seconds)
        if LIFE.get() in self.dead:
            raise asyncio.CancelledError
        self._refuse_if_so(system, method, life, after=after)

    def _refuse_if_so(self, system: str, method: str, life: int, *, after: bool) -> None:
        trouble = self.trouble
        if system in trouble.away and not after:
            raise UpstreamUnavailable(system, method, "connection refused")
        if trouble.cut_off and not after and (self.lives[life - 1], system) in trouble.cut_off:
            raise UpstreamUnavailable(system, method, "no route to host")
        chance = trouble.lose_reply if after else trouble.fail
        if chance and system != "opencode" and self.random.random() < chance:
            self.say(f"{system}.{method} {'has lost its reply' if after else 'fails'}")
            raise UpstreamUnavailable(system, method, "the connection broke")

    def restore(self, snapshot: Snapshot) -> None:
        """Let Nomad go back to what it knew then."""
        self.restored_at = self.loop.time()
        self.disturb()
        self.nomad.restore(snapshot)
        self.nomad.unlinked.clear()

    # --- what Nomad's clients do

    async def clients(self) -> None:
        """Start and end allocations, each after a while of its own."""
        while True:
            moving = [
                (job_id, allocation)
                for job_id, all_of_job in self.nomad.allocations.items()
                for allocation in all_of_job
                if _moves(allocation)
            ]
            if not moving:
                self._moved.clear()
                await self._moved.wait()
                continue
            await asyncio.sleep(self.random.choice((0.05, 0.2, 0.7)))
            for job_id, allocation in moving:
                if self.random.random() < 0.6:
                    self._advance(job_id, allocation.id)

    def _advance(self, job_id: JobId, allocation_id: str) -> None:
        now = [each for each in self.nomad.allocations.get(job_id, ()) if each.id == allocation_id]
        if not now or not _moves(now[0]):
            return
        allocation = now[0]
        if allocation.desired_status == "stop":
            self.end(job_id, allocation, ClientStatus.COMPLETE)
        elif allocation.client_status is ClientStatus.PENDING:
            others = [a for a in self.nomad._live(job_id) if a.id != allocation.id]
            if others and job_id not in self.nomad.unlinked:
                return
            self.say(f"{job_id}: allocation {allocation.id[-4:]} runs")
            self.nomad.run_allocation_of(job_id, allocation)

    def is_stopping(self, job_id: JobId, allocation_id: str) -> bool:
        return any(
            each.id == allocation_id and each.desired_status == "stop" for each in self.nomad._live(job_id)
        )

    def end(self, job_id: JobId, allocation: AllocationSeen, status: ClientStatus) -> None:
        """Let the allocation end, with its server and its place in Consul."""
        self.say(f"{job_id}: allocation {allocation.id[-4:]} is {status}")
        if allocation.address is not None:
            self.prober.withdraw(allocation.address)
            place = (allocation.address.host, allocation.address.port)
            self.owner.pop(place, None)
            self.servers.gone(place)
            self.at_work_since.pop(place, None)
            self.ended_at[place] = self.loop.time()
        self.consul.forget(job_id, allocation.id)
        self.nomad._update(allocation, job_id, client_status=status)
        if not self.nomad._live(job_id):
            self.nomad.unlinked.discard(job_id)
            job = self.nomad.jobs.get(job_id)
            if job is not None and not job.seen.stopped and allocation.desired_status == "run":
                self.nomad._schedule(job_id)

    def _on_run(self, job_id: JobId, allocation: AllocationSeen) -> None:
        job = self.nomad.jobs.get(job_id)
        if job is None or allocation.address is None or "secret_version" not in job.seen.meta:
            return
        item = self.vault._items.get(job_id)
        data = item.versions.get(int(job.seen.meta["secret_version"])) if item is not None else None
        if data is None or (self.has_rollouts and not self._starts_on_data(job_id, allocation)):
            return
        place = (allocation.address.host, allocation.address.port)
        server = self.servers.start(job_id, place, str(data["password"]), job.seen.meta["opencode_version"])
        self.prober.serve(allocation.address, server)
        self.owner[place] = job_id
        self.consul.register(job_id, allocation.id, allocation.address)

    def _starts_on_data(self, job_id: JobId, allocation: AllocationSeen) -> bool:
        """Let the entrypoint see to the data, and leave its report. Return whether the version may start."""
        volume = self.nomad.workspaces.volumes.get(job_id)
        if volume is None:
            return True
        variables = self.nomad.jobs[job_id].specification["Variables"]
        version, named = variables["opencode_version"], variables.get("restore_snapshot", "")
        start = self.data.start(volume.volume_id, version, named)
        report = json.dumps(start.report).encode()
        self.nomad.files.of.setdefault(allocation.id, {})[REPORT_PATH] = report
        refused = start.report["refused"]
        if refused is None:
            if start.found is not start.before:
                asked = f", as {named} is named" if named else ""
                self.say(f"{job_id}: the data goes back for {version}{asked}")
            self.on_start(job_id, version, named, start)
            return True
        self.say(f"{job_id}: {version} is refused: {refused['reason']}")
        self.loop.call_soon(self._tell_refusal, job_id, allocation.id, refused["code"])
        return False

    def _tell_refusal(self, job_id: JobId, allocation_id: str, code: int) -> None:
        for allocation in self.nomad._live(job_id):
            if allocation.id == allocation_id:
                trouble = TaskTrouble.DISK_FULL if code == EXIT_DISK_FULL else TaskTrouble.DATA_NEWER
                self.nomad._update(allocation, job_id, trouble=trouble, trouble_message=f"Exit Code: {code}")

    def write_at(self, place: tuple[str, int]) -> None:
        """Let something be written by the server there: by its user, where the address was handed out."""
        job_id = self.owner.get(place)
        volume = self.nomad.workspaces.volumes.get(job_id) if job_id is not None else None
        if not self.has_rollouts or volume is None:
            return
        runtimes = [
            row.stack.status.runtime for row in self.store.rows.values() if row.stack.job_id == job_id
        ]
        addresses = [each.address for each in runtimes if each is not None and each.address is not None]
        by_user = place in [(address.host, address.port) for address in addresses]
        self.data.write(volume.volume_id, by_user=by_user)


async def _refresh_slowly(plane: ControlPlane) -> None:
    await asyncio.sleep(LOOKS_EVERY)
    await plane.releases.refresh()
    await plane.groups.refresh()


def _moves(allocation: AllocationSeen) -> bool:
    """Whether a client has anything to do for the allocation."""
    return not allocation.client_status.is_terminal and (
        allocation.desired_status == "stop" or allocation.client_status is ClientStatus.PENDING
    )
