"""
Brings stacks to where they should be: claim, observe, plan, apply, save; one stack at a time, many at once.

A pass may be repeated, interrupted and taken over at any point. Every effect is idempotent and named after the stack; the
row moves before an effect that relies on the move, and a save under a lost claim changes nothing.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import assert_never

import structlog

from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.lifecycle.decisions import successor_of
from opencode_lifecycle.lifecycle.fleet import Fleet
from opencode_lifecycle.lifecycle.planning import (
    CheckServiceGone,
    ClearLiveFiles,
    DestroySecret,
    DestroyWorkspace,
    FinishDeletion,
    Limits,
    Look,
    MakeSecret,
    MakeWorkspace,
    Move,
    Part,
    PublishLiveFiles,
    PurgeJob,
    RegisterJob,
    Rest,
    RotateSecret,
    Step,
    StopJob,
    Work,
    failed,
    plan,
)
from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.lifecycle.wanted import Site, job_variables, wanted_facets
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    ClaimLost,
    DeadlineExceeded,
    IndexConflict,
    UpstreamDenied,
    UpstreamError,
    UpstreamRejected,
    VersionConflict,
)
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.identifiers import VolumeId, new_event_id
from opencode_lifecycle.model.operation import Event, OperationState, PhaseEntered
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.stack import KeptWorkspace, Stack, Status, Workspace
from opencode_lifecycle.model.states import Desired, Health, Phase, Reason
from opencode_lifecycle.ports.orchestrator import LiveFiles, Orchestrator, Workspaces
from opencode_lifecycle.ports.secrets import PasswordStore
from opencode_lifecycle.ports.service_catalog import ServiceCatalog
from opencode_lifecycle.ports.stores import Claimed, OperationOutcome, Progress, StackStore

log = structlog.get_logger(__name__)

STEPS_OF_A_PASS = 40
"""More steps than any sound pass takes; a plan that goes round in circles ends here and is tried later."""

_UNAVAILABLE = {
    "nomad": Reason.NOMAD_UNAVAILABLE,
    "vault": Reason.VAULT_UNAVAILABLE,
    "consul": Reason.CONSUL_UNAVAILABLE,
}


@dataclass(slots=True)
class _Pass:
    """One claimed stack on its way. `saved` is its status as the database has it."""

    claimed: Claimed
    work: Work
    release: Release
    saved: Status
    receipt: dict[str, object]


class _NotYet(Exception):
    """Something takes its time; *message* says what. Not a failure."""


class Reconciler:
    """Takes one claimed stack as far as it will go now. Never raises for what a neighbour does."""

    def __init__(
        self,
        *,
        stacks: StackStore,
        releases: Releases,
        orchestrator: Orchestrator,
        workspaces: Workspaces,
        live_files: LiveFiles,
        passwords: PasswordStore,
        catalog: ServiceCatalog,
        fleet: Fleet,
        site: Site,
        limits: Limits,
        now: Clock,
        upstream_timeout: timedelta,
        random: Random,
    ) -> None:
        self._stacks = stacks
        self._releases = releases
        self._orchestrator = orchestrator
        self._workspaces = workspaces
        self._live_files = live_files
        self._passwords = passwords
        self._catalog = catalog
        self._fleet = fleet
        self._site = site
        self._limits = limits
        self._now = now
        self._upstream_timeout = upstream_timeout.total_seconds()
        self._random = random
        self._outage = Backoff(first=0.5, most=10)

    async def reconcile(self, claimed: Claimed) -> None:
        """Take *claimed* to rest, or as far as its neighbours allow, and end the claim."""
        current = await self._begin(claimed)
        try:
            await self._go(current)
        except ClaimLost:
            log.info("claim lost", job_id=claimed.stack.job_id)
        except _NotYet as error:
            status = replace(current.work.stack.status, message=str(error))
            await self._save(
                current, Progress(status=status, next_attempt_at=self._now() + timedelta(seconds=1))
            )
        except (UpstreamError, DeadlineExceeded) as error:
            await self._wait_out(current, error)

    async def _begin(self, claimed: Claimed) -> _Pass:
        stack = claimed.stack
        release, needs = await self._releases.get(stack.intent.wanted_release)
        known = self._fleet.put(stack)
        work = Work(
            stack=stack,
            observation=self._fleet.observation(stack.job_id),
            proof=known.proof,
            liveness=known.liveness,
            silent_probes=known.silent_probes,
            wanted=self._wanted(stack, release),
            needs=needs,
            installation=self._site.installation,
        )
        return _Pass(claimed, work, release, stack.status, {})

    def _wanted(self, stack: Stack, release: Release) -> Facets:
        return wanted_facets(stack, release, self._site, secret_version=stack.status.secret_version or 0)

    async def _go(self, current: _Pass) -> None:
        for _ in range(STEPS_OF_A_PASS):
            step = plan(current.work, now=self._now(), limits=self._limits)
            match step:
                case Move(status=status):
                    current.work = replace(current.work, stack=replace(current.work.stack, status=status))
                case Rest():
                    await self._rest(current, step)
                    return
                case FinishDeletion():
                    await self._finish_deletion(current)
                    return
                case _:
                    await self._save_moves(current)
                    await self._apply(current, step)
        log.error(
            "plan goes in circles", job_id=current.work.stack.job_id, phase=current.work.stack.status.phase
        )
        await self._stacks.release_claim(current.claimed, next_attempt_at=self._now() + timedelta(minutes=1))

    # --- effects

    async def _apply(self, current: _Pass, step: Step) -> None:
        """Take one step with an effect and learn from its answer."""
        stack = current.work.stack
        deadline = Deadline.after(self._upstream_timeout, f"{type(step).__name__} for {stack.job_id}")
        log.debug("step", step=type(step).__name__, job_id=stack.job_id, phase=stack.status.phase)
        match step:
            case Look():
                await self._look(current, deadline)
            case MakeSecret():
                version = await self._passwords.ensure(stack.job_id, deadline)
                self._learn(current, Part.SECRET, secret_version=version)
            case RotateSecret(expected=expected):
                await self._rotate(current, expected, deadline)
            case MakeWorkspace():
                found = await self._workspaces.ensure(stack.job_id, deadline)
                workspace = Workspace(
                    volume_id=VolumeId(found.volume_id), node_id=found.node_id, path=found.path
                )
                self._learn(current, Part.WORKSPACE, workspace=workspace)
            case PublishLiveFiles():
                await self._publish_live_files(current, deadline)
            case RegisterJob(expected_index=expected_index, facets=facets):
                await self._register(current, expected_index, facets, deadline)
            case StopJob() | PurgeJob():
                purge = isinstance(step, PurgeJob)
                index = await self._orchestrator.deregister(stack.job_id, purge=purge, deadline=deadline)
                self._fleet.wrote(stack.job_id, index)
                current.receipt["job"] = "purged" if purge else "stopped"
                await self._look(current, deadline)
            case DestroySecret():
                await self._passwords.destroy(stack.job_id, deadline)
                self._learn(current, Part.SECRET, receipt=("secret", "destroyed"), secret_version=None)
            case ClearLiveFiles():
                await self._live_files.clear(stack.job_id, deadline)
                self._learn(current, Part.LIVE_FILES, receipt=("variables", "deleted"))
            case DestroyWorkspace():
                await self._destroy_workspace(current, deadline)
            case CheckServiceGone():
                await self._check_service_gone(current, deadline)
            case Move() | Rest() | FinishDeletion():
                raise AssertionError(step)
            case unreachable:
                assert_never(unreachable)

    def _learn(
        self, current: _Pass, part: Part, *, receipt: tuple[str, str] | None = None, **facts: object
    ) -> None:
        work = current.work
        status = replace(work.stack.status, **facts)  # type: ignore[arg-type]  # names and types are checked by use
        stack = replace(work.stack, status=status)
        current.work = replace(
            work, stack=stack, done=work.done | {part}, wanted=self._wanted(stack, current.release)
        )
        if receipt is not None:
            current.receipt[receipt[0]] = receipt[1]

    async def _look(self, current: _Pass, deadline: Deadline) -> None:
        stack = current.work.stack
        seen = await self._orchestrator.observe(stack.job_id, deadline)
        self._fleet.see(stack.job_id, seen)
        current.work = replace(current.work, observation=seen)

    async def _rotate(self, current: _Pass, expected: int, deadline: Deadline) -> None:
        """Write the new password and save that it is written, before a job may be pinned to it."""
        stack = current.work.stack
        version = await self._passwords.rotate(stack.job_id, expected=expected, deadline=deadline)
        self._learn(current, Part.SECRET, secret_version=version, rotation_done=stack.intent.rotation)
        await self._save_moves(current)

    async def _publish_live_files(self, current: _Pass, deadline: Deadline) -> None:
        release = current.release
        instructions = await self._live_files.publish(release.instructions, deadline)
        managed = await self._live_files.publish(release.managed_config, deadline)
        await self._live_files.point(
            current.work.stack.job_id, instructions=instructions, managed=managed, deadline=deadline
        )
        self._learn(current, Part.LIVE_FILES)

    async def _register(
        self, current: _Pass, expected_index: int, facets: Facets, deadline: Deadline
    ) -> None:
        """
        Register, and look for ourselves when it turns out that somebody else wrote before us.

        1. We register; Nomad commits; the reply is lost.
        2. The next try finds the job at another index: a conflict.
        3. The look shows a job with our revision, which the plan adopts. No second version is made.
        """
        stack = current.work.stack
        variables = job_variables(stack, current.release, self._site, facets)
        job = await self._orchestrator.render(current.release.template, variables, deadline)
        try:
            index = await self._orchestrator.register(job, expected_index=expected_index, deadline=deadline)
        except IndexConflict:
            await self._look(current, deadline)
            return
        self._fleet.wrote(stack.job_id, index)
        now = self._now()
        phase = Phase.STARTING if stack.status.phase is Phase.PENDING else stack.status.phase
        status = replace(
            stack.status,
            phase=phase,
            phase_since=now if phase is not stack.status.phase else stack.status.phase_since,
            reason=None,
            message="registered; waiting for an allocation" if phase is Phase.STARTING else "",
            health=Health.STARTING if phase is Phase.STARTING else stack.status.health,
            facets=facets,
            release=current.release.id,
            job_modify_index=index,
        )
        current.work = replace(
            current.work,
            stack=replace(stack, status=status),
            observation=self._fleet.observation(stack.job_id),
            proof=None if phase is Phase.STARTING else current.work.proof,
            done=current.work.done | {Part.JOB},
        )

    async def _destroy_workspace(self, current: _Pass, deadline: Deadline) -> None:
        stack = current.work.stack
        workspace = stack.status.workspace
        volume_id = workspace.volume_id if workspace is not None else None
        if volume_id is None:
            found = await self._workspaces.find(stack.job_id, deadline)
            volume_id = VolumeId(found.volume_id) if found is not None else None
        if volume_id is not None:
            await self._workspaces.destroy(volume_id, deadline)
        self._learn(current, Part.WORKSPACE, receipt=("workspace", "deleted"), workspace=None)

    async def _check_service_gone(self, current: _Pass, deadline: Deadline) -> None:
        stack = current.work.stack
        left = await self._catalog.instances(stack.job_id, deadline)
        if left and self._now() - stack.status.phase_since < self._limits.stop:
            raise _NotYet("waiting for Consul to forget the service")
        outcome = f"{len(left)} instances still listed by Consul" if left else "deregistered"
        self._learn(current, Part.SERVICE, receipt=("service", outcome))

    # --- saving

    async def _save_moves(self, current: _Pass) -> None:
        """Save what the next effect relies on: the phase, and which generations were seen to."""
        status, saved = current.work.stack.status, current.saved
        if (status.phase, status.fresh_start_done, status.rotation_done) != (
            saved.phase,
            saved.fresh_start_done,
            saved.rotation_done,
        ):
            await self._save(current, Progress(status=status, next_attempt_at=self._now(), keep_claim=True))

    async def _save(self, current: _Pass, progress: Progress) -> None:
        stack = current.work.stack
        if progress.status.phase is not current.saved.phase:
            status = progress.status
            event = Event(
                id=new_event_id(),
                user_id=stack.user_id,
                kind=f"phase.{status.phase}",
                actor="service",
                at=self._now(),
                generation=stack.intent.generation,
                data={"from": current.saved.phase, "reason": status.reason, "message": status.message},
            )
            progress = replace(
                progress, events=(event,), entered=PhaseEntered(phase=status.phase, at=status.phase_since)
            )
            log.info(
                "phase entered",
                job_id=stack.job_id,
                phase=status.phase,
                before=current.saved.phase,
                reason=status.reason,
                message=status.message,
            )
        saved = await self._stacks.save(current.claimed, progress)
        current.saved = progress.status
        current.work = replace(current.work, stack=saved)
        self._fleet.put(saved)

    async def _rest(self, current: _Pass, rest: Rest) -> None:
        until = self._now() + rest.wait if rest.wait is not None else None
        outcome = None
        if rest.succeeded is not None:
            status = rest.status
            outcome = (
                OperationOutcome(state=OperationState.SUCCEEDED)
                if rest.succeeded
                else OperationOutcome(
                    state=OperationState.FAILED, reason=status.reason, message=status.message
                )
            )
        await self._save(current, Progress(status=rest.status, next_attempt_at=until, outcome=outcome))

    async def _wait_out(self, current: _Pass, error: UpstreamError | DeadlineExceeded) -> None:
        """Keep the intent, say what is in the way, and come back. Nothing is concluded from not having been served."""
        stack = current.work.stack
        status = stack.status
        system = error.system if isinstance(error, UpstreamError) else ""
        reason = _UNAVAILABLE.get(system, Reason.UNKNOWN)
        refused = isinstance(error, UpstreamRejected) and not isinstance(
            error, IndexConflict | VersionConflict
        )
        level = log.error if isinstance(error, UpstreamDenied) else log.warning
        level("held up", job_id=stack.job_id, phase=status.phase, kind=error.code, error=error.message)
        try:
            if refused and stack.intent.desired is Desired.RUNNING:
                await self._give_up(current.claimed, Reason.JOB_REJECTED, error.message)
                return
            overdue = self._now() - status.phase_since >= self._limits.start
            if overdue and status.phase in {Phase.PENDING, Phase.STARTING}:
                status = failed(stack, reason, error.message, self._now())
                outcome = OperationOutcome(state=OperationState.FAILED, reason=reason, message=error.message)
            else:
                settled = status.phase in {Phase.RUNNING, Phase.STOPPED}
                status = replace(
                    status,
                    reason=status.reason if settled else reason,
                    message=status.message if settled else error.message,
                    attempts=status.attempts + 1,
                )
                outcome = None
            pause = timedelta(seconds=self._outage.seconds(status.attempts, self._random))
            await self._save(
                current, Progress(status=status, next_attempt_at=self._now() + pause, outcome=outcome)
            )
        except ClaimLost:
            log.info("claim lost", job_id=stack.job_id)

    async def _give_up(self, claimed: Claimed, reason: Reason, message: str) -> None:
        """Fail for good: the same request would be refused again. A person must change something and ask anew."""
        status = failed(claimed.stack, reason, message, self._now())
        outcome = OperationOutcome(state=OperationState.FAILED, reason=reason, message=message)
        try:
            saved = await self._stacks.save(
                claimed,
                Progress(
                    status=status,
                    next_attempt_at=None,
                    entered=PhaseEntered(phase=status.phase, at=status.phase_since),
                    outcome=outcome,
                ),
            )
        except ClaimLost:
            log.info("claim lost", job_id=claimed.stack.job_id)
            return
        self._fleet.put(saved)
        log.error("given up", job_id=claimed.stack.job_id, reason=reason, message=message)

    async def _finish_deletion(self, current: _Pass) -> None:
        stack = current.work.stack
        workspace = stack.status.workspace
        successor = successor_of(stack, now=self._now())
        keep = workspace is not None and not stack.intent.delete_workspace
        kept = None
        if workspace is not None and keep and successor is None:
            kept = KeptWorkspace(
                user_id=stack.user_id, job_id=stack.job_id, workspace=workspace, kept_at=self._now()
            )
        current.receipt.setdefault("job", "absent")
        current.receipt.setdefault("workspace", "kept" if keep else "none")
        receipt = {**current.receipt, "job_id": stack.job_id, "at": self._now().isoformat()}
        event = Event(
            id=new_event_id(),
            user_id=stack.user_id,
            kind="stack.deleted",
            actor="service",
            at=self._now(),
            generation=stack.intent.generation,
            data=receipt,
        )
        await self._stacks.finish_deletion(
            current.claimed,
            outcome=OperationOutcome(state=OperationState.SUCCEEDED, receipt=receipt),
            events=(event,),
            kept=kept,
            successor=successor,
        )
        log.info("stack deleted", job_id=stack.job_id, workspace=receipt["workspace"])
        self._fleet.remove(stack.user_id)
        again = await self._stacks.get(stack.user_id)
        if again is not None:
            self._fleet.put(again)
