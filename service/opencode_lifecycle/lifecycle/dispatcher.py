"""
Hands stacks to workers: those somebody hinted at first, then those that are due.

A hint only makes it quick. That a stack is due stands in its row, so a hint that is lost costs time, never the stack.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

import structlog

from opencode_lifecycle.lifecycle.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.planning import plan
from opencode_lifecycle.lifecycle.reconciler import Reconciler
from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.lifecycle.steps import Limits, Rest, Work
from opencode_lifecycle.lifecycle.wanted import Site, wanted_facets
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.errors import UpstreamError
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.states import Desired
from opencode_lifecycle.ports.stores import Claimed, StackStore

log = structlog.get_logger(__name__)


class Dispatcher:
    """Owns the workers of this replica."""

    def __init__(
        self,
        *,
        stacks: StackStore,
        reconciler: Reconciler,
        releases: Releases,
        fleet: Fleet,
        site: Site,
        limits: Limits,
        now: Clock,
        workers: int,
        claim_lifetime: timedelta,
        poll: timedelta = timedelta(seconds=1),
    ) -> None:
        self._stacks = stacks
        self._reconciler = reconciler
        self._releases = releases
        self._fleet = fleet
        self._site = site
        self._limits = limits
        self._now = now
        self._workers = workers
        self._claim_lifetime = claim_lifetime
        self._poll = poll.total_seconds()
        self._hinted: dict[UserId, None] = {}
        self._urgent: dict[UserId, None] = {}
        self._at_work: set[UserId] = set()
        self._wake = asyncio.Event()

    @property
    def at_work(self) -> int:
        return len(self._at_work)

    def hint(self, user_id: UserId) -> None:
        """Have the stack looked at as soon as a worker is free. Those to be deleted or stopped go first."""
        known = self._fleet.get(user_id)
        urgent = known is not None and known.stack.intent.desired is not Desired.RUNNING
        (self._urgent if urgent else self._hinted)[user_id] = None
        self._wake.set()

    def attend(self, known: Known) -> None:
        """Hint at the stack if there is something to do for it now."""
        if known.stack.user_id not in self._at_work and self._needs_attention(known):
            self.hint(known.stack.user_id)

    def _needs_attention(self, known: Known) -> bool:
        stack = known.stack
        found = self._releases.peek(stack.intent.wanted_release)
        if found is None:
            return True
        release, needs = found
        observation = self._fleet.observation(stack.job_id)
        if observation is None:
            # Not seen: the row says when it is due. Unknown is no reason to act.
            return False
        wanted = wanted_facets(stack, release, self._site, secret_version=stack.status.secret_version or 0)
        work = Work(
            stack=stack,
            observation=observation,
            proof=known.proof,
            liveness=known.liveness,
            silent_probes=known.silent_probes,
            wanted=wanted,
            needs=needs,
            installation=self._site.installation,
        )
        step = plan(work, now=self._now(), limits=self._limits)
        if not isinstance(step, Rest):
            return True
        # A change of prose alone is not worth a write.
        before = (stack.status.phase, stack.status.reason, stack.status.health, stack.status.migration_state)
        after = (step.status.phase, step.status.reason, step.status.health, step.status.migration_state)
        return before != after or step.status.observed_generation != stack.status.observed_generation

    async def run(self) -> None:
        """Claim and work until cancelled; then let the workers finish what they are at."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._pause()
                free = self._workers - len(self._at_work)
                if free <= 0:
                    continue
                for claimed in await self._claim(free):
                    user_id = claimed.stack.user_id
                    self._at_work.add(user_id)
                    tasks.create_task(self._work(claimed), name=f"reconcile {claimed.stack.job_id}")

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._poll):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _claim(self, free: int) -> list[Claimed]:
        hinted: list[UserId] = []
        for hints in (self._urgent, self._hinted):
            for user_id in list(hints):
                if len(hinted) == free:
                    break
                if user_id in self._at_work:
                    # Whoever is at it looks again when done.
                    del hints[user_id]
                    continue
                del hints[user_id]
                hinted.append(user_id)
        now = self._now()
        try:
            claimed = await self._stacks.claim(
                limit=free, now=now, lapses_at=now + self._claim_lifetime, hinted=hinted
            )
        except UpstreamError as error:
            log.warning("cannot claim", error=str(error), kind=type(error).__name__)
            self._hinted.update(dict.fromkeys(hinted))
            await asyncio.sleep(self._poll)
            return []
        if self._urgent or self._hinted:
            self._wake.set()
        return list(claimed)

    async def _work(self, claimed: Claimed) -> None:
        user_id = claimed.stack.user_id
        try:
            await self._reconciler.reconcile(claimed)
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
            self._wake.set()
        known = self._fleet.get(user_id)
        if known is not None:
            self.attend(known)
