"""
Looks at runtimes that claim to be there, and says what each shows.

*Proving* is for a new allocation: it begins as soon as Nomad says that the task runs, and goes on until the runtime has
shown what it must, or the stack no longer waits for it. *Steady probes* are for those that were proven: one request
without credentials now and then. Both only tell the fleet; what follows is decided by the plan.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from opencode_lifecycle.lifecycle.background import Pulse
from opencode_lifecycle.lifecycle.braking.brake import silence
from opencode_lifecycle.lifecycle.braking.conditions import Conditions
from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.observing.recent_passwords import RecentPasswords
from opencode_lifecycle.lifecycle.observing.vouching import Vouching, why_not_vouched
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, SecretMissing, UpstreamError
from opencode_lifecycle.model.identifiers import AllocationId, UserId
from opencode_lifecycle.model.observation import ClientStatus, JobSeen
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.stack import Address, Stack
from opencode_lifecycle.model.states import OUTAGES, UNAVAILABLE, Desired, Phase, Reason
from opencode_lifecycle.ports.prober import Liveness, RuntimeProber
from opencode_lifecycle.ports.service_catalog import ServiceCatalog

log = structlog.get_logger(__name__)

FIRST_PAUSE = 0.05
"""Seconds between the first looks: a start must not wait for us."""
LAST_PAUSE = 1.0
FIRST_PATIENCE = 0.1
"""Seconds for the first look at a runtime that accepted the connection."""
PROBES_PER_SECOND = 100
"""Steady probes, all together: a fleet that is larger than an interval allows is looked at less often."""
SHARE_OF_INTERVAL = 0.9
"""Of the time between two steady looks at a runtime, what the first of them may take."""
ASKED_AT_ONCE = 32
"""Runtimes that begin to be silent. With more at once none is replaced for it anyway."""
LOOKS_PER_SECOND = 100
"""All proving together; with many at once each is looked at less often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An allocation that may be proven, and what is expected of it."""

    user_id: UserId
    allocation_id: AllocationId
    address: Address
    version: str
    secret_version: int
    restarts: int


def candidate_in(known: Known, fleet: Fleet) -> Candidate | None:
    """Return the allocation of a starting stack that runs and has an address, if there is one."""
    stack = known.stack
    if stack.status.phase is not Phase.STARTING or stack.intent.desired is not Desired.RUNNING:
        return None
    seen = fleet.observation(stack.job_id)
    if seen is None or not isinstance(seen.job, JobSeen) or seen.job.stopped or stack.status.facets is None:
        return None
    for allocation in seen.allocations:
        if allocation.job_version == seen.job.version:
            if allocation.client_status is not ClientStatus.RUNNING or allocation.address is None:
                return None
            return Candidate(
                user_id=stack.user_id,
                allocation_id=allocation.id,
                address=allocation.address,
                version=stack.status.facets.opencode_version,
                secret_version=stack.status.facets.secret_version,
                restarts=allocation.restarts,
            )
    return None


class Proving:
    """One task per allocation that waits for its proof."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        prober: RuntimeProber,
        passwords: RecentPasswords,
        catalog: ServiceCatalog,
        now: Clock,
        upstream_timeout: timedelta,
    ) -> None:
        self._fleet = fleet
        self._prober = prober
        self._passwords = passwords
        self._catalog = catalog
        self._now = now
        self._upstream_timeout = upstream_timeout.total_seconds()
        self._tasks: dict[UserId, tuple[Candidate, asyncio.Task[None]]] = {}

    def consider(self, known: Known) -> None:
        """Begin, go on with or give up proving the stack, as its situation says."""
        user_id = known.stack.user_id
        candidate = candidate_in(known, self._fleet)
        current = self._tasks.get(user_id)
        if current is not None and current[0] != candidate:
            current[1].cancel()
            del self._tasks[user_id]
            current = None
        if candidate is None or current is not None:
            return
        if _is_final(known.proof, candidate):
            return
        task = asyncio.create_task(self._prove(known.stack, candidate), name=f"prove {known.stack.job_id}")
        self._tasks[user_id] = (candidate, task)
        task.add_done_callback(lambda done: self._done(user_id, done))

    def forget(self, user_id: UserId) -> None:
        """Give up proving a stack that is no more."""
        current = self._tasks.pop(user_id, None)
        if current is not None:
            current[1].cancel()

    def _done(self, user_id: UserId, task: "asyncio.Task[None]") -> None:
        current = self._tasks.get(user_id)
        if current is not None and current[1] is task:
            del self._tasks[user_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("proving failed", user_id=user_id, error=str(error), kind=type(error).__name__)

    async def close(self) -> None:
        """Give up all proving and wait until nothing of it runs."""
        tasks = [task for _, task in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _prove(self, stack: Stack, candidate: Candidate) -> None:
        log.debug("proving", step="proving begins", job_id=stack.job_id)
        await self._until_it_listens(candidate)
        log.debug("proving", step="it answers", job_id=stack.job_id)
        pause = FIRST_PAUSE
        while True:
            proof = await self._look(stack, candidate)
            self._tell(candidate, proof)
            if _is_final(proof, candidate):
                return
            pause = min(pause * 1.3, LAST_PAUSE)
            await self._pause(pause)

    async def _until_it_listens(self, candidate: Candidate) -> None:
        """
        Return when the runtime has answered anything at all.

        OpenCode accepts connections some tenths of a second before it can serve them, and never answers what it was
        asked meanwhile. So the first looks give up soon; each that was in vain has more time, for a machine under load.
        """
        patience = FIRST_PATIENCE
        while True:
            deadline = Deadline.after(patience, "look whether the runtime listens")
            if await self._prober.liveness(candidate.address, deadline) not in _UNHEARD:
                return
            self._no_neighbour_is_to_blame(candidate)
            if deadline.left() <= 0:
                patience = min(patience * 1.2, self._upstream_timeout)
            await self._pause(FIRST_PAUSE)

    def _no_neighbour_is_to_blame(self, candidate: Candidate) -> None:
        """
        Take back that a neighbour is what is waited for, where it is the runtime itself that says nothing.

        1. Consul is away: the proof says so, and nothing is concluded about the runtime for as long as it does.
        2. The proof is begun anew, of the same run, since its job was edited in place; and by now the runtime hangs.
        3. Nobody asks Consul any more before the runtime answers. What was said of it would hold for ever.
        """
        known = self._fleet.get(candidate.user_id)
        proof = known.proof if known is not None else None
        if proof is not None and proof.reason in OUTAGES and _is_about(proof, candidate):
            self._tell(candidate, self._not_ready(candidate, "its server does not answer"))

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, len(self._tasks) / LOOKS_PER_SECOND))

    async def _look(self, stack: Stack, candidate: Candidate) -> Proof:
        deadline = Deadline.after(self._upstream_timeout, f"prove {stack.job_id}")

        async def read_password() -> Password:
            return await self._passwords.read(stack, candidate.secret_version, deadline)

        known = self._fleet.get(stack.user_id)
        if known is not None and (doubt := known.doubt_of(candidate.address)):
            # It may be another's by now, who would learn the password.
            return self._not_ready(candidate, doubt, Reason.CONTESTED)
        try:
            missing = await why_not_vouched(
                self._catalog, stack.job_id, candidate.allocation_id, candidate.address, deadline
            )
            if missing is not None:
                return self._not_ready(candidate, missing)
            proof = await self._prober.prove(
                address=candidate.address,
                allocation_id=candidate.allocation_id,
                expected_version=candidate.version,
                directory=None,
                read_password=read_password,
                deadline=deadline,
            )
        except SecretMissing:
            detail = f"version {candidate.secret_version} of its secret is not in Vault, or has no password"
            return self._not_ready(candidate, detail, Reason.SECRET_MISSING)
        except UpstreamError as error:
            return self._not_ready(candidate, error.message, UNAVAILABLE.get(error.system))
        except DeadlineExceeded as error:
            return self._not_ready(candidate, error.message)
        if proof.result is ProofResult.REFUSES_PASSWORD:
            self._passwords.forget(stack, candidate.secret_version)
        return proof

    def _not_ready(self, candidate: Candidate, detail: str, reason: Reason | None = None) -> Proof:
        return Proof(
            result=ProofResult.NOT_READY,
            address=candidate.address,
            allocation_id=candidate.allocation_id,
            detail=detail,
            reason=reason,
            at=self._now(),
        )

    def _tell(self, candidate: Candidate, looked: Proof) -> None:
        known = self._fleet.get(candidate.user_id)
        proof = replace(looked, restarts=candidate.restarts)
        if known is None or (known.proof is not None and _same_news(known.proof, proof)):
            return
        self._fleet.prove(candidate.user_id, proof)


_UNHEARD = frozenset({Liveness.SILENT, Liveness.HUNG})
_FINAL = frozenset({ProofResult.PROVEN, ProofResult.OPEN, ProofResult.WRONG_VERSION})


def _is_final(proof: Proof | None, candidate: Candidate) -> bool:
    return proof is not None and _is_about(proof, candidate) and proof.result in _FINAL


def _is_about(proof: Proof, candidate: Candidate) -> bool:
    return (proof.allocation_id, proof.restarts) == (candidate.allocation_id, candidate.restarts)


def _same_news(old: Proof, new: Proof) -> bool:
    return replace(old, at=new.at) == new


class SteadyProbes:
    """Each proven runtime is looked at once per interval, spread evenly over it, and at once when it is suspected."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        conditions: Conditions,
        prober: RuntimeProber,
        vouching: Vouching,
        now: Clock,
        interval: timedelta,
        patience: timedelta,
    ) -> None:
        self._fleet = fleet
        self._conditions = conditions
        self._prober = prober
        self._vouching = vouching
        self._now = now
        self._interval = interval.total_seconds()
        # A look that is still under way when the next one is due takes its turn away: a frozen runtime, whose looks all
        # take their whole time, would be found out half as fast.
        self._patience = min(patience.total_seconds(), self._interval * SHARE_OF_INTERVAL)
        self._looking: dict[UserId, asyncio.Task[None]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self.pulse = Pulse()

    async def round(self) -> None:
        """
        Begin a look at every proven runtime; takes one interval, or longer where there are too many for it.

        A look that is still waiting for its answer is not begun again, and keeps nobody else waiting.
        """
        runtimes = [known for known in self._fleet if _proven_address(known.stack) is not None]
        pause = max(self._interval / max(len(runtimes), 1), 1 / PROBES_PER_SECOND)
        for known in runtimes:
            self._begin(known.stack, steady=True)
            await asyncio.sleep(pause)
        if not runtimes:
            await asyncio.sleep(self._interval)
        silent = [known.stack.job_id for known in runtimes if known.silent_probes > 0]
        await self._conditions.report(ConditionKind.MASS_SILENCE, silence(silent, len(runtimes)))
        self.pulse.beat()

    def look_now(self, user_id: UserId) -> None:
        """Look at the runtime at once: something else says that it may not be well."""
        known = self._fleet.get(user_id)
        if known is not None:
            self._begin(known.stack, steady=False)

    async def close(self) -> None:
        """Give up all looks and wait until nothing of them runs."""
        tasks = [*self._looking.values(), *self._asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, stack: Stack, *, steady: bool) -> None:
        if stack.user_id in self._looking:
            return
        task = asyncio.create_task(self._probe(stack, steady=steady), name=f"probe {stack.job_id}")
        self._looking[stack.user_id] = task
        task.add_done_callback(lambda done: self._done(stack, done))

    def _done(self, stack: Stack, task: "asyncio.Task[None]") -> None:
        self._looking.pop(stack.user_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("probe failed", job_id=stack.job_id, error=str(error), kind=type(error).__name__)

    async def _probe(self, stack: Stack, *, steady: bool) -> None:
        address = _proven_address(stack)
        runtime = stack.status.runtime
        if address is None or runtime is None:
            return
        liveness = await self._prober.liveness(
            address, Deadline.after(self._patience, f"probe {stack.job_id}")
        )
        self._fleet.probed(stack.user_id, (runtime.allocation_id, runtime.restarts), liveness, steady=steady)
        known = self._fleet.get(stack.user_id)
        if known is not None and known.silent_probes == 1 and len(self._asking) < ASKED_AT_ONCE:
            # By itself, so that the next look need not wait for it.
            task = asyncio.create_task(self._ask(stack), name=f"ask {stack.job_id}")
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, stack: Stack) -> None:
        """
        See whether a runtime that begins to be silent is at work: then it may only be slow, and is given longer.

        That it cannot be seen takes nothing back of what was seen before.
        """
        deadline = Deadline.after(self._patience, f"ask what the sessions of {stack.job_id} do")
        activity = await self._vouching.activity(stack, deadline)
        known = self._fleet.get(stack.user_id)
        if activity is not None and known is not None and known.stack.status.runtime == stack.status.runtime:
            self._fleet.saw_activity(stack.user_id, activity, self._now())


def _proven_address(stack: Stack) -> Address | None:
    runtime = stack.status.runtime
    return runtime.address if stack.status.phase is Phase.RUNNING and runtime is not None else None
