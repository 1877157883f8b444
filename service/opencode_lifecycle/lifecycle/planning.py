"""
What to do next for one stack. Pure: everything it knows is in its argument, everything it decides is in its result.

Level-triggered: it asks what is true now, never what just happened, so it may be called at any time, by any replica,
after any crash. It names one step; the reconciler takes it and asks again. Asked about its own result it names `Rest`.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any, assert_never

from opencode_lifecycle.lifecycle.steps import (
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
)
from opencode_lifecycle.model.staleness import staleness_of
from opencode_lifecycle.model.facets import Facet, Facets
from opencode_lifecycle.model.observation import AllocationSeen, JobSeen, Observation, TaskTrouble
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.stack import Runtime, Stack, Status
from opencode_lifecycle.model.states import (
    FINAL_REASONS,
    OUTAGES,
    Desired,
    Health,
    MigrationState,
    Phase,
    Reason,
    check_move,
)
from opencode_lifecycle.ports.prober import Liveness


def plan(work: Work, *, now: datetime, limits: Limits) -> Step:
    """Name the next step for the stack."""
    if work.observation is None:
        if Part.JOB in work.done:
            return Rest(work.stack.status, limits.poll)
        return Look()
    match work.stack.intent.desired:
        case Desired.RUNNING:
            return _plan_running(work, work.observation, now, limits)
        case Desired.STOPPED:
            return _plan_stopped(work, work.observation, now, limits)
        case Desired.DELETED:
            return _plan_deleted(work, work.observation, now, limits)
        case unreachable:
            assert_never(unreachable)


def entered(
    stack: Stack, to: Phase, *, now: datetime, reason: Reason | None = None, message: str = "", **changes: Any
) -> Status:
    """Return the status of *stack* on entering phase *to*. The one function that moves a stack."""
    status = stack.status
    check_move(stack.job_id, status.phase, to)
    since = status.phase_since if to is status.phase else now
    return replace(status, phase=to, phase_since=since, reason=reason, message=message, **changes)


def retry_at(stack: Stack, limits: Limits) -> datetime:
    """Return when a failed stack is to be tried again: spread by its name, so that asking twice gives the same answer."""
    attempts = stack.status.attempts
    # A neighbour that was away for long says nothing about how often this stack failed.
    backoff = limits.outage if stack.status.reason in OUTAGES else limits.retry
    seconds = backoff.seconds(max(attempts, 1), Random(f"{stack.job_id} {attempts}"))
    return stack.status.phase_since + timedelta(seconds=seconds)


# --- running ---------------------------------------------------------------------------------------------------------


def _plan_running(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    job = seen.job
    if isinstance(job, JobSeen) and not job.belongs_to(work.installation):
        return _foreign(work, job, now)
    if stack.intent.fresh_start > stack.status.fresh_start_done:
        return _plan_fresh_start(work, seen, now, limits)
    match stack.status.phase:
        case Phase.STOPPING:
            return _plan_interrupted_stop(work, seen, now, limits)
        case Phase.STOPPED | Phase.DELETING:
            return Move(entered(stack, Phase.PENDING, now=now))
        case Phase.FAILED:
            return _plan_failed(work, seen, now, limits)
        case Phase.PENDING:
            return _plan_pending(work, seen, now, limits)
        case Phase.STARTING:
            return _plan_starting(work, seen, now, limits)
        case Phase.RUNNING:
            return _plan_kept_running(work, seen, now, limits)
        case unreachable:
            assert_never(unreachable)


def _plan_interrupted_stop(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    """Go on from a stop that is no longer wanted: what was not stopped yet runs on, what was must end first."""
    if isinstance(seen.job, JobSeen) and not seen.job.stopped:
        return Move(entered(work.stack, Phase.PENDING, now=now))
    return _wait_for_end(work, seen, now, limits) or Move(entered(work.stack, Phase.PENDING, now=now))


def _foreign(work: Work, job: JobSeen, now: datetime) -> Step:
    owner = job.meta.get("managed_by") or "nobody we know"
    message = f"a job {job.job_id} exists that is marked as {owner}'s; it is left alone. Rename or remove it"
    if work.stack.status.reason is Reason.FOREIGN_JOB and work.stack.status.phase is Phase.FAILED:
        return _rest_failed(work, None)
    return Move(failed(work.stack, Reason.FOREIGN_JOB, message, now))


def _plan_fresh_start(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    """
    End the old allocation before a new one is asked for, exactly once.

    1. A recreate is accepted: `fresh_start` is ahead of `fresh_start_done`.
    2. The job is stopped; we may die and do it again, which changes nothing.
    3. Nothing runs any more: `fresh_start_done` is saved, together with the phase that starts anew.
    4. Only then is the job registered. Dying before it, we register; dying after it, we adopt what runs, because the
       saved generation says that its predecessor is gone.
    """
    stack = work.stack
    running = isinstance(seen.job, JobSeen) and not seen.job.stopped
    if (running or seen.live) and stack.status.phase is not Phase.STOPPING:
        return Move(
            entered(
                stack,
                Phase.STOPPING,
                now=now,
                reason=Reason.RECREATE,
                message="stopping in order to start afresh",
            )
        )
    if running:
        return StopJob()
    waiting = _wait_for_end(work, seen, now, limits)
    if waiting is not None:
        return waiting
    return Move(
        entered(
            stack, Phase.PENDING, now=now, fresh_start_done=stack.intent.fresh_start, runtime=None, attempts=0
        )
    )


def _plan_failed(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    if isinstance(seen.job, JobSeen) and not seen.job.stopped:
        return StopJob()
    asked_again = stack.status.attempts == 0 or not stack.is_settled
    if stack.status.reason in FINAL_REASONS and not asked_again:
        return _rest_failed(work, None)
    if not asked_again and now < (due := retry_at(stack, limits)):
        return _rest_failed(work, due - now)
    waiting = _wait_for_end(work, seen, now, limits)
    return waiting or Move(entered(stack, Phase.PENDING, now=now, reason=stack.status.reason))


def _rest_failed(work: Work, wait: timedelta | None) -> Rest:
    status = replace(work.stack.status, observed_generation=work.stack.intent.generation)
    return Rest(status, wait, succeeded=False)


def _plan_pending(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    job = seen.job
    runs = isinstance(job, JobSeen) and not job.stopped
    if not runs and (waiting := _wait_for_end(work, seen, now, limits)) is not None:
        return waiting
    preparation = _prepare(work)
    if preparation is not None:
        return preparation
    if not isinstance(job, JobSeen):
        return RegisterJob(0, work.wanted)
    if job.stopped:
        return RegisterJob(job.modify_index, work.wanted)
    # It runs already: a registration whose reply was lost, or whose writer died. Adopted as it is, since replacing it
    # could cut off an agent at work; if it is stale, that shows.
    facets = _facets_in(job, work)
    if facets is None:
        return Move(failed(stack, Reason.FOREIGN_JOB, f"job {job.job_id} lacks the facets in its meta", now))
    is_as_wanted = facets.revision == work.wanted.revision
    release = stack.intent.wanted_release if is_as_wanted else stack.status.release
    return Move(
        entered(
            stack,
            Phase.STARTING,
            now=now,
            facets=facets,
            release=release,
            job_modify_index=job.modify_index,
        )
    )


def _prepare(work: Work) -> Step | None:
    stack = work.stack
    if work.needs.secret and Part.SECRET not in work.done:
        if stack.intent.rotation > stack.status.rotation_done:
            return RotateSecret(stack.status.secret_version or 0)
        return MakeSecret()
    if work.needs.workspace and Part.WORKSPACE not in work.done:
        return MakeWorkspace()
    if work.needs.live_files and Part.LIVE_FILES not in work.done:
        return PublishLiveFiles()
    return None


def _facets_in(job: JobSeen, work: Work) -> Facets | None:
    """
    Read from the job's meta what it was registered with.

    What meta does not carry is as it was recorded; the live files are as wanted once they were published in this pass.
    """
    recorded = work.stack.status.facets or work.wanted
    if Part.LIVE_FILES in work.done:
        recorded = replace(recorded, prompt=work.wanted.prompt, config=work.wanted.config)
    try:
        return replace(
            recorded,
            image=job.meta[Facet.IMAGE],
            opencode_version=job.meta[Facet.OPENCODE_VERSION],
            template=job.meta[Facet.TEMPLATE],
            environment=job.meta[Facet.ENVIRONMENT],
            resources=job.meta[Facet.RESOURCES],
            secret_version=int(job.meta[Facet.SECRET_VERSION]),
        )
    except (KeyError, ValueError):
        return None


def _current_allocation(seen: Observation, job: JobSeen) -> AllocationSeen | None:
    """Return the newest allocation of the job as it is registered now; those of earlier versions are on their way out."""
    for allocation in seen.allocations:
        if allocation.job_version == job.version:
            return allocation
    return None


def _plan_starting(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    job = seen.job
    if not isinstance(job, JobSeen) or job.stopped:
        return Move(
            entered(
                stack,
                Phase.PENDING,
                now=now,
                reason=Reason.LOST,
                message="its job was stopped or removed outside",
            )
        )
    allocation = _current_allocation(seen, job)
    proof = work.proof
    if proof is not None and allocation is not None and _is_about(proof, allocation):
        if proof.result is ProofResult.PROVEN:
            return Move(_proven(work, job, allocation, proof, now))
        if proof.result is ProofResult.OPEN:
            return _stop_open(work, now)
        if proof.result is ProofResult.WRONG_VERSION:
            return Move(failed(stack, Reason.WRONG_VERSION, proof.detail, now))
    reason, message = _why_not_running(seen, allocation, proof)
    overdue = now - stack.status.phase_since >= limits.start
    if overdue and reason not in OUTAGES:
        return Move(
            failed(stack, reason or Reason.NEVER_HEALTHY, message or "it was not healthy in time", now)
        )
    if overdue:
        # It may be as healthy as can be: it cannot be proven while a neighbour is away.
        return Rest(replace(stack.status, reason=reason, message=message), limits.poll)
    left = limits.start - (now - stack.status.phase_since)
    status = replace(stack.status, reason=reason, message=message, health=Health.STARTING)
    return Rest(status, min(left, limits.poll))


def _is_about(proof: Proof, allocation: AllocationSeen) -> bool:
    """Whether *proof* was given by this very run of the allocation's task."""
    return (proof.allocation_id, proof.restarts) == (allocation.id, allocation.restarts)


def _why_not_running(
    seen: Observation, allocation: AllocationSeen | None, proof: Proof | None
) -> tuple[Reason | None, str]:
    if (allocation is None or not seen.live) and seen.placement_failure is not None:
        return Reason.NO_CAPACITY, seen.placement_failure
    if allocation is not None and allocation.trouble is not None:
        match allocation.trouble:
            case TaskTrouble.SECRET:
                return Reason.SECRET_MISSING, allocation.trouble_message
            case TaskTrouble.DRIVER | TaskTrouble.EXITED | TaskTrouble.OUT_OF_MEMORY:
                return Reason.DRIVER_FAILED, allocation.trouble_message
            case unreachable:
                assert_never(unreachable)
    if proof is not None and allocation is not None and _is_about(proof, allocation):
        return proof.reason, proof.detail
    return None, "waiting for an allocation" if allocation is None else "waiting for its server to answer"


def _proven(work: Work, job: JobSeen, allocation: AllocationSeen, proof: Proof, now: datetime) -> Status:
    stack = work.stack
    facets = stack.status.facets or work.wanted
    runtime = Runtime(
        allocation_id=allocation.id,
        job_version=job.version,
        node=allocation.node_name,
        image=facets.image,
        opencode_version=proof.version,
        revision=facets.revision,
        secret_version=facets.secret_version,
        release=stack.status.release or stack.intent.wanted_release,
        restarts=allocation.restarts,
        started_at=allocation.started_at,
        address=proof.address,
        proven_at=proof.at,
    )
    return entered(stack, Phase.RUNNING, now=now, runtime=runtime, health=Health.HEALTHY, attempts=0)


def _stop_open(work: Work, now: datetime) -> Step:
    """A server without a password is an open shell: it is stopped, and stays so until a person has looked."""
    message = "the server answers without credentials; it was stopped. Check its secret and its template, then recover"
    return Move(failed(work.stack, Reason.OPEN_WITHOUT_PASSWORD, message, now))


def failed(stack: Stack, reason: Reason, message: str, now: datetime) -> Status:
    """The failure speaks for the generation it met, so that only a newer one, or a new request, is tried at once."""
    return replace(
        entered(stack, Phase.FAILED, now=now, reason=reason, message=message),
        observed_generation=stack.intent.generation,
        phase_since=now,
        attempts=stack.status.attempts + 1,
        health=Health.UNKNOWN,
        runtime=None,
    )


def _plan_kept_running(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    job = seen.job
    runtime = stack.status.runtime
    if not isinstance(job, JobSeen) or job.stopped:
        message = "its job was stopped or removed outside; it is started again"
        return Move(entered(stack, Phase.PENDING, now=now, reason=Reason.LOST, message=message, runtime=None))
    if runtime is None or not any(_is_same(allocation, runtime) for allocation in seen.allocations):
        message = "its allocation ended or restarted; the next one is being proven"
        return Move(
            entered(stack, Phase.STARTING, now=now, reason=Reason.LOST, message=message, runtime=None)
        )
    if work.liveness is Liveness.OPEN:
        return _stop_open(work, now)
    if job.modify_index != stack.status.job_modify_index:
        facets = _facets_in(job, work)
        return Move(
            replace(stack.status, job_modify_index=job.modify_index, facets=facets or stack.status.facets)
        )
    stale = staleness_of(stack.status, work.wanted, desired=stack.intent.desired)
    was_refused = stack.status.migration_state is MigrationState.FAILED and stack.is_settled
    if stale and not was_refused and all(item.facet is Facet.LABELS for item in stale):
        # Labels live in Consul service meta, which Nomad changes in place: same allocation, no restart.
        return RegisterJob(job.modify_index, work.wanted)
    if was_refused and stale:
        return Rest(replace(stack.status, health=_health(work, limits)), None)
    status = replace(
        stack.status,
        observed_generation=stack.intent.generation,
        health=_health(work, limits),
        migration_state=MigrationState.STALE if stale else MigrationState.CURRENT,
        reason=None,
        message="",
        attempts=0,
    )
    return Rest(status, None, succeeded=True)


def _is_same(allocation: AllocationSeen, runtime: Runtime) -> bool:
    return (
        allocation.id == runtime.allocation_id
        and allocation.restarts == runtime.restarts
        and not allocation.client_status.is_terminal
        and allocation.desired_status == "run"
    )


def _health(work: Work, limits: Limits) -> Health:
    if work.silent_probes >= limits.silent_probes:
        return Health.UNRESPONSIVE
    return Health.DEGRADED if work.silent_probes > 0 else Health.HEALTHY


# --- stopped ---------------------------------------------------------------------------------------------------------


def _wait_for_end(work: Work, seen: Observation, now: datetime, limits: Limits) -> Rest | None:
    """
    Rest while an allocation may still run: two servers must never share a workspace.

    The wait itself has no end, since nothing may be concluded from silence; the request that led to it is told after the
    deadline that it failed.
    """
    if not seen.live:
        return None
    status = work.stack.status
    message = f"waiting for allocation {seen.live[0].id[:8]} on {seen.live[0].node_name} to end"
    if now - status.phase_since < limits.stop:
        return Rest(replace(status, message=message), limits.poll)
    message += f", longer than {limits.stop.total_seconds():.0f} s; is its node reachable?"
    outcome = None if work.stack.intent.desired is Desired.DELETED else False
    return Rest(replace(status, message=message), limits.poll, succeeded=outcome)


def _plan_stopped(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    job = seen.job
    is_foreign = isinstance(job, JobSeen) and not job.belongs_to(work.installation)
    runs = isinstance(job, JobSeen) and not job.stopped
    if not is_foreign and (runs or seen.live):
        if stack.status.phase is not Phase.STOPPING:
            return Move(entered(stack, Phase.STOPPING, now=now))
        if runs:
            return StopJob()
        waiting = _wait_for_end(work, seen, now, limits)
        if waiting is not None:
            return waiting
    if stack.status.phase is not Phase.STOPPED:
        return Move(
            entered(
                stack,
                Phase.STOPPED,
                now=now,
                runtime=None,
                health=Health.UNKNOWN,
                attempts=0,
                fresh_start_done=stack.intent.fresh_start,
            )
        )
    if work.needs.secret and stack.intent.rotation > stack.status.rotation_done:
        return RotateSecret(stack.status.secret_version or 0)
    status = replace(stack.status, observed_generation=stack.intent.generation)
    return Rest(status, None, succeeded=True)


# --- deleted ---------------------------------------------------------------------------------------------------------


def _plan_deleted(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    if stack.status.phase is not Phase.DELETING:
        return Move(entered(stack, Phase.DELETING, now=now, runtime=None, health=Health.UNKNOWN))
    job = seen.job
    if not isinstance(job, JobSeen) and Part.LOOK not in work.done:
        # What follows cannot be undone, so that the job is gone is never taken from memory.
        return Look()
    if not isinstance(job, JobSeen) or job.belongs_to(work.installation):
        if isinstance(job, JobSeen) and not job.stopped:
            return StopJob()
        # Purged only after its last allocation ended: on Nomad 1.11 a volume whose claimant lost its job panics the
        # scheduler. And nothing is destroyed that an allocation may still use.
        waiting = _wait_for_end(work, seen, now, limits)
        if waiting is not None:
            return waiting
        if isinstance(job, JobSeen):
            return PurgeJob()
    if Part.SERVICE not in work.done:
        return CheckServiceGone()
    if Part.SECRET not in work.done:
        return DestroySecret()
    if Part.LIVE_FILES not in work.done:
        return ClearLiveFiles()
    if stack.intent.delete_workspace and Part.WORKSPACE not in work.done:
        return DestroyWorkspace()
    return FinishDeletion()
