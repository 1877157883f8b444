"""A stack that should run and does not yet."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

from opencode_lifecycle.lifecycle.reconciling.planning.leaving import ended_by_node, held
from opencode_lifecycle.lifecycle.reconciling.planning.migrating import taken_back
from opencode_lifecycle.lifecycle.reconciling.planning.moves import (
    entered,
    facets_in,
    failed,
    is_about,
    new_password,
    not_found_yet,
    retry_at,
    stop_open,
    wait_for_end,
)
from opencode_lifecycle.lifecycle.reconciling.steps import (
    CompareJob,
    Limits,
    Look,
    MakeSecret,
    MakeWorkspace,
    Move,
    Part,
    PublishLiveFiles,
    ReadReport,
    RegisterJob,
    Rest,
    Step,
    StopJob,
    Work,
)
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.migration import Footing
from opencode_lifecycle.model.observation import AllocationSeen, JobSeen, Observation, TaskTrouble
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.snapshot import DataReport
from opencode_lifecycle.model.stack import Runtime, Status
from opencode_lifecycle.model.states import FINAL_REASONS, OUTAGES, Health, MigrationState, Phase, Reason


def plan_failed(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    if isinstance(seen.job, JobSeen) and not seen.job.stopped:
        if stack.status.reason in OUTAGES:
            # That a neighbour was away says nothing against what runs: an agent may be at work in it.
            return Move(entered(stack, Phase.PENDING, now=now, reason=stack.status.reason))
        return StopJob()
    asked_again = stack.status.attempts == 0 or not stack.is_settled
    if stack.status.reason in FINAL_REASONS and not asked_again:
        return rest_failed(work, None)
    if not asked_again and now < (due := retry_at(stack, limits)):
        return rest_failed(work, due - now)
    waiting = wait_for_end(work, seen, now, limits)
    return waiting or Move(entered(stack, Phase.PENDING, now=now, reason=stack.status.reason))


def rest_failed(work: Work, wait: timedelta | None) -> Rest:
    status = replace(work.stack.status, observed_generation=work.stack.intent.generation)
    return Rest(status, wait, succeeded=False)


def plan_pending(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    job = seen.job
    runs = isinstance(job, JobSeen) and not job.stopped
    if not runs and (waiting := wait_for_end(work, seen, now, limits)) is not None:
        return waiting
    if not runs and (waits_for_node := held(work, now)) is not None:
        return waits_for_node
    preparation = prepare(work, runs=runs)
    if preparation is not None:
        return preparation
    if not isinstance(job, JobSeen):
        return RegisterJob(0, work.wanted)
    if job.stopped:
        return RegisterJob(job.modify_index, work.wanted)
    # It runs already: a registration whose reply was lost, or whose writer died. Adopted as it is, since replacing it
    # could cut off an agent at work; if it is stale, that shows.
    facets = facets_in(job, work)
    if facets is None:
        return Move(failed(stack, Reason.FOREIGN_JOB, f"job {job.job_id} lacks the facets in its meta", now))
    if stack.status.secret_version is None and facets.secret_version > 0:
        # The job names the version that it runs with. If Vault has a newer one, the sweep will say so.
        return Move(replace(stack.status, secret_version=facets.secret_version))
    is_as_wanted = facets.revision == work.wanted.revision
    if (
        is_as_wanted
        and job.modify_index != stack.status.job_modify_index
        and Part.COMPARISON not in work.done
    ):
        return CompareJob()
    facets = replace(facets, prompt=work.wanted.prompt, config=work.wanted.config)
    release = work.building.release if is_as_wanted else stack.status.release
    return Move(
        entered(
            stack,
            Phase.STARTING,
            now=now,
            facets=facets,
            release=release,
            built=_found(work, facets, is_as_wanted=is_as_wanted),
            job_modify_index=job.modify_index,
        )
    )


def _found(work: Work, facets: Facets, *, is_as_wanted: bool) -> Footing:
    """
    Return what the job of *facets* was built of that is there already.

    What its start did to the data nobody has read. Another than was wanted last may have been handed out.
    """
    built = work.stack.status.built
    if built is not None and not is_as_wanted and built.facets.revision == facets.revision:
        # The one that there was before: its stop was taken back.
        return replace(built, facets=facets)
    found = replace(work.building, facets=facets, used=not is_as_wanted, moved_data=True)
    return found.after(built)


def prepare(work: Work, *, runs: bool) -> Step | None:
    """What is there before the job. A job that *runs* has its secret, and is not kept waiting for Vault."""
    if rotation := new_password(work):
        return rotation
    if work.needs.secret and Part.SECRET not in work.done and not runs:
        return MakeSecret()
    if work.needs.workspace and Part.WORKSPACE not in work.done:
        return MakeWorkspace()
    if work.needs.live_files and Part.LIVE_FILES not in work.done:
        return PublishLiveFiles()
    return None


def _current_allocation(seen: Observation, job: JobSeen) -> AllocationSeen | None:
    """Return the newest allocation of the job as it is registered now; those of earlier versions are on their way out."""
    for allocation in seen.allocations:
        if allocation.job_version == job.version:
            return allocation
    return None


def plan_starting(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    job = seen.job
    if not_found_yet(work, seen):
        return Look()
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
    if (without_a_place := ended_by_node(work, seen, now)) is not None:
        return without_a_place
    allocation = _current_allocation(seen, job)
    proof = work.proof
    if proof is not None and allocation is not None and is_about(proof, allocation):
        if proof.result is ProofResult.PROVEN and _is_up(allocation) and not work.doubt:
            return Move(_proven(work, job, allocation, proof, now))
        if proof.result is ProofResult.OPEN:
            return stop_open(work, now)
        if proof.result is ProofResult.WRONG_VERSION:
            return _failed(work, Reason.WRONG_VERSION, proof.detail, now)
    reason, message = _why_not_running(work, seen, allocation)
    if reason is None and work.doubt:
        reason, message = Reason.CONTESTED, work.doubt
    if reason is None and stack.status.reason in _OF_A_RUN:
        # The next run, or the next allocation, has told nothing yet: why the one before ended is all that is known.
        reason, message = stack.status.reason, stack.status.message
    is_late = now - stack.status.phase_since >= limits.start
    if reason in _OF_ITS_DATA and allocation is not None:
        if Part.REPORT not in work.done:
            return ReadReport(allocation.id)
        if not work.is_report_unknown or is_late:
            message, is_late = _words_of(work.report) or message, is_late or stack.status.footing is not None
    overdue = is_late or (reason in FINAL_REASONS and not work.is_report_unknown)
    cannot_be_proven = reason in OUTAGES or reason is Reason.CONTESTED
    if overdue and not cannot_be_proven:
        return _failed(work, reason or Reason.NEVER_HEALTHY, message or "it was not healthy in time", now)
    if overdue:
        # It may be as healthy as can be: it cannot be proven while a neighbour is away, or names its address for another.
        return Rest(replace(stack.status, reason=reason, message=message), limits.poll)
    left = limits.start - (now - stack.status.phase_since)
    status = replace(stack.status, reason=reason, message=message, health=Health.STARTING)
    return Rest(status, min(left, limits.poll))


_OF_ITS_DATA = frozenset({Reason.DATA_NEWER, Reason.DISK_FULL})
_OF_A_RUN = frozenset({Reason.DRIVER_FAILED, Reason.CRASH_LOOP, Reason.OUT_OF_MEMORY})
_AFTER_A_PROOF = frozenset({Reason.LOST, Reason.CRASH_LOOP})
"""What a stack that starts is there for, when it has run already."""


def _words_of(report: DataReport | None) -> str:
    """Return why the entrypoint started nothing, as it says itself; empty when it does not."""
    return report.refused.reason if report is not None and report.refused is not None else ""


def _failed(work: Work, reason: Reason, message: str, now: datetime) -> Move:
    """Go back to what ran before the change, or fail where nothing did; unless something else is wanted by now."""
    if (other := _wanted_otherwise(work, f"{reason}: {message}", now)) is not None:
        return Move(other)
    back = taken_back(work, reason, message, now)
    return Move(back if back is not None else failed(work.stack, reason, message, now))


def _wanted_otherwise(work: Work, why: str, now: datetime) -> Status | None:
    """
    Return the status in which a start that failed gives way to what is wanted by now; None where that is what failed.

    1. A stack starts on a release. Before it is healthy the release is taken back, or the stack is pinned to another.
    2. The start fails. That says nothing of what is wanted now, which was never tried: it must not be refused for it.

    Where only live files differ, nothing of the job does, and no registration would replace what fails: it is stopped first.
    """
    facets = work.stack.status.facets
    if facets is None or facets.aim == work.wanted.aim:
        return None
    message = f"{why}; what is wanted by now is started instead"
    reason = Reason.RECREATE if facets.revision == work.wanted.revision else Reason.STALE
    return entered(work.stack, Phase.STOPPING, now=now, reason=reason, message=message, runtime=None)


def _why_not_running(
    work: Work, seen: Observation, allocation: AllocationSeen | None
) -> tuple[Reason | None, str]:
    proof = work.proof
    if (allocation is None or not seen.live) and seen.placement_failure is not None:
        return Reason.NO_CAPACITY, seen.placement_failure
    if allocation is not None and allocation.trouble is not None:
        match allocation.trouble:
            case TaskTrouble.SECRET:
                return Reason.SECRET_MISSING, allocation.trouble_message
            case TaskTrouble.DRIVER:
                return Reason.DRIVER_FAILED, allocation.trouble_message
            case TaskTrouble.EXITED if _ran_before(work, allocation):
                return Reason.CRASH_LOOP, allocation.trouble_message
            case TaskTrouble.EXITED:
                return Reason.DRIVER_FAILED, allocation.trouble_message
            case TaskTrouble.OUT_OF_MEMORY:
                return Reason.OUT_OF_MEMORY, allocation.trouble_message
            case TaskTrouble.DATA_NEWER:
                return Reason.DATA_NEWER, allocation.trouble_message
            case TaskTrouble.DISK_FULL:
                return Reason.DISK_FULL, allocation.trouble_message
            case unreachable:
                assert_never(unreachable)
    if proof is not None and allocation is not None and is_about(proof, allocation):
        return proof.reason, proof.detail
    return None, "waiting for an allocation" if allocation is None else "waiting for its server to answer"


def _ran_before(work: Work, allocation: AllocationSeen) -> bool:
    """
    Whether it can start, and does not stay: an earlier run of the same allocation was proven, or the row says that it ran.

    What was proven is forgotten with the process that saw it.
    """
    proof = work.proof
    is_proven = (
        proof is not None and proof.result is ProofResult.PROVEN and proof.allocation_id == allocation.id
    )
    return is_proven or work.stack.status.reason in _AFTER_A_PROOF


def _is_up(allocation: AllocationSeen) -> bool:
    """Whether the allocation is meant to run and has not ended. What was proven of one that has is past."""
    return allocation.desired_status == "run" and not allocation.client_status.is_terminal


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
    built = replace(stack.status.built, used=True) if stack.status.built is not None else None
    # What was taken back is not shown without why while the rest of it is seen to.
    refusal = stack.status.refusal if stack.status.migration_state is MigrationState.FAILED else None
    return entered(
        stack,
        Phase.RUNNING,
        now=now,
        reason=refusal.reason if refusal is not None else None,
        message=refusal.message if refusal is not None else "",
        runtime=runtime,
        health=Health.HEALTHY,
        attempts=0,
        built=built,
    )
