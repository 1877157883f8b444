"""
Everything known now, in memory: each stack's row, and what was last seen of it.

This is what makes the hot path free. It is kept current by our own writes, by the sequence of changes in the database, by
the listing of Nomad and its event stream. It decides nothing; it only says how old its knowledge is.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from time import monotonic

from opencode_lifecycle.lifecycle.background import Pulse, set_within
from opencode_lifecycle.lifecycle.observing.freshness import Freshness
from opencode_lifecycle.lifecycle.observing.known import Known, is_lease_alone, node_of, run_of
from opencode_lifecycle.lifecycle.observing.nodes import Nodes
from opencode_lifecycle.lifecycle.observing.sightings import (
    filled_in,
    is_heard_since,
    newer_of,
    shows_the_same,
    told,
)
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.identifiers import AllocationId, JobId, UserId
from opencode_lifecycle.model.node import ClosedNode
from opencode_lifecycle.model.observation import ABSENT, UNKNOWN, Observation
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.stack import Address, Stack
from opencode_lifecycle.ports.orchestrator import Change, Connected, Listing, NodesChanged
from opencode_lifecycle.ports.prober import Activity, Liveness
from opencode_lifecycle.ports.secrets import SecretSeen
from opencode_lifecycle.ports.stores import StackChange

__all__ = ["Fleet", "Known"]


class Fleet:
    """The one place where what is stored and what is seen meet."""

    def __init__(self, *, now: Clock, max_age: timedelta, monotonic: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._max_age = max_age
        self._freshness = Freshness(now=now, monotonic=monotonic, max_age=max_age)
        self.nodes = Nodes(max_age=max_age, monotonic=monotonic)
        self._by_user: dict[UserId, Known] = {}
        self._user_of: dict[JobId, UserId] = {}
        self._seen: dict[JobId, Observation] = {}
        self._listed_index = 0
        self._listed_at: datetime | None = None
        self._floor: dict[JobId, int] = {}
        self.seq = 0
        self.frozen: frozenset[ConditionKind] = frozenset()
        """The conditions that stand unconfirmed: what rests on absence is not done."""
        self.listing_pulse = Pulse()
        self.on_change: Callable[[Known], None] | None = None
        """Called with each stack of which something new is known."""
        self.on_idle: Callable[[Known], None] | None = None
        """Called with each stack that was at work, or not seen, and in which nothing is at work now."""
        self.on_removal: Callable[[UserId], None] | None = None
        self._removed: dict[UserId, int] = {}

    def __len__(self) -> int:
        return len(self._by_user)

    def __iter__(self) -> Iterator[Known]:
        return iter(list(self._by_user.values()))

    def get(self, user_id: UserId) -> Known | None:
        return self._by_user.get(user_id)

    def user_of(self, job_id: JobId) -> UserId | None:
        """Return whose stack bears the name."""
        return self._user_of.get(job_id)

    # --- rows

    def put(self, stack: Stack) -> Known:
        """Take in a row, unless it, a later version or its removal since it was read is known already."""
        known = self._by_user.get(stack.user_id)
        if known is not None and stack.change_seq <= known.stack.change_seq:
            return known
        written = stack.status.job_modify_index
        if known is None:
            known = Known(stack=stack)
            if stack.change_seq <= self._removed.get(stack.user_id, -1):
                return known
            self._by_user[stack.user_id] = known
            self._user_of[stack.job_id] = stack.user_id
        elif is_lease_alone(known.stack, stack):
            # It is shown, and read where it matters; nothing is to be done for it.
            known.stack, known.view = stack, None
            return known
        else:
            before = known.stack.status
            if written == before.job_modify_index:
                written = None
            if before.secret_version != stack.status.secret_version:
                # What was seen before is not about the version that the row names now.
                known.secret = None
            if run_of(before) != run_of(stack.status):
                # Another server: what was heard of the one before says nothing of it.
                known.liveness, known.silent_probes = None, 0
                known.activity, known.activity_at, known.busy_at, known.memory = None, None, None, None
            known.stack = stack
        if written is not None:
            # Written by us or by another replica; floors are kept in the row, too, since memory may be younger than it.
            self.wrote(stack.job_id, written)
        self._changed(known)
        return known

    def remove(self, user_id: UserId) -> None:
        known = self._by_user.pop(user_id, None)
        if known is None:
            return
        self._user_of.pop(known.stack.job_id, None)
        self._floor.pop(known.stack.job_id, None)
        self._remember_removal(user_id, known.stack.change_seq)
        if self.on_removal is not None:
            self.on_removal(user_id)
        self._wake(known)

    def _remember_removal(self, user_id: UserId, seq: int) -> None:
        """
        Note that no row of the user up to *seq* is taken in any more.

        1. We read a row, and the answer is slow.
        2. Another replica writes the row once more, and removes it; we hear of the removal.
        3. The answer comes. What it tells is newer than what we knew, and older than the removal.
        """
        self._removed[user_id] = max(seq, self._removed.pop(user_id, seq))
        if len(self._removed) > _REMEMBERED_REMOVALS:
            del self._removed[next(iter(self._removed))]

    def apply_changes(self, changes: Sequence[StackChange]) -> None:
        """Take in what the database says changed, in order."""
        for change in changes:
            if change.stack is not None:
                self.put(change.stack)
            else:
                known = self._by_user.get(change.user_id)
                if known is not None and known.stack.change_seq <= change.seq:
                    self.remove(change.user_id)
                self._remember_removal(change.user_id, change.seq)
            self.seq = max(self.seq, change.seq)

    # --- what is seen

    def freeze(self, kinds: frozenset[ConditionKind]) -> None:
        """Hold back, for as long as *kinds* is not empty, what may be wrong while they stand."""
        if kinds == self.frozen:
            return
        self.frozen = kinds
        for known in self:
            self._changed(known)

    def highest_write(self) -> int:
        """Return the largest index of our own writes that are known."""
        return max(self._floor.values(), default=0)

    def forget_indexes(self) -> None:
        """
        Begin anew with Nomad's indexes: it was restored from an older snapshot, and they count from there.

        What we knew of it, and wrote to it, is no longer true of it.
        """
        self._seen.clear()
        self._floor.clear()
        self._freshness.forget()
        self._listed_index, self._listed_at = 0, None

    @property
    def listed_index(self) -> int:
        return self._listed_index

    def apply_presence(self, listing: Listing, *, counts_anew: bool) -> None:
        """
        Take from a listing that is not believed whole what it does show, and nothing from what it lacks.

        Where Nomad *counts anew*, an index from before says nothing of what is newer: what was seen before the listing
        began gives way to it.
        """
        for job_id, seen in listing.stacks.items():
            old = self._seen.get(job_id)
            is_past = counts_anew and old is not None and old.observed_at < listing.observed_at
            known = None if is_past else old
            new = self._seen[job_id] = newer_of(known, filled_in(seen, known), listing)
            self._freshness.saw(job_id, listing.observed_at)
            if old is None or not shows_the_same(old, new):
                self._changed_job(job_id)

    def apply_listing(self, listing: Listing) -> None:
        """
        Take a whole listing as the truth as of its index.

        What was learnt from later events is kept: the listing may have been read before them.
        """
        was_blind = self._listed_at is None or listing.observed_at - self._listed_at > self._max_age
        before = self._seen
        self._seen = {
            job_id: newer_of(before.get(job_id), listing.stacks.get(job_id), listing)
            for job_id in listing.stacks.keys()
            | {j for j, seen in before.items() if is_heard_since(seen, listing)}
        }
        self._listed_index, self._listed_at = listing.index, listing.observed_at
        self._freshness.listed(listing.observed_at)
        self.listing_pulse.beat()
        if was_blind:
            # What vanished meanwhile is named by no difference.
            for known in self:
                self._changed(known)
            return
        for job_id in before.keys() | self._seen.keys():
            old, new = before.get(job_id), self._seen.get(job_id)
            if old is None or new is None or not shows_the_same(old, new):
                self._changed_job(job_id)

    def apply(self, change: Change) -> None:
        """
        Take in one event. Events may come twice and late; what is older than what is known is dropped.

        Half of them show nothing new: an evaluation that has placed everything, or the status of a job.
        """
        if isinstance(change, Connected | NodesChanged):
            return
        new = told(self._seen.get(change.job_id), change, now=self._now())
        if new is not None:
            before = self.observation(change.job_id)
            self._seen[change.job_id] = new
            self._freshness.saw(change.job_id, new.observed_at)
            if before is None or not shows_the_same(before, new):
                self._changed_job(change.job_id)

    def apply_nodes(self, closed: Sequence[ClosedNode], *, begun: float) -> None:
        """
        Take in which nodes take nothing new, by a listing that was *begun* then.

        1. A stack is held since its node is closed, and that is on the way to the database.
        2. A listing shows the node open. It counts for nothing, as it was begun before the stack was held.
        3. The next one shows nothing new, and is what the stack waits for.

        So each is news to whoever is held.
        """
        changed = self.nodes.listed(closed, begun=begun)
        for known in self:
            is_news = known.stack.is_held_by_node or changed is None
            if is_news or (changed and node_of(known.stack, self._seen.get(known.stack.job_id)) in changed):
                self._changed(known)

    def closed_node(self, stack: Stack) -> ClosedNode | None:
        """Return the node of the stack if it is known to take nothing new."""
        if not self.nodes.any_was_closed:
            return None
        return self.nodes.closed_node(node_of(stack, self._seen.get(stack.job_id)))

    def see(self, job_id: JobId, observation: Observation) -> None:
        """Take in what was read directly, which is newer than anything before it."""
        old = self._seen.get(job_id)
        if old is not None and observation.index < old.index:
            # Nomad answers for one job with that job's index, which may lie before one of the whole table.
            if not shows_the_same(old, observation):
                return
            observation = replace(observation, index=old.index, job_index=None)
        self._seen[job_id] = observation
        self._freshness.saw(job_id, observation.observed_at)
        if old is None or not shows_the_same(old, observation):
            self._changed_job(job_id)

    def wrote(self, job_id: JobId, index: int) -> None:
        """Remember our own write: nothing seen before *index* decides about this job any more."""
        self._floor[job_id] = max(index, self._floor.get(job_id, 0))

    def observation(self, job_id: JobId) -> Observation | None:
        """
        Return what is known of the job now, or None for unknown: never seen, seen too long ago, or before our last
        write. A job that a recent full listing does not name is absent.
        """
        seen, listed_at = self._seen.get(job_id), self._listed_at
        if seen is None:
            if listed_at is None:
                return None
            seen = Observation(job=ABSENT, index=self._listed_index, observed_at=listed_at)
        elif listed_at is not None and listed_at > seen.observed_at:
            # The listing covered it, even where a later event is what we keep.
            seen = replace(
                seen,
                observed_at=listed_at,
                index=max(seen.index, self._listed_index),
                job_index=max(seen.job_known_to, self._listed_index),
            )
        if seen.job is UNKNOWN or self._freshness.is_too_old(job_id, seen.observed_at):
            return None
        return seen if seen.job_known_to >= self._floor.get(job_id, 0) else None

    def last_seen_at(self, job_id: JobId) -> datetime | None:
        """Return when anything was last known of the job, however long ago."""
        seen = self._seen.get(job_id)
        times = [time for time in (seen.observed_at if seen else None, self._listed_at) if time is not None]
        return max(times) if times else None

    def latest(self, job_id: JobId) -> Observation | None:
        """Return the last observation, however old: to be shown, never to decide."""
        return self._seen.get(job_id)

    def prove(self, user_id: UserId, proof: Proof) -> None:
        """Take in what a look at the runtime gave."""
        known = self._by_user.get(user_id)
        if known is not None:
            known.proof = proof
            if proof.result is ProofResult.PROVEN:
                known.answered = (proof.allocation_id, proof.restarts)
            self._changed(known)

    def probed(
        self, user_id: UserId, run: tuple[AllocationId, int], liveness: Liveness, *, steady: bool
    ) -> None:
        """
        Take in one look at the run of an allocation; only a change of the picture is news.

        Silence counts against a runtime only when it was looked at *steady*: requests that come together may all find it
        silent for the same moment.
        """
        known = self._by_user.get(user_id)
        if known is None or run_of(known.stack.status) != run:
            return
        if liveness is Liveness.ALIVE:
            known.answered = run
        elif liveness is not Liveness.OPEN and not steady:
            return
        silent = 0 if liveness is Liveness.ALIVE else known.silent_probes + 1
        news = silent != known.silent_probes or liveness is not known.liveness
        known.silent_probes, known.liveness = silent, liveness
        if news:
            self._changed(known)

    def saw_secret(self, user_id: UserId, secret: SecretSeen, *, expected: int | None = None) -> None:
        """
        Take in what Vault's metadata says.

        With *expected*, only if that is still the version that the row names: a look that was begun before a rotation
        must not take it back.
        """
        known = self._by_user.get(user_id)
        if known is None or (expected is not None and known.stack.status.secret_version != expected):
            return
        news, known.secret = known.secret != secret, secret
        if news or secret.version != known.stack.status.secret_version:
            self._changed(known)

    def saw_activity(self, user_id: UserId, activity: Activity | None, at: datetime) -> None:
        """
        Take in what its sessions do, None for what could not be seen.

        It is no news, so that a look costs nothing more, but that an agent has finished: a migration may wait for that.
        """
        known = self._by_user.get(user_id)
        if known is None:
            return
        was_idle = known.activity is not None and not known.activity.busy
        known.activity, known.activity_at = activity, at
        if activity is None:
            return
        if activity.busy:
            known.busy_at = at
        elif not was_idle and self.on_idle is not None:
            self.on_idle(known)

    def saw_memory(self, user_id: UserId, memory: int | None) -> None:
        known = self._by_user.get(user_id)
        if known is not None and known.memory != memory:
            known.memory = memory
            self._changed(known)

    def doubt(self, user_id: UserId, address: Address | None, why: str) -> None:
        """Let no proof of *address* count while it is in doubt; an empty *why* takes the doubt back."""
        known = self._by_user.get(user_id)
        if known is None or (known.doubt, known.doubted) == (why, address):
            return
        known.doubt, known.doubted = why, address
        if why:
            known.proof, known.answered = None, None
        self._changed(known)

    # --- waiting

    async def change_of(self, user_id: UserId, timeout: float) -> None:
        """Return when something new is known of the stack, or after *timeout* seconds."""
        known = self._by_user.get(user_id)
        if known is None:
            return
        event = asyncio.Event()
        known.waiters.append(event)
        try:
            await set_within(event, timeout)
        finally:
            if event in known.waiters:
                known.waiters.remove(event)

    def wake_all(self) -> None:
        """Let everyone who waits for a change go on."""
        for known in self:
            self._wake(known)

    def _changed_job(self, job_id: JobId) -> None:
        user_id = self._user_of.get(job_id)
        known = self._by_user.get(user_id) if user_id is not None else None
        if known is not None:
            self._changed(known)

    def _changed(self, known: Known) -> None:
        known.view = None
        known.ready_until = 0.0
        self._wake(known)
        if self.on_change is not None:
            self.on_change(known)

    @staticmethod
    def _wake(known: Known) -> None:
        waiters, known.waiters = known.waiters, []
        for waiter in waiters:
            waiter.set()


_REMEMBERED_REMOVALS = 4096
"""Of stacks that were removed, so that a row which was read before is not taken for a new one."""
