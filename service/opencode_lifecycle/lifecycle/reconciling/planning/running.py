"""A stack that runs: kept in sight, and replaced when it answers nothing any more."""

from dataclasses import replace
from datetime import datetime

from opencode_lifecycle.lifecycle.reconciling.planning.leaving import ended_by_node
from opencode_lifecycle.lifecycle.reconciling.planning.migrating import put_right
from opencode_lifecycle.lifecycle.reconciling.planning.moves import entered, stop_open
from opencode_lifecycle.lifecycle.reconciling.planning.recycling import recycled_lately, replacing
from opencode_lifecycle.lifecycle.reconciling.steps import (
    CompareJob,
    Limits,
    Look,
    MakeSecret,
    Move,
    Part,
    Step,
    Work,
)
from opencode_lifecycle.model.lease import is_leased
from opencode_lifecycle.model.observation import AllocationSeen, ClientStatus, JobSeen, Observation
from opencode_lifecycle.model.stack import Runtime, Status
from opencode_lifecycle.model.states import MigrationState, Phase, Reason
from opencode_lifecycle.ports.prober import Liveness


def plan_running(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    return (
        ended_by_node(work, seen, now)
        or _lost(work, seen, now)
        or _no_longer_safe(work, now)
        or _follow_others(work, seen)
        or _replace_wedged(work, seen, now, limits)
        or put_right(work, seen, now, limits)
    )


def _lost(work: Work, seen: Observation, now: datetime) -> Step | None:
    """See to a runtime that is not there any more. What is not even named is looked for once more: lists may lie."""
    stack, job, runtime = work.stack, seen.job, work.stack.status.runtime
    looked = Part.LOOK in work.done
    if not isinstance(job, JobSeen) or job.stopped:
        if not isinstance(job, JobSeen) and not looked:
            return Look()
        message = "its job was stopped or removed outside; it is started again"
        return Move(entered(stack, Phase.PENDING, now=now, reason=Reason.LOST, message=message, runtime=None))
    if runtime is not None and any(_is_same(allocation, runtime) for allocation in seen.allocations):
        return None
    if runtime is not None and not looked and all(a.id != runtime.allocation_id for a in seen.allocations):
        return Look()
    message = "its allocation ended or restarted; the next one is being proven"
    return Move(entered(stack, Phase.STARTING, now=now, reason=Reason.LOST, message=message, runtime=None))


def _is_same(allocation: AllocationSeen, runtime: Runtime) -> bool:
    return (
        allocation.id == runtime.allocation_id
        and allocation.restarts == runtime.restarts
        and not allocation.client_status.is_terminal
        and allocation.desired_status == "run"
    )


def _no_longer_safe(work: Work, now: datetime) -> Step | None:
    if work.liveness is Liveness.OPEN:
        return stop_open(work, now)
    if work.doubt:
        stack, why = work.stack, work.doubt
        return Move(
            entered(stack, Phase.STARTING, now=now, reason=Reason.CONTESTED, message=why, runtime=None)
        )
    return None


def _follow_others(work: Work, seen: Observation) -> Step | None:
    """Take in what administrators and operators changed: a new version of the secret, another version of the job."""
    stack, job = work.stack, seen.job
    if isinstance(job, JobSeen) and job.modify_index != stack.status.job_modify_index:
        return CompareJob()
    if work.secret is None or not work.needs.secret or stack.intent.rotation > stack.status.rotation_done:
        return None
    if work.secret.version is None:
        # Deleted under a running runtime: without a secret nobody can be let in, and its next start would fail.
        return MakeSecret() if Part.SECRET not in work.done else None
    if work.secret.version != stack.status.secret_version and Part.SECRET not in work.done:
        return Move(_with_version(stack.status, work.secret.version))
    return None


def _with_version(status: Status, version: int) -> Status:
    """Return *status* with the newest version of the secret. Where the one before was refused, this one is tried."""
    newest = replace(status, secret_version=version)
    if status.migration_state is MigrationState.FAILED and status.reason is Reason.SECRET_MISSING:
        return replace(newest, migration_state=MigrationState.STALE, reason=None, message="")
    return newest


# --- health


def _replace_wedged(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step | None:
    """
    Replace a runtime that has answered nothing for long: alive for Nomad, dead for everyone who asks it something.

    One whose node Nomad does not hear from is not called dead by anyone: its agent may work on, and the node come back.

    One that was seen at work, or is leased, is given longer; but a lease does not keep what is dead. What a replacement
    does not cure is not replaced again and again.
    """
    probes = limits.wedged_probes
    was_busy = work.busy_at is not None and now - work.busy_at < limits.idle_after
    if was_busy or is_leased(work.stack, now):
        probes *= limits.patience_when_busy
    if _is_disconnected(work, seen):
        return None
    if work.silent_probes < probes or recycled_lately(work, now, limits):
        return None
    message = f"it left {work.silent_probes} probes in a row unanswered, and is started afresh"
    return replacing(work, Reason.UNRESPONSIVE, message, now, recycled=True)


def _is_disconnected(work: Work, seen: Observation) -> bool:
    runtime = work.stack.status.runtime
    return runtime is not None and any(
        allocation.id == runtime.allocation_id and allocation.client_status is ClientStatus.UNKNOWN
        for allocation in seen.allocations
    )
