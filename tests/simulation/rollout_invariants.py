"""
What must hold of rollouts, orders, leases and the gate (I10): looked at in the very moment of every commit, and at the end.

Nobody who is provably at work, or has a lease, is interrupted before a forced deadline, be it that of a drain less its
margin, and nobody for a change whom no node would take again (I12) · no lease is given once a stop is
committed · never more in flight, or down, than may be · nothing is rolled twice, forgotten, or tried again that failed · only
waves change what is wanted, and a release becomes the target behind its canary · a rollback brings the old target back · one
that is paused or has ended begins nothing · two never own one stack · every one comes to an end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opencode_lifecycle.lifecycle.rollouts.standing import OrderName, order_of
from opencode_lifecycle.model.identifiers import ReleaseId, RolloutId, UserId
from opencode_lifecycle.model.lease import is_reloading
from opencode_lifecycle.model.migration import AtDeadline, MigrationOrder, OrderOutcome
from opencode_lifecycle.model.rollout import (
    ROLLOUT_MOVES,
    Member,
    MemberState,
    Rollout,
    RolloutState,
)
from opencode_lifecycle.model.stack import Address, Stack
from opencode_lifecycle.model.states import Desired, Phase, Reason, WhenStale
from simulation.cluster import Cluster
from simulation.data_invariants import DataWatch
from simulation.servers import BAD_CONFIG, MANNER, ODD

_GATED = frozenset({Reason.STALE, Reason.RECYCLE, Reason.IDLE, Reason.NODE_DRAINING})
"""What a runtime is interrupted for only when nobody is at work in it."""
_BY_ROLLOUT = frozenset({"stack.ordered", "stack.prepared", "stack.taken_back", "stack.released"})
_NODES_SEEN = 60.0
"""Seconds after which every replica must know that a node is closed, where nothing else goes wrong."""
_A_MOMENT = 5.0
"""Seconds that lie between the last look at a runtime and the commit of its stop, at most, however slow calls are."""
_HEARD = 20.0
"""Seconds after which whoever drives a rollout must know that it was paused or has ended."""
_KNOWN = 30.0
"""Seconds after which every replica must know the fleet's target."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a stack was brought to in vain, and by what it was wanted then."""

    facets: tuple[str, ...]
    wanted: tuple[object, ...]
    recovered: int


class RolloutWatch:
    """Looks at what every commit changes."""

    def __init__(self, cluster: Cluster, violate: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._store = cluster.store
        self._violate = violate
        self._rows: dict[UserId, Stack] = {}
        self._rollouts: dict[RolloutId, Rollout] = {}
        self._entered: dict[RolloutId, float] = {}
        """When a rollout came into its state."""
        self._target: ReleaseId | None = None
        self._targets: dict[ReleaseId | None, float] = {}
        """Until when each was the target."""
        self._asked: dict[ReleaseId, float] = {}
        self._issued: set[tuple[object, ...]] = set()
        self._stopped: set[tuple[object, ...]] = set()
        self._failed_orders: set[tuple[object, ...]] = set()
        self._down: dict[UserId, RolloutId] = {}
        """Whose runtime was stopped by which rollout, which takes a place of it until the order has its outcome."""
        self._unavailable: dict[UserId, RolloutId] = {}
        """The same until it runs again: also who is held by its node, since no rollout waits for a drain."""
        self._ordered: dict[UserId, tuple[int, RolloutId]] = {}
        """The generation of the last order of each stack, and whose it was."""
        self._forced: dict[UserId, float] = {}
        """When an order with a deadline that had passed was taken from a stack."""
        self._asked_at: dict[UserId, float] = {}
        """When somebody last changed what is wanted of a stack."""
        self._fresh: dict[UserId, int] = {}
        """The last generation in which a person asked for a fresh start."""
        self._failures: dict[UserId, Failure] = {}
        self._proven: dict[ReleaseId, float] = {}
        """When a stack first ran on it."""
        self.data = DataWatch(cluster, violate)
        cluster.store.on_commit = self.look

    def may_become_target(self, release: ReleaseId) -> None:
        self._asked[release] = self._cluster.loop.time()

    # --- every commit

    def look(self) -> None:
        if not self._cluster.has_rollouts:
            return
        for user, row in self._store.rows.items():
            before, after = self._rows.get(user), row.stack
            if before is after:
                continue
            self._rows[user] = after
            if before is None or before.created_at != after.created_at:
                self._forget(user)
            else:
                self._stack_moved(before, after)
        for user in self._rows.keys() - self._store.rows.keys():
            del self._rows[user]
            self._forget(user)
        if self._store._current != self._target:
            self._target_moved(self._target, self._store._current)
        for rollout_id, rollout in self._store.rollouts.items():
            if self._rollouts.get(rollout_id) is not rollout:
                self._rollout_moved(self._rollouts.get(rollout_id), rollout)

    def _forget(self, user: UserId) -> None:
        for known in (
            self._down,
            self._unavailable,
            self._ordered,
            self._forced,
            self._fresh,
            self._failures,
        ):
            known.pop(user, None)

    def _stack_moved(self, before: Stack, after: Stack) -> None:
        was, now = before.status, after.status
        if after.intent is not before.intent:
            self._intent_moved(before, after)
        is_gated = now.reason in _GATED or (now.reason is Reason.RECREATE and not self._is_asked_for(before))
        if was.phase is Phase.RUNNING and now.phase is Phase.STOPPING and is_gated:
            if now.reason is Reason.NODE_DRAINING:
                self._check_leaving(before, after)
            else:
                self._check_interruption(before, after, "stopped")
                self._check_rolled(before, after)
                self._check_that_it_can_come_back(before, now.reason)
        if is_reloading(now) and not is_reloading(was):
            self._check_interruption(before, after, "reloaded")
        if before.busy_until != after.busy_until:
            self._check_lease(after)
        has_ended = now.phase in {Phase.RUNNING, Phase.FAILED}
        if has_ended or after.is_held_by_node:
            self._down.pop(after.user_id, None)
        if has_ended:
            self._unavailable.pop(after.user_id, None)
        if now.order_done != was.order_done:
            self._check_outcome(after)
        is_refused = now.refused is not None and now.refused_in != was.refused_in
        if is_refused and was.phase is Phase.STARTING and was.facets is not None and was.release is not None:
            self._failures[after.user_id] = Failure(
                (*_restarting(was.facets.meta()), self._number_of(was.release)),
                _wanted(after),
                after.intent.recovered,
            )
        if now.phase is Phase.RUNNING and now.release is not None:
            self._proven.setdefault(now.release, self._cluster.loop.time())

    # --- the gate

    def _check_interruption(self, before: Stack, after: Stack, what: str) -> None:
        cluster, user = self._cluster, after.user_id
        order, now = before.standing_order, cluster.loop.wall_clock()
        is_forced = _is_forced(order, now) or cluster.loop.time() - self._forced.get(user, -1e9) < _HEARD
        at_once = (
            cluster.when_stale is WhenStale.NOW and order is None and after.status.reason is Reason.STALE
        )
        if not is_forced:
            self._check_nobody_is_at_work(before, after, what, is_asked=at_once)

    def _check_nobody_is_at_work(self, before: Stack, after: Stack, what: str, *, is_asked: bool) -> None:
        cluster, user, now = self._cluster, after.user_id, self._cluster.loop.wall_clock()
        if after.busy_until is not None and after.busy_until > now:
            self._violate(f"{user} is {what} for {after.status.reason}, under a lease")
        runtime = before.status.runtime
        if runtime is None or runtime.address is None or is_asked or self._was_frozen():
            return
        place = (runtime.address.host, runtime.address.port)
        since = cluster.at_work_since.get(place)
        server = cluster.prober.servers.get(place)
        if since is None or server is None or not server.is_at_work():
            return
        if cluster.loop.time() - since > _A_MOMENT:
            worked = cluster.loop.time() - since
            self._violate(
                f"{user} is {what} for {after.status.reason}; its agent has worked for {worked:.0f} s"
            )

    def _check_leaving(self, before: Stack, after: Stack) -> None:
        """Hold the stop of what runs on a node against the drain of that, unless Nomad has ended it before."""
        runtime, nodes = before.status.runtime, self._cluster.nodes
        runs = runtime is not None and any(
            (each.id, each.desired_status) == (runtime.allocation_id, "run")
            for each in self._cluster.nomad._live(after.job_id)
        )
        if not runs or runtime is None:
            return
        if not nodes.was("drained", runtime.node):
            self._violate(f"{after.user_id} is stopped for a drain, and its node is not drained")
        if not nodes.was("forced", runtime.node):
            self._check_nobody_is_at_work(before, after, "stopped", is_asked=False)

    def _check_that_it_can_come_back(self, before: Stack, reason: Reason | None) -> None:
        workspace, cluster = before.status.workspace, self._cluster
        node = workspace.node_id if workspace is not None else None
        if cluster.nodes.closed_for(node) > _NODES_SEEN and cluster.is_calm(_NODES_SEEN):
            self._violate(f"{before.user_id} is stopped for {reason}, and its node would not take it again")

    def _is_asked_for(self, stack: Stack) -> bool:
        """Whether it was a person who asked for the fresh start that is due."""
        return self._fresh.get(stack.user_id) == stack.intent.fresh_start

    def check_abort(self, address: Address) -> None:
        """Hold that turns are aborted only by a person's wish, or past a deadline that forces it."""
        cluster, place = self._cluster, (address.host, address.port)
        since, server = cluster.at_work_since.get(place), cluster.prober.servers.get(place)
        job_id, now = cluster.owner.get(place), cluster.loop.time()
        stack = next((stack for stack in self._rows.values() if stack.job_id == job_id), None)
        is_at_work = (
            since is not None and now - since > _A_MOMENT and server is not None and server.is_at_work()
        )
        if stack is None or not is_at_work or self._was_frozen():
            return
        user, status = stack.user_id, stack.status
        is_asked = (
            stack.intent.desired is not Desired.RUNNING
            or (stack.intent.fresh_start > status.fresh_start_done and self._is_asked_for(stack))
            or now - self._asked_at.get(user, -1e9) < _HEARD
            or (cluster.when_stale is WhenStale.NOW and stack.standing_order is None)
        )
        is_forced = (
            _is_forced(stack.standing_order, cluster.loop.wall_clock())
            or now - self._forced.get(user, -1e9) < _HEARD
            or cluster.nodes.was("forced", status.runtime.node if status.runtime is not None else None)
        )
        if not is_asked and not is_forced:
            self._violate(f"the turns of {user} are aborted, which nobody asked for, and no deadline forces")

    def _was_frozen(self) -> bool:
        """Whether somebody may have been frozen between a look and what followed from it."""
        cluster = self._cluster
        return bool(cluster.frozen) or cluster.loop.time() - cluster.thawed_at < _HEARD

    def _check_lease(self, after: Stack) -> None:
        if (
            after.status.phase in {Phase.STOPPING, Phase.DELETING}
            or after.intent.desired is not Desired.RUNNING
        ):
            self._violate(f"{after.user_id} gets a lease in phase {after.status.phase}")
        if is_reloading(after.status):
            self._violate(f"{after.user_id} gets a lease while it reloads")

    # --- orders

    def _owner_of(self, order: MigrationOrder | None) -> tuple[Rollout, OrderName] | None:
        for rollout in self._store.rollouts.values() if order is not None else ():
            name = order_of(rollout.id, order.id)
            if name is not None:
                return rollout, name
        return None

    def _intent_moved(self, before: Stack, after: Stack) -> None:
        user, loop = after.user_id, self._cluster.loop
        self.data.intent_moved(before, after)
        is_by_rollout = self._is_by_rollout(after)
        if not is_by_rollout:
            self._asked_at[user] = loop.time()
            self._down.pop(user, None)
            self._unavailable.pop(user, None)
            if after.intent.fresh_start != before.intent.fresh_start:
                self._fresh[user] = after.intent.fresh_start
            self._stopped = {key for key in self._stopped if key[1] != user}
        order = after.intent.order
        if _is_forced(before.standing_order, loop.wall_clock()) and order != before.intent.order:
            self._forced[user] = loop.time()
        if order is not None and order != before.intent.order:
            self._check_order(before, after)
        if after.intent.wanted_release != before.intent.wanted_release and not is_by_rollout:
            self._check_wanted(after)
        failure = self._failures.get(user)
        if failure is not None and (
            failure.wanted != _wanted(after) or after.intent.recovered > failure.recovered
        ):
            # Somebody has said so.
            del self._failures[user]

    def _is_by_rollout(self, after: Stack) -> bool:
        for event in reversed(self._store.events[-20:]):
            if event.user_id == after.user_id and event.generation == after.intent.generation:
                return event.kind in _BY_ROLLOUT
        return False

    def _check_order(self, before: Stack, after: Stack) -> None:
        user, order = after.user_id, after.intent.order
        assert order is not None
        found = self._owner_of(order)
        if found is None:
            if not (order.restore and order.id.startswith("restore.")):
                self._violate(f"{user} has the order {order.id} of nobody")
            return
        rollout, name = found
        forward = (rollout.id, user, after.created_at)
        if (order.id, user, after.created_at) in self._issued:
            self._violate(f"{user} is given the same order twice")
        self._issued.add((order.id, user, after.created_at))
        if after.intent.pinned and rollout.release is not None:
            self._violate(f"{user} is pinned, and ordered to be moved")
        if after.intent.held:
            self._violate(f"{user} is held, and ordered to be moved")
        standing = self._owner_of(before.standing_order)
        if standing is not None and standing[0].id != rollout.id:
            self._violate(f"{user} is owned by two rollouts at once")
        if not name.back and forward in self._failed_orders:
            self._violate(f"{user} failed in a rollout, and is ordered once more by it")
        self._check_that_it_acts(user, rollout, back=name.back)
        self._ordered[user] = (after.intent.generation, rollout.id)
        flying = self._in_flight(rollout)
        if len(flying) > rollout.specification.strategy.max_in_flight:
            self._violate(f"{', '.join(flying)} are in flight at once")

    def _check_that_it_acts(self, user: UserId, rollout: Rollout, *, back: bool) -> None:
        acts = RolloutState.ROLLING_BACK if back else RolloutState.RUNNING
        if rollout.state is acts and rollout.is_active:
            return
        self._violate(f"{user} is ordered by a rollout that is {rollout.state}")

    def _in_flight(self, rollout: Rollout) -> list[UserId]:
        """Return who has a standing order of the rollout that nobody has overruled since."""
        return sorted(
            user
            for user, (generation, owner) in self._ordered.items()
            if owner == rollout.id
            and (stack := self._rows.get(user)) is not None
            and stack.intent.generation == generation
            and stack.standing_order is not None
            and stack.intent.desired is Desired.RUNNING
        )

    def _check_rolled(self, before: Stack, after: Stack) -> None:
        found = self._owner_of(before.standing_order)
        if found is None:
            return
        rollout, name = found
        status, user = before.status, before.user_id
        runtime = status.runtime
        # That Nomad has another job than was registered, as after a restore, may be seen in the pass that stops it.
        is_changed_outside = bool(after.status.edits) or (
            runtime is not None and runtime.secret_version != status.secret_version
        )
        key = (rollout.id, user, before.created_at, name.back)
        if key in self._stopped and not is_changed_outside:
            self._violate(f"{user} is rolled twice by one rollout")
        self._stopped.add(key)
        self._down[user] = self._unavailable[user] = rollout.id
        strategy = rollout.specification.strategy
        down = sorted(each for each, owner in self._down.items() if owner == rollout.id)
        if len(down) > strategy.max_in_flight:
            self._violate(f"{', '.join(down)} are down at once by a rollout of fewer")
        unavailable = sorted(each for each, owner in self._unavailable.items() if owner == rollout.id)
        most, members = strategy.max_unavailable, len(self._store.rollout_stacks[rollout.id])
        if most is not None and len(unavailable) > max(1, most.at_most(members)):
            self._violate(f"{', '.join(unavailable)} are unavailable at once by a rollout of fewer")

    def _check_outcome(self, after: Stack) -> None:
        status, found = after.status, self._owner_of(after.intent.order)
        if found is None or status.order_done != after.intent.order.id:
            return
        rollout, name = found
        if status.order_outcome is OrderOutcome.FAILED and not name.back:
            self._failed_orders.add((rollout.id, after.user_id, after.created_at))
        is_there = status.release == after.intent.wanted_release
        if status.order_outcome is OrderOutcome.DONE and after.is_settled and not is_there:
            self._violate(f"the order to {after.user_id} counts as done, and it runs something else")

    def check_registration(self, job: Any, row: Any) -> None:
        """Hold a job that is registered against what was tried and taken back."""
        self.data.note_registration(job, row)
        if row is None:
            return
        failure = self._failures.get(row.stack.user_id)
        if failure is None:
            return
        *facets, number = failure.facets
        is_same = list(_restarting(job.specification["Meta"])) == facets
        if is_same and f"release: {number}\n" in job.specification["Variables"]["description"]:
            self._violate(f"{row.stack.user_id} is brought again to what failed, and nobody said so")

    def _number_of(self, release: ReleaseId) -> str:
        return str(self._store._releases[release].number)

    # --- what is wanted

    def _check_wanted(self, after: Stack) -> None:
        """Hold what a person's request made a stack want against what it may."""
        if after.intent.pinned or self._was_frozen():
            return
        wanted = after.intent.wanted_release
        pins = {group.pin for group in self._store.groups.values()}
        since = self._cluster.loop.time() - self._targets.get(wanted, -1e9)
        if wanted != self._store._current and wanted not in pins and since > _KNOWN:
            self._violate(f"{after.user_id} wants a release that is not the target")

    def _target_moved(self, before: ReleaseId | None, after: ReleaseId | None) -> None:
        self._targets[before] = self._cluster.loop.time()
        self._target = after
        active = self._store.the_active()
        if before is None or after is None:
            return
        if active is None:
            if self._cluster.loop.time() - self._asked.get(after, -1e9) > 60:
                self._violate("the target changes, and nobody asked for it")
        elif after == active.release:
            self._check_promotion(active)
        elif not (after == active.target_before and active.goes_back):
            self._violate(f"the target changes while a rollout is {active.state}")

    def _check_promotion(self, rollout: Rollout) -> None:
        strategy, release = rollout.specification.strategy, rollout.release
        assert release is not None
        if rollout.goes_back:
            self._violate("a rollout that goes back makes its release the target")
        members = self._store.rollout_stacks[rollout.id].values()
        ordered = [member for member in members if member.orders > 0]
        if strategy.canary.is_zero or not ordered or rollout.forgiven:
            return
        content = self._store._releases[release]
        manner = content.environment.get(MANNER)
        is_bad = manner in {"dud", *ODD} or content.managed_config == BAD_CONFIG
        if manner == "mute" and strategy.gate.prompt is not None:
            is_bad = True
        if is_bad and not self._cluster.servers.are_mended:
            self._violate("a release that is bad became the target, behind a canary")
        proven_at = self._proven.get(release)
        if proven_at is None:
            self._violate("a release became the target, and nobody has run it")
        elif self._cluster.loop.time() - proven_at < strategy.soak.total_seconds():
            self._violate("a release became the target before its canary has soaked")

    # --- rollouts

    def _rollout_moved(self, before: Rollout | None, after: Rollout) -> None:
        self._rollouts[after.id] = after
        if before is None or before.state is not after.state or before.is_active is not after.is_active:
            self._entered[after.id] = self._cluster.loop.time()
            self._cluster.say(f"  the rollout is {after.state}{f', {after.reason}' if after.reason else ''}")
        if before is not None and after.state not in {before.state, *ROLLOUT_MOVES[before.state]}:
            self._violate(f"a rollout that is {before.state} becomes {after.state}")
        if before is not None and after.wave < before.wave:
            self._violate("a rollout goes back to an earlier wave")
        if after.state is RolloutState.PAUSED and after.reason is None:
            self._violate("a rollout is paused, and does not say what for")
        if not after.is_active and (before is None or before.is_active):
            self._check_ended(after)

    def _check_ended(self, rollout: Rollout) -> None:
        unseen = [
            member.user_id
            for member in self._store.rollout_stacks[rollout.id].values()
            if member.state in {MemberState.WAITING, MemberState.ORDERED}
        ]
        if unseen and rollout.state is not RolloutState.ABORTED:
            self._violate(f"a rollout is {rollout.state}, and nobody has seen to {', '.join(unseen)}")
        target, release = self._store._current, rollout.release
        if release is None:
            return
        if rollout.state is RolloutState.SUCCEEDED and target != release:
            self._violate("a rollout succeeded, and its release is not the target")
        if (
            rollout.state in {RolloutState.ROLLED_BACK, RolloutState.FAILED}
            and target != rollout.target_before
        ):
            self._violate(f"a rollout is {rollout.state}, and the target is not what it was")

    # --- at rest

    def check_rest(self) -> None:
        """Hold at the end every rollout against its stacks, as far as nobody changed them since."""
        active = self._store.the_active()
        if active is not None:
            self._violate(f"a rollout never ends: it is {active.state}")
        self.data.check_rest()
        if not self._store.rollouts:
            return
        last = next(reversed(self._store.rollouts.values()))
        for member in self._store.rollout_stacks[last.id].values():
            row = self._store.rows.get(member.user_id)
            if row is not None and row.stack.created_at == member.stack_created_at:
                self._check_member(last, member, row.stack)

    def _check_member(self, rollout: Rollout, member: Member, stack: Stack) -> None:
        user, status = member.user_id, stack.status
        order = stack.standing_order
        if order is not None and order_of(rollout.id, order.id) is not None and not self._is_overruled(stack):
            self._violate(f"{user} has an order of a rollout that has ended")
        if stack.intent.generation != member.generation or stack.intent.desired is not Desired.RUNNING:
            return
        if status.phase is Phase.STOPPED and status.reason is Reason.IDLE:
            # Nothing is written to who sleeps; who is woken wants what the fleet does.
            return
        is_moved = rollout.state is RolloutState.SUCCEEDED and member.state is MemberState.MIGRATED
        if is_moved and rollout.release not in {None, stack.intent.wanted_release}:
            self._violate(f"{user} was moved, and wants what it wanted before")
        runs = status.phase is Phase.RUNNING and not stack.waits_for_a_person
        if is_moved and runs and status.release != stack.intent.wanted_release:
            self._violate(f"{user} was moved, and runs what it ran before")
        if member.state is MemberState.TAKEN_BACK and stack.intent.wanted_release != member.release_before:
            self._violate(f"{user} was taken back, and wants something else")

    def _is_overruled(self, stack: Stack) -> bool:
        return stack.intent.desired is not Desired.RUNNING


def _is_forced(order: MigrationOrder | None, now: Any) -> bool:
    return (
        order is not None
        and order.at_deadline is AtDeadline.FORCE
        and order.deadline is not None
        and now >= order.deadline
    )


def _restarting(meta: Any) -> tuple[str, ...]:
    return tuple(
        str(meta[name]) for name in ("image", "opencode_version", "template", "environment", "resources")
    )


def _wanted(stack: Stack) -> tuple[object, ...]:
    intent = stack.intent
    return (intent.wanted_release, intent.resources, tuple(sorted(intent.environment.items())))
