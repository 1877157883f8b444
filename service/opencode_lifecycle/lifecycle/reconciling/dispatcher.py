"""
Hands stacks to workers: those for whom somebody waits first, then others that were hinted at, then those that are due.

Some workers are kept for the first, so that nobody waits behind a rollout whose runtimes are slow to answer. A hint only
makes it quick. That a stack is due stands in its row, so a hint that is lost costs time, never the stack.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

import structlog

from opencode_lifecycle.lifecycle.background import Pulse, set_within
from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.reconciling.planning import plan
from opencode_lifecycle.lifecycle.reconciling.reconciler import Reconciler
from opencode_lifecycle.lifecycle.reconciling.steps import Limits, Rest
from opencode_lifecycle.lifecycle.reconciling.work import Desk
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.errors import UpstreamError
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.stack import Stack, Status
from opencode_lifecycle.model.states import Desired
from opencode_lifecycle.ports.stores import Claimed, StackStore

log = structlog.get_logger(__name__)

KEPT_SHARE = 4
"""One worker of so many is kept for whoever waits, and one at least where there are two."""


class Dispatcher:
    """Owns the workers of this replica."""

    def __init__(
        self,
        *,
        stacks: StackStore,
        reconciler: Reconciler,
        fleet: Fleet,
        desk: Desk,
        limits: Limits,
        now: Clock,
        workers: int,
        claim_lifetime: timedelta,
        poll: timedelta = timedelta(seconds=1),
    ) -> None:
        self._stacks = stacks
        self._reconciler = reconciler
        self._fleet = fleet
        self._desk = desk
        self._limits = limits
        self._now = now
        self._workers = workers
        self._claim_lifetime = claim_lifetime
        self._poll = poll.total_seconds()
        self._hinted: dict[UserId, None] = {}
        self._urgent: dict[UserId, None] = {}
        self._kept = max(workers // KEPT_SHARE, min(1, workers - 1))
        """Workers that are kept for whoever waits."""
        self._at_work: set[UserId] = set()
        self._unasked: set[UserId] = set()
        """Of those at work, whom nobody waits for."""
        self._left_alone: dict[UserId, tuple[object, ...]] = {}
        """What was known of a stack that could not be taken to rest. Until that changes, it waits until it is due."""
        self._came_round: dict[UserId, tuple[object, ...]] = {}
        """What was known when a pass had come to rest and there seemed to be something to do still."""
        self._said: dict[UserId, tuple[object, ...]] = {}
        """By what knowledge a stack was last taken to rest."""
        self._to_compare: set[UserId] | None = None
        """Of what the first listing gave rise to, who was not seen to yet; None before that listing."""
        self.compared = asyncio.Event()
        """Set when everything that the first listing gave rise to was seen to once: what is stale is marked by then."""
        self.pulse = Pulse()
        self._asked_for_due = Pulse()
        self._wake = asyncio.Event()

    @property
    def at_work(self) -> int:
        return len(self._at_work)

    def hint(self, user_id: UserId) -> None:
        """Have the stack looked at as soon as a worker is free. Those that somebody asked something of go first."""
        known = self._fleet.get(user_id)
        self._left_alone.pop(user_id, None)
        is_asked = known is not None and _is_asked(known.stack)
        (self._urgent if is_asked else self._hinted)[user_id] = None
        self._wake.set()

    def attend(self, known: Known) -> None:
        """Hint at the stack if there is something to do for it now."""
        user_id = known.stack.user_id
        if user_id in self._at_work:
            return
        if user_id in self._left_alone and self._left_alone[user_id] == self._known_of(known):
            return
        if self.needs_attention(known) and not self._has_said_so(known):
            self.hint(user_id)

    def _known_of(self, known: Known) -> tuple[object, ...]:
        """Return what a new pass could be led by: all but what the last pass itself wrote."""
        seen = self._fleet.observation(known.stack.job_id)
        about = (seen.job, seen.allocations, seen.placement_failure) if seen is not None else None
        seen_otherwise = (known.proof, known.liveness, known.silent_probes, known.secret, known.doubt)
        node = (
            self._fleet.closed_node(known.stack),
            self._fleet.nodes.are_known,
            self._was_listed_since(known),
        )
        return (known.stack.intent, about, seen_otherwise, node, self._fleet.frozen)

    def _was_listed_since(self, known: Known) -> bool:
        """Whether the nodes were listed since the stack was held by its own, which it waits for."""
        age, status = self._fleet.nodes.age, known.stack.status
        return known.stack.is_held_by_node and age is not None and self._now() - age > status.phase_since

    def needs_attention(self, known: Known) -> bool:
        """Whether there is something to do for the stack, or to write down about it, as far as can be seen."""
        stack = known.stack
        work = self._desk.work_on(stack, known)
        if work is None:
            return True
        if work.observation is None:
            # Not seen: the row says when it is due. Unknown is no reason to act.
            return False
        step = plan(work, now=self._now(), limits=self._limits)
        if not isinstance(step, Rest):
            return True
        # A change of prose alone is not worth a write.
        return step.status is not stack.status and _worth_a_write(stack.status) != _worth_a_write(step.status)

    def _has_said_so(self, known: Known) -> bool:
        """
        Whether it was taken to rest by this same knowledge before, and another replica has moved it since.

        1. One replica sees that an allocation has ended, and writes "stopped"; another has not heard of it yet, and writes
           "stopping". Or one reaches the runtime, and the other does not.
        2. Each hears of what the other wrote, and corrects it, as fast as the database will go.

        So each does what it knows once, until it learns something else or the stack is due.
        """
        said = self._said.get(known.stack.user_id)
        return said is not None and said == self._known_of(known)

    async def run(self) -> None:
        """Claim and work until cancelled; then let the workers finish what they are at."""
        self._wake.set()  # whoever waits for our first beat need not wait for a period as well
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._pause()
                try:
                    claimed = await self._claim(self._workers - len(self._at_work))
                except UpstreamError as error:
                    log.warning("cannot claim", error=error.message)
                    await asyncio.sleep(self._poll)
                    continue
                except Exception:
                    # Whatever it was, the other stacks wait.
                    log.exception("cannot claim")
                    await asyncio.sleep(self._poll)
                    continue
                self.pulse.beat()
                for each in claimed:
                    self._at_work.add(each.stack.user_id)
                    if not _is_asked(each.stack):
                        self._unasked.add(each.stack.user_id)
                    tasks.create_task(self._work(each), name=f"reconcile {each.stack.job_id}")
                self._note_comparison()

    def _note_comparison(self) -> None:
        """Take note of who is to be seen to since the first listing, and then of that it was done: others always come."""
        if self._to_compare is None and self._fleet.listing_pulse.age() is not None:
            self._to_compare = {*self._hinted, *self._urgent, *self._at_work}
        if self._to_compare is not None and not self._to_compare:
            self.compared.set()

    def _is_compared(self, user_id: UserId) -> None:
        if self._to_compare is not None:
            self._to_compare.discard(user_id)

    async def _pause(self) -> None:
        await set_within(self._wake, self._poll)
        self._wake.clear()

    async def _claim(self, free: int) -> list[Claimed]:
        if free <= 0:
            return []
        unasked = min(free, max(0, self._workers - self._kept - len(self._unasked)))
        hinted = self._take_hints(free, unasked)
        now = self._now()
        age = self._asked_for_due.age()
        # With hints the others that are due are asked for once a period: each time would cost as much as the hints.
        limit = len(hinted) if hinted and age is not None and age < self._poll else max(len(hinted), unasked)
        if limit == 0:
            return []
        try:
            claimed = await self._stacks.claim(
                limit=limit, now=now, lapses_at=now + self._claim_lifetime, hinted=hinted
            )
        except BaseException:
            self._hinted.update(dict.fromkeys(hinted))
            raise
        if limit > len(hinted):
            self._asked_for_due.beat()
        if len(hinted) < free and (self._urgent or (self._hinted and unasked)):
            self._wake.set()
        for user_id in set(hinted) - {each.stack.user_id for each in claimed}:
            # Another replica is at it, or it is no more.
            self._is_compared(user_id)
        ours = [each for each in claimed if each.stack.user_id not in self._at_work]
        for each in claimed:
            if each not in ours:
                # Its worker was frozen for so long that the claim lapsed. It will find that out; two at once must not be.
                await self._stacks.release_claim(each, next_attempt_at=now + self._claim_lifetime)
        return ours

    def _take_hints(self, free: int, unasked: int) -> list[UserId]:
        """Return whom to claim next: at most as many as are *free*, of whom nobody waits for more than *unasked*."""
        hinted: list[UserId] = []
        for hints, most in ((self._urgent, free), (self._hinted, unasked)):
            until = min(free, len(hinted) + most)
            for user_id in list(hints):
                if len(hinted) == until:
                    break
                del hints[user_id]
                if user_id not in self._at_work:
                    # Else whoever is at it looks again when done.
                    hinted.append(user_id)
        return hinted

    async def _work(self, claimed: Claimed) -> None:
        user_id = claimed.stack.user_id
        rests = False
        try:
            rests = await self._reconciler.reconcile(claimed)
        except asyncio.CancelledError:
            # We are told to stop. What was done is found again; whoever takes over shall not wait for our claim to lapse.
            with suppress(UpstreamError):
                await self._stacks.release_claim(claimed, next_attempt_at=self._now())
            raise
        except Exception:
            # A defect of ours with one stack must not touch the others. Its claim lapses and it is tried again.
            log.exception("reconcile failed", job_id=claimed.stack.job_id)
        finally:
            self._at_work.discard(user_id)
            self._unasked.discard(user_id)
            self._wake.set()
        self._finished(claimed, rests=rests)
        if user_id not in self._hinted and user_id not in self._urgent:
            self._is_compared(user_id)

    def _finished(self, claimed: Claimed, *, rests: bool) -> None:
        """
        Have the stack looked at again if something was learnt while it was worked on.

        1. What is remembered of it says that there is something to do; a pass looks itself, and finds it done.
        2. For some reason the look does not count against what is remembered, and the next pass does it all again.

        So a second pass by the same knowledge is the last one until the stack is due, or something else is learnt.
        """
        user_id = claimed.stack.user_id
        known = self._fleet.get(user_id)
        came_round = self._came_round.pop(user_id, None)
        self._left_alone.pop(user_id, None)
        if known is None:
            self._said.pop(user_id, None)
            return
        about = self._known_of(known)
        is_wanted_as_before = known.stack.intent.generation == claimed.stack.intent.generation
        if is_wanted_as_before and (not rests or came_round == about):
            self._left_alone[user_id] = about
        try:
            self.attend(known)
        except Exception:
            log.exception("cannot judge a stack", job_id=known.stack.job_id)
        if user_id in self._hinted or user_id in self._urgent:
            self._came_round[user_id] = about
        elif rests:
            self._said[user_id] = about


def _is_asked(stack: Stack) -> bool:
    """Whether somebody waits for what is to be done: it was asked for, and not by a rollout."""
    if stack.intent.desired is not Desired.RUNNING:
        return True
    return not stack.is_settled and stack.standing_order is None


def _worth_a_write(status: Status) -> tuple[object, ...]:
    return (
        status.phase,
        status.reason,
        status.health,
        status.migration_state,
        status.stale,
        status.observed_generation,
    )
