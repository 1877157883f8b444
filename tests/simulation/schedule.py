"""
One schedule: a seed decides what users ask, what breaks when, in which order things happen and where the control plane
dies; at the end everything is well again, and every stack must be where its last accepted request says.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from random import Random
from typing import Any

import structlog

from opencode_lifecycle.lifecycle import background, provisioning
from opencode_lifecycle.lifecycle.control_plane import ControlPlane
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import LifecycleError, Refusal
from opencode_lifecycle.model.identifiers import JobId, UserId, job_id_of
from opencode_lifecycle.model.observation import AllocationSeen, ClientStatus
from opencode_lifecycle.model.states import Desired, Phase
from opencode_lifecycle.model.view import UNCHANGED, EnsureRequest
from simulation.cluster import LIFE, Cluster
from simulation.invariants import Violation, Watcher, check_end
from simulation.loop import Stuck, VirtualLoop
from world import BACKEND, OPERATOR

USERS = (UserId("ada"), UserId("ada2"))
"""Two ids of which one begins with the other."""

OPERATIONS = ("ensure", "stop", "start", "recreate", "rotate", "delete", "delete_all", "recover")
SETTLE_SECONDS = 1200.0
"""In which everything must have come to rest once all is well: the longest deadlines and pauses together."""


@dataclass(frozen=True, slots=True)
class Crash:
    """Where the control plane dies: before or after the n-th call of a method from the moment it is armed."""

    method: str
    after: bool
    nth: int = 1
    only_fails: bool = False
    """Whether the call fails there, or loses its reply, and the control plane lives."""


@dataclass(slots=True)
class Outcome:
    seed: int
    violation: str | None = None
    effects: Sequence[tuple[str, bool]] = ()
    trace: Sequence[str] = ()
    crashes: int = 0
    failed: bool = False
    ended_at: float = 0.0


@dataclass(slots=True)
class Script:
    """What a schedule is made of, when it is not left to its seed: operations, and where to die during the last."""

    operations: Sequence[str] = ()
    crash: Crash | None = None
    calm: bool = False
    """Whether nothing else goes wrong."""
    scenario: "Callable[[Schedule], object] | None" = None


class Schedule:
    """Runs one schedule."""

    def __init__(
        self, seed: int, script: Script | None = None, *, patch: Callable[[], object] | None = None
    ) -> None:
        self.seed = seed
        self.script = script or Script()
        self.random = Random(seed)
        self.loop = VirtualLoop(Random(seed + 1))
        self.cluster = Cluster(self.loop, Random(seed + 2))
        self.watcher = Watcher(self.cluster)
        self.plane: ControlPlane | None = None
        self.lives = 0
        self.wanted: dict[UserId, set[Desired | None]] = {user: {None} for user in USERS}
        """What each user's last accepted request may have been; more than one where an answer was lost."""
        self._at_once: Counter[UserId] = Counter()
        self._begun: Counter[UserId] = Counter()
        self._snapshot: object = None
        self.first_effect = 0
        """Where, among all effects, those of the last scripted operation begin."""
        self._patch = patch
        self._life: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self._ready: asyncio.Event

    def run(self) -> Outcome:
        outcome = Outcome(self.seed)
        before = Deadline.after.__func__.__defaults__, background.monotonic, provisioning.monotonic
        Deadline.after.__func__.__defaults__ = (self.loop.time,)
        background.monotonic = provisioning.monotonic = self.loop.time
        asyncio.set_event_loop(self.loop)
        try:
            if self._patch is not None:
                self._patch()
            self.loop.run_until_complete(self._run())
        except Violation as violation:
            outcome.violation = str(violation)
        except (Stuck, TimeoutError) as stuck:
            outcome.violation = f"it came to no rest: {stuck or type(stuck).__name__}"
        finally:
            self._close()
            Deadline.after.__func__.__defaults__, background.monotonic, provisioning.monotonic = before
        if self.watcher.violation is not None:
            outcome.violation = str(self.watcher.violation)
        if outcome.violation is None and self.loop.errors:
            outcome.violation = f"an error that nobody handled: {self.loop.errors[0]}"
        outcome.effects, outcome.trace = self.cluster.effects, self.cluster.trace
        outcome.crashes, outcome.ended_at = self.lives - 1, self.loop.time()
        outcome.failed = self.cluster.trouble.failed
        return outcome

    def _close(self) -> None:
        self.cluster.dead.update(range(1, self.lives + 1))
        self.loop.set_exception_handler(lambda *_: None)
        self.loop.forgive()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(BaseException):
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=30)) if tasks else None
        self.loop.close()
        asyncio.set_event_loop(None)

    # --- lives of the control plane

    def begin_life(self) -> None:
        self.lives += 1
        life = self.lives
        self._ready = asyncio.Event()
        context = copy_context()
        context.run(LIFE.set, life)
        self.cluster.on_death = lambda: self.loop.call_soon(self._bury, life)
        self._life = self.loop.create_task(self._live(life), context=context, name=f"life {life}")

    async def _live(self, life: int) -> None:
        plane = self.cluster.plane()
        while life not in self.cluster.dead:
            try:
                async with plane.running(self.cluster.content()):
                    if life not in self.cluster.dead:
                        self.cluster.say(f"life {life} is ready")
                        self.plane = plane
                        self.watcher.plane = plane
                        self._ready.set()
                    await asyncio.Event().wait()
            except LifecycleError as error:
                # As a supervisor of processes does: start it again.
                self.cluster.say(f"life {life} cannot start: {error.message}")
                await asyncio.sleep(1)
                plane = self.cluster.plane()

    def _bury(self, life: int) -> None:
        """Let a dead life go, and begin the next one after a while."""
        if self._life is not None and self._life.get_name() == f"life {life}":
            self._life.cancel()
            self.plane = self.watcher.plane = None
            self.loop.call_later(self.random.choice((0.1, 1.0, 5.0)), self.begin_life)

    # --- the schedule

    async def _run(self) -> None:
        clients = self.loop.create_task(self.cluster.clients(), name="clients")
        clients.add_done_callback(lambda task: task.cancelled() or task.exception())
        self.begin_life()
        await self._ready.wait()
        if self.script.scenario is not None:
            await self.script.scenario(self)
        elif self.script.operations:
            await self._scripted()
        else:
            await self._improvised()
        await self._settle()

    async def _scripted(self) -> None:
        *before, last = self.script.operations
        for operation in before:
            await self.ask(USERS[0], operation)
            await self.rest()
        crash = self.script.crash
        self.first_effect = len(self.cluster.effects)
        if crash is not None and crash.only_fails:
            self.cluster.trouble.fail_at = (crash.method, crash.after, crash.nth)
        elif crash is not None:
            self.cluster.trouble.die_at = (crash.method, crash.after, crash.nth)
        await self.ask(USERS[0], last)

    async def _improvised(self) -> None:
        for _ in range(self.random.randint(2, 6)):
            if self.random.random() < 0.6:
                self._mischief()
            user = USERS[0] if self.random.random() < 0.7 else USERS[1]
            request = self.ask(user, self.random.choice(OPERATIONS))
            if self.random.random() < 0.3:
                self._begin(request)
            else:
                await request
            await asyncio.sleep(self.random.choice((0.0, 0.05, 0.5, 3.0, 20.0, 45.0)))
            if self.random.random() < 0.3:
                self._heal()
        if self._requests:
            await asyncio.wait(self._requests)

    def _mischief(self) -> None:
        """Let one thing go wrong: of the surroundings, or of one user's job."""
        kind = self.random.choice(MISCHIEF)
        self.cluster.say(f"mischief: {kind}")
        job_id = job_id_of("main", self.random.choice(USERS))
        if not self._trouble_around(kind):
            self._trouble_with(kind, job_id, self.cluster.nomad._live(job_id))

    def _trouble_around(self, kind: str) -> bool:
        """Let calls fail, get lost or be slow, or Nomad keep silent, lie or go back. Return whether *kind* was that."""
        cluster, random = self.cluster, self.random
        match kind:
            case "die":
                cluster.trouble.die_at = (random.choice(DEATHS), random.random() < 0.5, random.randint(1, 3))
            case "away":
                cluster.trouble.away.add(random.choice(("nomad", "vault", "consul", "database")))
            case "flaky":
                chances = random.choice(((0.15, 0.15), (0.4, 0.0), (0.0, 0.4)))
                cluster.trouble.fail, cluster.trouble.lose_reply = chances
            case "slow":
                cluster.trouble.slow = 0.3
            case "cut stream":
                cluster.nomad.drop_streams()
            case "mute stream":
                cluster.nomad.is_mute = True
            case "lying list":
                cluster.nomad.hide_from_listings()
            case "no room":
                cluster.nomad.refuse_placement("Resources exhausted on 1 node")
            case "restore snapshot":
                if self._snapshot is not None:
                    cluster.nomad.restore(self._snapshot)
                    cluster.nomad.unlinked.clear()
                self._snapshot = cluster.nomad.snapshot()
            case _:
                return False
        return True

    def _trouble_with(self, kind: str, job_id: JobId, live: Sequence[AllocationSeen]) -> None:
        cluster = self.cluster
        job = cluster.nomad.jobs.get(job_id)
        match kind:
            case "kill allocation" if live:
                cluster.end(job_id, live[0], self.random.choice((ClientStatus.FAILED, ClientStatus.COMPLETE)))
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
                password = f"an administrator's {self.loop.time()}"
                cluster.vault.put(job_id, {"password": password, "env": {}})
            case "wedge" if live and live[0].address is not None:
                address = live[0].address
                server = cluster.prober.servers.get((address.host, address.port))
                if server is not None:
                    server.hangs = True

    def _begin(self, request: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(request)
        self._requests.add(task)

    async def _stop_outside(self, job_id: str) -> None:
        with contextlib.suppress(LifecycleError):
            await self.cluster.nomad.deregister(job_id, purge=False, deadline=Deadline.after(5, "operator"))

    def _heal(self) -> None:
        trouble = self.cluster.trouble
        trouble.fail = trouble.lose_reply = trouble.slow = 0.0
        trouble.away.clear()
        self.cluster.nomad.is_mute = False
        self.cluster.nomad.show_in_listings()
        self.cluster.nomad.allow_placement()

    async def ask(self, user: UserId, operation: str) -> None:
        """Ask as a backend does, once. What is answered was accepted; what is not may have been."""
        self.cluster.say(f"{user}: {operation}")
        plane = self.plane
        if plane is None:
            return
        meant = _meaning(operation)
        row = self.cluster.store.rows.get(user)
        is_deleted = row is not None and row.stack.intent.desired is Desired.DELETED
        if operation == "stop" and (is_deleted or None in self.wanted[user]):
            # A stop does not bring back what is being deleted; it only takes back what was to follow.
            meant = meant | {None}
        self._at_once[user] += 1
        self._begun[user] += 1
        try:
            await self._ask(plane, user, operation, meant)
        finally:
            self._at_once[user] -= 1

    async def _ask(
        self, plane: ControlPlane, user: UserId, operation: str, meant: set[Desired | None]
    ) -> None:
        before = set(self.wanted[user])
        alone, begun = self._at_once[user] == 1, self._begun[user]
        task = self.loop.create_task(self._send(plane, user, operation))
        done, _ = await asyncio.wait([task], timeout=60)
        overlaps = not alone or self._begun[user] != begun
        if not done:
            task.cancel()
            self.wanted[user] = self.wanted[user] | before | meant
            return
        try:
            task.result()
        except Refusal:
            return
        except (LifecycleError, asyncio.CancelledError):
            self.wanted[user] = self.wanted[user] | before | meant
            return
        # Of requests that overlap nobody can say which was accepted last.
        self.wanted[user] = self.wanted[user] | meant if overlaps else meant
        self.watcher.accepted(user)

    async def _send(self, plane: ControlPlane, user: UserId, operation: str) -> None:
        LIFE.set(self.lives)
        calls = plane.provisioning
        by = {"by": BACKEND, "if_match": None}
        match operation:
            case "ensure":
                wish = (
                    UNCHANGED
                    if self.random.random() < 0.8
                    else EnsureRequest(labels={"n": str(self.random.random())[:6]})
                )
                await calls.ensure(user, wish, wait=None, **by)
            case "stop":
                await calls.stop(user, hold=False, **by)
            case "delete" | "delete_all":
                await calls.delete(user, delete_workspace=operation == "delete_all", **by)
            case "rotate":
                await calls.rotate_password(user, **by)
            case _:
                await getattr(calls, operation)(user, **by)

    async def rest(self) -> None:
        """Wait until every stack is where it should be, as far as the rows say."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while not self._rests():  # noqa: ASYNC110 - what is waited for is a state of many things
                await asyncio.sleep(0.5)

    def _rests(self) -> bool:
        if self.plane is None or self.plane.dispatcher.at_work:
            return False
        for row in self.cluster.store.rows.values():
            stack = row.stack
            goal = {Desired.RUNNING: Phase.RUNNING, Desired.STOPPED: Phase.STOPPED}.get(stack.intent.desired)
            if stack.status.phase is not goal or not stack.is_settled or row.claim_token is not None:
                return False
        return True

    async def _settle(self) -> None:
        self._heal()
        self.cluster.say("all is well from here")
        # Whoever is to die may do so still, on the way to where all comes to rest.
        await asyncio.sleep(30)
        self.cluster.trouble.die_at = self.cluster.trouble.fail_at = None
        end = self.loop.time() + SETTLE_SECONDS
        while True:
            await self._confirm_all()
            await self.rest()
            await asyncio.sleep(45)
            if not self._rests():
                continue
            try:
                check_end(self)
            except Violation:
                # What is found and mended at the next comparison is no violation yet.
                if self.loop.time() > end:
                    raise
            else:
                return

    async def _confirm_all(self) -> None:
        """Confirm what stands, as an operator who has looked."""
        plane = self.plane
        if plane is None:
            return
        LIFE.set(self.lives)
        for condition in plane.conditions.standing():
            if condition.freezes:
                with contextlib.suppress(LifecycleError):
                    await plane.oversight.confirm_condition(condition.id, by=OPERATOR)


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

MISCHIEF = (
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
    "kill allocation",
    "restart task",
    "cut stream",
    "mute stream",
    "lying list",
    "edit",
    "stop outside",
    "purge outside",
    "put secret",
    "wedge",
)


def _meaning(operation: str) -> set[Desired | None]:
    match operation:
        case "stop":
            return {Desired.STOPPED}
        case "delete" | "delete_all":
            return {None}
        case "rotate":
            return {Desired.RUNNING, Desired.STOPPED, None}
        case _:
            return {Desired.RUNNING}


def quiet() -> None:
    """Let the product say nothing: thousands of schedules would drown in it."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False
    )


Wanted = Mapping[UserId, set[Desired | None]]
