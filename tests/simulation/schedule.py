"""
One schedule: a seed decides what users ask, what breaks when, in which order things happen and where the control plane
dies; at the end everything is well again, and every stack must be where its last accepted request says.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import structlog

from opencode_lifecycle.lifecycle import background
from opencode_lifecycle.lifecycle.control_plane import ControlPlane
from opencode_lifecycle.lifecycle.observing import proving
from opencode_lifecycle.lifecycle.requests import provisioning
from opencode_lifecycle.lifecycle.rollouts import driver
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import LifecycleError, Refusal
from opencode_lifecycle.model.identifiers import JobId, UserId, job_id_of
from opencode_lifecycle.model.migration import DataPolicy
from opencode_lifecycle.model.states import FINAL_REASONS, Desired, MigrationState, Phase, Reason
from opencode_lifecycle.model.view import UNCHANGED, EnsureRequest
from simulation import fleets
from simulation.cluster import LIFE, LISTENS_EVERY, LOOKS_EVERY, Cluster
from simulation.fleets import Fleet
from simulation.invariants import Violation, Watcher, check_end, is_asleep
from simulation.loop import Stuck, VirtualLoop
from simulation.mischief import Mischief
from simulation.replicas import Replica
from world import BACKEND, OPERATOR

USERS = (UserId("ada"), UserId("ada2"))
"""Two ids of which one begins with the other."""

OPERATIONS = ("ensure", "stop", "start", "recreate", "rotate", "delete", "delete_all", "recover")
_UNDER_WAY = frozenset(
    {MigrationState.QUEUED, MigrationState.DRAINING, MigrationState.REPLACING, MigrationState.VERIFYING}
)
SETTLE_SECONDS = 1200.0
"""In which everything must have come to rest once all is well, rollouts and drains as well: all their deadlines together."""
RESTS_IN = 400.0
"""The same for stacks alone (I3): the longest pause between two tries, a claim that lapses, and a start."""
MENDED_IN = 300.0
"""Seconds after that in which what has no row, and what no row says, is mended (I4): two comparisons, grace, and an end."""


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
    replicas: int | None = None
    """How many control planes there are; by default one, and two in every third schedule that is left to its seed."""
    has_rollouts: bool | None = None
    """Whether there is a fleet with rollouts; by default there is in every sixteenth schedule that is left to its seed."""


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
        has_rollouts = self.script.has_rollouts
        if has_rollouts is None:
            has_rollouts = self._is_improvised and seed % fleets.EVERY == fleets.EVERY - 1
        self.cluster.has_rollouts = has_rollouts
        self.users = fleets.USERS if has_rollouts else USERS
        self.watcher = Watcher(self.cluster)
        count = self.script.replicas or (2 if self._is_improvised and seed % 3 == 2 else 1)
        self.replicas = [
            Replica(number, self.cluster, self.random, shares_database=count > 1) for number in range(count)
        ]
        self.cluster.on_death = self._bury
        self.mischief = Mischief(self.cluster, self.replicas, self.random, begin=self.begin)
        self.fleet = Fleet(self)
        self.wanted: dict[UserId, set[Desired | None]] = {user: {None} for user in self.users}
        """What each user's last accepted request may have been; more than one where an answer was lost."""
        self._at_once: Counter[UserId] = Counter()
        self._begun: Counter[UserId] = Counter()
        self.first_effect = 0
        """Where, among all effects, those of the last scripted operation begin."""
        self.last_effect = 0
        """Where they end: when everything has come to rest for the first time."""
        self._patch = patch
        self._requests: set[asyncio.Task[None]] = set()

    @property
    def job_ids(self) -> list[JobId]:
        return [job_id_of("main", user) for user in self.users]

    @property
    def _is_improvised(self) -> bool:
        return self.script.scenario is None and not self.script.operations

    def run(self) -> Outcome:
        outcome = Outcome(self.seed)
        before = Deadline.after.__func__.__defaults__, background.monotonic
        Deadline.after.__func__.__defaults__ = (self.loop.time,)
        background.monotonic = provisioning.monotonic = driver.monotonic = self.loop.time
        looks = driver.LOOKS_EVERY, proving.FIRST_PAUSE
        driver.LOOKS_EVERY, proving.FIRST_PAUSE = LOOKS_EVERY, LISTENS_EVERY
        asyncio.set_event_loop(self.loop)
        try:
            if self._patch is not None:
                self._patch()
            self.loop.run_until_complete(self._run())
        except Violation as violation:
            outcome.violation = str(violation)
        except (Stuck, TimeoutError) as stuck:
            what = "; ".join([*filter(None, [str(stuck)]), *self._restless()])
            outcome.violation = f"{self.watcher.why_no_rest()}: {what}"
        finally:
            self._close()
            Deadline.after.__func__.__defaults__, background.monotonic = before
            provisioning.monotonic = driver.monotonic = background.monotonic
            driver.LOOKS_EVERY, proving.FIRST_PAUSE = looks
        if self.watcher.violation is not None:
            outcome.violation = str(self.watcher.violation)
        if outcome.violation is None and self.loop.errors:
            outcome.violation = f"an error that nobody handled: {self.loop.errors[0]}"
        outcome.effects, outcome.trace = self.cluster.effects, self.cluster.trace
        outcome.crashes = len(self.cluster.lives) - len(self.replicas)
        outcome.ended_at = self.loop.time()
        outcome.failed = self.cluster.trouble.failed
        return outcome

    def _close(self) -> None:
        self.cluster.dead.update(range(1, len(self.cluster.lives) + 1))
        self.loop.set_exception_handler(lambda *_: None)
        self.loop.forgive()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(BaseException):
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=30)) if tasks else None
        self.loop.close()
        asyncio.set_event_loop(None)

    # --- the control planes

    @property
    def plane(self) -> ControlPlane | None:
        """The control plane of the first replica: with one replica, the one there is."""
        return self.replicas[0].plane

    def _bury(self, life: int) -> None:
        replica = self.replicas[self.cluster.lives[life - 1]]
        self.loop.call_soon(replica.bury, life)

    def kill(self, life: int) -> None:
        """Let a life end at once, as a process that is killed; a supervisor begins the next one."""
        self.cluster.say(f"life {life} is killed")
        self.cluster.dead.add(life)
        self.cluster.on_death(life)

    # --- the schedule

    async def _run(self) -> None:
        clients = self.loop.create_task(self.cluster.clients(), name="clients")
        clients.add_done_callback(lambda task: task.cancelled() or task.exception())
        standing = self.loop.create_task(self.watcher.standing.watch())
        standing.add_done_callback(lambda task: task.cancelled() or task.exception())
        if len(self.replicas) > 1:
            looking = self.loop.create_task(self.watcher.look_at_answers(self.replicas, self.users))
            looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        if self._is_improvised:
            self.cluster.nodes.have_two()
        if self.cluster.has_rollouts and self._is_improvised:
            self.fleet.settle_on_manner()
        for replica in self.replicas:
            replica.begin_life()
        for replica in self.replicas:
            await replica.ready()
        if self.script.scenario is not None:
            await self.script.scenario(self)
        elif self.script.operations:
            await self._scripted()
        elif self.cluster.has_rollouts:
            await self.fleet.improvise()
        else:
            await self._improvised()
        await self._settle()

    async def _scripted(self) -> None:
        *before, last = self.script.operations
        for operation in before:
            await self._act(operation)
            await self.rest()
        crash = self.script.crash
        self.first_effect = len(self.cluster.effects)
        if crash is not None and crash.only_fails:
            self.cluster.trouble.fail_at = (crash.method, crash.after, crash.nth)
        elif crash is not None:
            self.cluster.trouble.die_at = (crash.method, crash.after, crash.nth)
        await self._act(last)
        if self.cluster.has_rollouts:
            await self.fleet.ended(within=300)

    async def _act(self, operation: str) -> None:
        if operation in OPERATIONS:
            await self.ask(USERS[0], operation)
        else:
            await self.fleet.do(operation)

    async def _improvised(self) -> None:
        for _ in range(self.random.randint(2, 6)):
            if self.random.random() < 0.6:
                self.mischief.begin(self.job_ids)
            user = USERS[0] if self.random.random() < 0.7 else USERS[1]
            request = self.ask(user, self.random.choice(OPERATIONS))
            if self.random.random() < 0.3:
                self.begin(request)
            else:
                await request
            await asyncio.sleep(self.random.choice((0.0, 0.05, 0.5, 3.0, 20.0, 45.0)))
            if self.random.random() < 0.3:
                self.mischief.heal()
        await self.requests_end()

    async def requests_end(self) -> None:
        """Wait until nobody waits for an answer any more."""
        if self._requests:
            await asyncio.wait(self._requests)

    def begin(self, request: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(request)
        self._requests.add(task)

    def some_replica(self) -> Replica:
        """Return whom the next request comes to: one that lives, if there is one."""
        if len(self.replicas) == 1:
            return self.replicas[0]
        alive = [replica for replica in self.replicas if replica.plane is not None]
        return self.random.choice(alive or self.replicas)

    async def ask(self, user: UserId, operation: str) -> None:
        """Ask as a backend does, once. What is answered was accepted; what is not may have been."""
        replica = self.some_replica()
        at = f" (life {replica.life})" if len(self.replicas) > 1 else ""
        self.cluster.say(f"{user}: {operation}{at}")
        if replica.plane is None:
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
            await self._ask(replica, replica.plane, user, operation, meant)
        finally:
            self._at_once[user] -= 1

    async def _ask(
        self, replica: Replica, plane: ControlPlane, user: UserId, operation: str, meant: set[Desired | None]
    ) -> None:
        before = set(self.wanted[user])
        alone, begun = self._at_once[user] == 1, self._begun[user]
        # What another replica accepted a moment ago need not be known to this one, which may answer from memory.
        behind = operation == "ensure" and self._is_behind(plane, user)
        task = self.loop.create_task(self._send(replica.life, plane, user, operation))
        if self.cluster.has_rollouts and operation == "ensure":
            self.begin(self.watcher.patience.follow(user, replica, task))
        done, _ = await asyncio.wait([task], timeout=60)
        overlaps = not alone or behind or self._begun[user] != begun
        if not done:
            task.cancel()
            self.wanted[user] = self.wanted[user] | before | meant
            self.begin(self._outlive(task, user))
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
        self.watcher.accepted(user, None if overlaps else meant)

    async def _outlive(self, task: asyncio.Task[None], user: UserId) -> None:
        """Count a request whose caller went away among those at work, until it can have no effect any more."""
        self._at_once[user] += 1
        await asyncio.wait([task])
        await asyncio.sleep(15)
        self._at_once[user] -= 1

    def _is_behind(self, plane: ControlPlane, user: UserId) -> bool:
        known, row = plane.fleet.get(user), self.cluster.store.rows.get(user)
        there = known.stack.intent.generation if known is not None else 0
        return there != (row.stack.intent.generation if row is not None else 0)

    async def _send(self, life: int, plane: ControlPlane, user: UserId, operation: str) -> None:
        LIFE.set(life)
        calls = plane.provisioning
        by = {"by": BACKEND, "if_match": None}
        match operation:
            case "ensure":
                labels = (
                    {} if self.random.random() < 0.8 else {"labels": {"n": str(self.random.random())[:6]}}
                )
                await calls.ensure(user, EnsureRequest(**labels) if labels else UNCHANGED, wait=None, **by)
            case "stop":
                await calls.stop(user, hold=False, **by)
            case "delete" | "delete_all":
                await calls.delete(user, delete_workspace=operation == "delete_all", **by)
            case "recover with restore":
                await calls.recover(user, data=DataPolicy.RESTORE, **by)
            case "rotate":
                await calls.rotate_password(user, **by)
            case _:
                await getattr(calls, operation)(user, **by)

    async def relabel(self, user: UserId, label: str, *, at: Replica | None = None) -> None:
        """Have a change accepted under which the runtime runs on."""
        await self.ensure(user, EnsureRequest(labels={"n": label}), at=at)

    async def ensure(self, user: UserId, wish: EnsureRequest, *, at: Replica | None = None) -> None:
        """Have an ensure accepted, in peace."""
        replica = at or self.replicas[0]

        async def send() -> None:
            LIFE.set(replica.life)
            await replica.plane.provisioning.ensure(user, wish, by=BACKEND, wait=None, if_match=None)

        await self.loop.create_task(send())
        self.wanted[user] = {Desired.RUNNING}

    async def rest(self) -> None:
        """Wait until every stack is where it should be, as far as the rows say."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while not self._rests():  # noqa: ASYNC110 - what is waited for is a state of many things
                await asyncio.sleep(0.5)

    def _rests(self) -> bool:
        return next(self._restless(), None) is None

    def _restless(self) -> Iterator[str]:
        """Yield who is on the way still, or at work, as far as the rows say."""
        for replica in self.replicas:
            if replica.plane is None or replica.plane.dispatcher.at_work:
                yield f"life {replica.life} is {'dead' if replica.plane is None else 'at work'}"
        for user, row in self.cluster.store.rows.items():
            intent, status = row.stack.intent, row.stack.status
            goal = {Desired.RUNNING: Phase.RUNNING, Desired.STOPPED: Phase.STOPPED}.get(intent.desired)
            is_there = status.phase is goal or is_asleep(row.stack)
            is_done = row.stack.is_settled and row.claim_token is None
            if not (is_there and is_done and status.migration_state not in _UNDER_WAY):
                claim = (
                    f", claimed by life {self.watcher.holder_of(row.claim_token)}" if row.claim_token else ""
                )
                yield (
                    f"{user} is {status.phase} and {status.migration_state} for {status.reason} "
                    f"({status.message}), and is to be {intent.desired}; generation {intent.generation}, "
                    f"observed {status.observed_generation}{claim}"
                )
        if (active := self.cluster.store.the_active()) is not None:
            yield f"a rollout is {active.state} with {', '.join(f'{n} {state}' for state, n in active.counts.items())}"

    async def _settle(self) -> None:
        self.mischief.heal(for_good=True)
        self.cluster.say("all is well from here")
        trouble = self.cluster.trouble
        if trouble.die_at is not None or trouble.fail_at is not None:
            # Whoever is to die may do so still, on the way to where all comes to rest.
            await asyncio.sleep(30)
            trouble.die_at = trouble.fail_at = None
        if self.cluster.has_rollouts:
            await self.fleet.settle()
            self.loop.create_task(self.fleet.answer_pauses())
        began = self.loop.time()
        await self._come_to_rest(within=SETTLE_SECONDS if self.cluster.has_rollouts else RESTS_IN)
        end = began + SETTLE_SECONDS if self.cluster.has_rollouts else self.loop.time() + MENDED_IN
        while True:
            await self._come_to_rest(within=SETTLE_SECONDS)
            self.last_effect = self.last_effect or len(self.cluster.effects)
            await asyncio.sleep(45)
            if not self._rests():
                if self.loop.time() > end:
                    raise Stuck("what comes to rest does not stay there")
                continue
            try:
                check_end(self)
            except Violation:
                # What is found and mended at the next comparison is no violation yet.
                if self.loop.time() > end:
                    raise
            else:
                return

    async def _come_to_rest(self, *, within: float) -> None:
        """Wait until all is where it should be, with an operator who looks twice a minute."""
        async with asyncio.timeout(within):
            while True:
                await self._see_to_all()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(30):
                        return await self.rest()

    async def _see_to_all(self) -> None:
        """Confirm what stands, and have tried again what waits for a person, as an operator who has looked."""
        for replica in self.replicas:
            if replica.plane is not None:
                await self.loop.create_task(self._see_to(replica.plane, replica.life))

    async def _see_to(self, plane: ControlPlane, life: int) -> None:
        LIFE.set(life)
        for condition in plane.conditions.standing():
            if condition.freezes:
                with contextlib.suppress(LifecycleError):
                    await plane.oversight.confirm_condition(condition.id, by=OPERATOR)
        for user, row in list(self.cluster.store.rows.items()):
            intent, status = row.stack.intent, row.stack.status
            given_up = status.phase is Phase.FAILED and status.reason in FINAL_REASONS
            if given_up and intent.desired is Desired.RUNNING:
                # With nothing to start on what was written, somebody must give that up.
                is_newer = status.reason is Reason.DATA_NEWER
                data = DataPolicy.RESTORE if is_newer else DataPolicy.KEEP
                with contextlib.suppress(LifecycleError):
                    await plane.provisioning.recover(user, by=OPERATOR, if_match=None, data=data)


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
