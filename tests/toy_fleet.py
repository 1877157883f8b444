"""
A fleet in virtual time: rows of stacks, and a reconciler in a few lines that moves them as they were ordered.

It keeps what the real one promises to a rollout, and nothing else of it: an order stands until its outcome is in the row, an
agent at work is waited for until the deadline, and what does not become healthy goes back to what ran before.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

from opencode_lifecycle.lifecycle.rollouts.standing import is_working
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.identifiers import AllocationId, ReleaseId, UserId, job_id_of
from opencode_lifecycle.model.migration import AtDeadline, MigrationClass, OrderOutcome
from opencode_lifecycle.model.rollout import BusyState
from opencode_lifecycle.model.stack import Address, Intent, Runtime, Stack, Status
from opencode_lifecycle.model.states import Desired, Health, MigrationState, Phase, Reason
from opencode_lifecycle.ports.stores import Decision, Situation

START = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
OLD, NEW = ReleaseId("rel_old"), ReleaseId("rel_new")
FACETS = Facets(
    image="registry.example/opencode",
    opencode_version="1.18.34",
    template="t",
    environment="e",
    resources="r",
    secret_version=1,
    prompt="p",
    config="c",
    labels="l",
    endpoints="n",
)


def a_runtime(release: ReleaseId, *, number: int = 1, at: datetime = START) -> Runtime:
    return Runtime(
        allocation_id=AllocationId(f"alloc-{number}"),
        job_version=number,
        node="client-1",
        image="registry.example/opencode",
        opencode_version="1.18.34",
        revision=f"revision of {release}",
        secret_version=1,
        release=release,
        restarts=0,
        started_at=at,
        address=Address(host="127.0.0.1", port=24000),
        proven_at=at,
    )


def a_running_stack(user_id: str, *, release: ReleaseId = OLD, **intent) -> Stack:
    wanted = {
        "generation": 1,
        "desired": Desired.RUNNING,
        "group": "default",
        "resources": "small",
        "labels": {},
        "environment": {},
        "wanted_release": release,
    }
    return Stack(
        user_id=UserId(user_id),
        job_id=job_id_of("main", UserId(user_id)),
        namespace="default",
        region="global",
        intent=Intent(**{**wanted, **intent}),
        status=Status(
            observed_generation=1,
            phase=Phase.RUNNING,
            phase_since=START,
            health=Health.HEALTHY,
            facets=FACETS,
            release=release,
            runtime=a_runtime(release),
        ),
        created_at=START,
        updated_at=START,
        change_seq=1,
    )


def stopped(stack: Stack) -> Stack:
    return replace(
        stack,
        intent=replace(stack.intent, desired=Desired.STOPPED),
        status=replace(stack.status, phase=Phase.STOPPED, health=Health.UNKNOWN, runtime=None, release=None),
    )


def asleep(stack: Stack) -> Stack:
    status = replace(
        stack.status, phase=Phase.STOPPED, reason=Reason.IDLE, runtime=None, health=Health.UNKNOWN
    )
    return replace(stack, status=replace(status, observed_generation=stack.intent.generation))


def held_by_its_node(stack: Stack, **changes) -> Stack:
    status = replace(
        stack.status,
        phase=Phase.STOPPED,
        reason=Reason.NODE_DRAINING,
        migration_state=MigrationState.HELD,
        runtime=None,
        **changes,
    )
    return replace(stack, status=status)


@dataclass
class ToyFleet:
    """
    *bad* releases never become healthy. Users that *wrote* keep the newer version, unless an order gives that up. *wedged* users' runtimes are unresponsive after a migration that went well.

    `replaced` counts how often each stack was replaced by which order.
    """

    stacks: dict[UserId, Stack]
    random: Random
    now: datetime = START
    migration_class: MigrationClass = MigrationClass.RESTART
    bad: frozenset[ReleaseId] = frozenset()
    clumsy: frozenset[UserId] = frozenset()
    """Users whose stacks do not survive any migration."""
    busy: set[UserId] = field(default_factory=set)
    wrote: set[UserId] = field(default_factory=set)
    target: ReleaseId = OLD
    replaced: Counter[tuple[UserId, str]] = field(default_factory=Counter)
    issued: Counter[tuple[UserId, str]] = field(default_factory=Counter)
    _seq: int = 1

    def put(self, stack: Stack) -> None:
        self._seq += 1
        self.stacks[stack.user_id] = replace(stack, change_seq=self._seq)

    def decide(self, user_id: UserId, decision) -> Decision:
        stack = self.stacks.get(user_id)
        made = decision(Situation(stack=stack, last_operation=None, kept_workspace=None))
        if made.stack is not None:
            before = stack.intent.order if stack is not None else None
            order = made.stack.intent.order
            if order is not None and order != before:
                self.issued[user_id, order.id] += 1
            self.put(replace(stack, intent=made.stack.intent))
        return made

    def sight(self, user_id: UserId) -> BusyState:
        return BusyState.BUSY if user_id in self.busy else BusyState.IDLE

    @property
    def working(self) -> int:
        return sum(1 for stack in self.stacks.values() if is_working(stack))

    # --- the reconciler

    def step(self, user_id: UserId) -> None:
        """Let the stack get one step further, if it is on its way anywhere."""
        stack = self.stacks.get(user_id)
        if stack is None:
            return
        if stack.is_held_by_node and stack.intent.desired is Desired.RUNNING:
            return
        if stack.intent.desired is Desired.DELETED:
            del self.stacks[user_id]
            return
        moved = (
            self._of_stopped(stack) if stack.intent.desired is Desired.STOPPED else self._of_running(stack)
        )
        if moved != stack.status:
            self.put(replace(stack, status=moved))

    def _of_stopped(self, stack: Stack) -> Status:
        status = replace(stack.status, observed_generation=stack.intent.generation)
        if status.phase is Phase.STOPPED:
            return status
        return replace(
            status,
            phase=Phase.STOPPED,
            health=Health.UNKNOWN,
            runtime=None,
            release=None,
            migration_state=MigrationState.CURRENT,
        )

    def _of_running(self, stack: Stack) -> Status:
        status = replace(stack.status, observed_generation=stack.intent.generation)
        order = stack.standing_order
        match status.phase:
            case Phase.STOPPED | Phase.FAILED | Phase.PENDING:
                if status.phase is Phase.FAILED and stack.is_settled:
                    return status
                return replace(status, phase=Phase.STARTING, release=stack.intent.wanted_release)
            case Phase.STARTING:
                return self._started(stack, status)
        if status.migration_state is MigrationState.VERIFYING:
            return self._verified(stack, status)
        is_fresh = stack.intent.fresh_start > status.fresh_start_done
        differs = status.release != stack.intent.wanted_release
        if order is None:
            if is_fresh:
                return self._begun(stack, replace(status, fresh_start_done=stack.intent.fresh_start), "-")
            return replace(
                status, migration_state=MigrationState.STALE if differs else MigrationState.CURRENT
            )
        if not differs and not order.fresh and not order.rotate:
            return replace(
                status,
                migration_state=MigrationState.CURRENT,
                order_done=order.id,
                order_outcome=OrderOutcome.DONE,
            )
        if self.migration_class is not MigrationClass.LIVE and user_id_is_busy(self, stack):
            return self._waits(status, order)
        if ".back" in order.id and stack.user_id in self.wrote and not order.restore:
            return replace(
                status,
                migration_state=MigrationState.FAILED,
                reason=Reason.DATA_NEWER,
                message="1 sessions",
                order_done=order.id,
                order_outcome=OrderOutcome.FAILED,
            )
        return self._begun(stack, status, order.id)

    def _waits(self, status: Status, order) -> Status:
        if order.deadline is None or self.now < order.deadline:
            return replace(status, migration_state=MigrationState.DRAINING)
        if order.at_deadline is AtDeadline.FORCE:
            return replace(status, migration_state=MigrationState.REPLACING)
        held = order.at_deadline is AtDeadline.HOLD
        return replace(
            status,
            migration_state=MigrationState.HELD if held else MigrationState.STALE,
            order_done=order.id,
            order_outcome=OrderOutcome.HELD if held else OrderOutcome.SKIPPED,
        )

    def _begun(self, stack: Stack, status: Status, order_id: str) -> Status:
        self.replaced[stack.user_id, order_id] += 1
        if self.migration_class is not MigrationClass.RESTART:
            return replace(status, migration_state=MigrationState.VERIFYING)
        return replace(
            status,
            phase=Phase.STARTING,
            health=Health.STARTING,
            migration_state=MigrationState.VERIFYING,
            runtime=None,
        )

    def _started(self, stack: Stack, status: Status) -> Status:
        if status.migration_state is MigrationState.VERIFYING:
            return self._verified(stack, status)
        if stack.intent.wanted_release in self.bad:
            return replace(status, phase=Phase.FAILED, reason=Reason.NEVER_HEALTHY, message="never healthy")
        return self._healthy(status, stack.intent.wanted_release)

    def _verified(self, stack: Stack, status: Status) -> Status:
        """End a migration: on what is wanted, or back on what ran before."""
        order = stack.standing_order
        wanted = stack.intent.wanted_release
        fails = wanted in self.bad or stack.user_id in self.clumsy
        if fails and status.release not in {None, wanted}:
            status = replace(self._healthy(status, status.release), migration_state=MigrationState.FAILED)
        else:
            status = self._healthy(status, wanted)
        if order is None:
            return status
        outcome = OrderOutcome.FAILED if fails else OrderOutcome.DONE
        return replace(status, order_done=order.id, order_outcome=outcome)

    def _healthy(self, status: Status, release: ReleaseId) -> Status:
        return replace(
            status,
            phase=Phase.RUNNING,
            health=Health.HEALTHY,
            migration_state=MigrationState.CURRENT,
            reason=None,
            message="",
            release=release,
            runtime=a_runtime(release, number=self._seq, at=self.now),
        )

    # --- people

    def intend(self, user_id: UserId, **changes) -> None:
        """Have somebody change what is wanted of the stack; a request of a person overrules an order."""
        stack = self.stacks[user_id]
        if stack.standing_order is not None:
            # Nothing came of it, so the same may be asked for again.
            self.issued.pop((user_id, stack.standing_order.id))
        intent = replace(stack.intent, generation=stack.intent.generation + 1, **changes)
        self.put(replace(stack, intent=intent))

    def stop(self, user_id: UserId) -> None:
        self.intend(user_id, desired=Desired.STOPPED, order=None)

    def ensure(self, user_id: UserId) -> None:
        stack = self.stacks.get(user_id)
        if stack is None:
            born = replace(a_running_stack(user_id, release=self.target), created_at=self.now)
            status = Status(phase_since=self.now)
            self.put(replace(born, status=status))
        elif stack.intent.desired is Desired.STOPPED:
            wanted = stack.intent.wanted_release if stack.intent.pinned else self.target
            self.intend(user_id, desired=Desired.RUNNING, wanted_release=wanted)

    def recreate(self, user_id: UserId) -> None:
        stack = self.stacks[user_id]
        wanted = stack.intent.wanted_release if stack.intent.pinned else self.target
        self.intend(
            user_id,
            desired=Desired.RUNNING,
            fresh_start=stack.intent.generation + 1,
            wanted_release=wanted,
            order=None,
        )

    def pin(self, user_id: UserId) -> None:
        stack = self.stacks[user_id]
        self.intend(user_id, pinned=True, wanted_release=stack.status.release or OLD, order=None)

    def delete(self, user_id: UserId) -> None:
        self.intend(user_id, desired=Desired.DELETED, order=None)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def user_id_is_busy(fleet: ToyFleet, stack: Stack) -> bool:
    return stack.user_id in fleet.busy
