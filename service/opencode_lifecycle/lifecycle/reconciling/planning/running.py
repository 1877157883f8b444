"""A stack that runs: kept in sight, and put right in the lightest way that suffices."""

from dataclasses import replace
from datetime import datetime, timedelta

from opencode_lifecycle.lifecycle.reconciling.planning.moves import entered, failed, is_fresh_start_due
from opencode_lifecycle.lifecycle.reconciling.steps import (
    CheckJob,
    CompareJob,
    Limits,
    Look,
    LookAtActivity,
    MakeSecret,
    Move,
    Part,
    PublishLiveFiles,
    RegisterJob,
    Rest,
    Step,
    Work,
)
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.observation import AllocationSeen, ClientStatus, JobSeen, Observation
from opencode_lifecycle.model.stack import Runtime, Status
from opencode_lifecycle.model.staleness import Staleness, facets_of, staleness_of
from opencode_lifecycle.model.states import Health, MigrationState, Phase, Reason, WhenStale
from opencode_lifecycle.ports.prober import Liveness

_LIVE = frozenset({Facet.PROMPT, Facet.CONFIG})
_IN_PLACE = frozenset({Facet.LABELS, Facet.ENDPOINTS})
"""They live in Consul service meta, which Nomad changes without a restart, and are what their owner asked for."""


def plan_running(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    return (
        _lost(work, seen, now)
        or _no_longer_safe(work, now)
        or _follow_others(work, seen)
        or _replace_wedged(work, seen, now, limits)
        or _put_right(work, seen, now, limits)
    )


def stop_open(work: Work, now: datetime) -> Step:
    """A server without a password is an open shell: it is stopped, and stays so until a person has looked."""
    message = "the server answers without credentials; it was stopped. Check its secret and its template, then recover"
    return Move(failed(work.stack, Reason.OPEN_WITHOUT_PASSWORD, message, now))


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
        return Move(replace(stack.status, secret_version=work.secret.version))
    return None


# --- health


def _health(work: Work, limits: Limits) -> Health:
    if work.silent_probes >= limits.silent_probes:
        return Health.UNRESPONSIVE
    return Health.DEGRADED if work.silent_probes > 0 else Health.HEALTHY


def _replace_wedged(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step | None:
    """
    Replace a runtime that has answered nothing for long: alive for Nomad, dead for everyone who asks it something.

    One whose node Nomad does not hear from is not called dead by anyone: its agent may work on, and the node come back.

    One that was seen at work is given longer. What a replacement does not cure is not replaced again and again.
    """
    probes = limits.wedged_probes
    if work.busy_at is not None and now - work.busy_at < limits.idle_after:
        probes *= limits.patience_when_busy
    if _is_disconnected(work, seen):
        return None
    if work.silent_probes < probes or _recycled_lately(work, now, limits):
        return None
    message = f"it left {work.silent_probes} probes in a row unanswered, and is started afresh"
    return _replace(work, Reason.UNRESPONSIVE, message, now, recycled=True)


def _is_disconnected(work: Work, seen: Observation) -> bool:
    runtime = work.stack.status.runtime
    return runtime is not None and any(
        allocation.id == runtime.allocation_id and allocation.client_status is ClientStatus.UNKNOWN
        for allocation in seen.allocations
    )


def _recycled_lately(work: Work, now: datetime, limits: Limits) -> bool:
    return _age(work.stack.status.recycled_at, now) < limits.recycle_pause


def _why_recycle(work: Work, now: datetime, limits: Limits) -> str:
    """Return why the runtime is better started afresh when it is idle; empty when it is fine."""
    runtime = work.stack.status.runtime
    if runtime is None or _recycled_lately(work, now, limits):
        return ""
    age = _age(runtime.started_at, now) if runtime.started_at is not None else timedelta(0)
    if limits.recycle_age is not None and age > limits.recycle_age:
        return f"it has run for {age.days} days"
    share = limits.recycle_memory
    if share is not None and work.memory is not None and work.memory_max > 0:
        used = work.memory / work.memory_max
        if used > share:
            return f"it uses {used:.0%} of the memory that it may use"
    return ""


def _age(since: datetime | None, now: datetime) -> timedelta:
    return now - since if since is not None else timedelta.max


def _replace(work: Work, reason: Reason, message: str, now: datetime, *, recycled: bool = False) -> Move:
    stack = work.stack
    return Move(
        entered(
            stack,
            Phase.STOPPING,
            now=now,
            reason=reason,
            message=message,
            migration_state=MigrationState.REPLACING,
            recycled_at=now if recycled else stack.status.recycled_at,
        )
    )


# --- staleness


def _put_right(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    """
    Apply what differs in the lightest way: texts under the running process, labels in place, the rest by a restart.

    What Nomad refused stays as it is until somebody asks again, and what is stale is left alone under `report`. Nothing
    that runs is stopped before Nomad has said that it would take what is to follow.
    """
    stack, job = work.stack, seen.job
    assert isinstance(job, JobSeen), "a runtime that is lost was seen to before"
    reasons = staleness_of(stack.status, work.wanted, desired=stack.intent.desired)
    stale = facets_of(reasons)
    recycle = _why_recycle(work, now, limits)
    is_due = stale or recycle or is_fresh_start_due(stack)
    if is_due and stack.is_refused and stack.is_settled:
        return Rest(replace(stack.status, health=_health(work, limits)), None)
    restart = any(reason.restart for reason in reasons)
    if not restart and stale and (stale <= _IN_PLACE or work.when_stale is not WhenStale.REPORT):
        return _apply_live(work, stale) or RegisterJob(job.modify_index, work.wanted)
    why = _why(reasons) if restart and work.when_stale is not WhenStale.REPORT else ""
    reason = Reason.STALE
    if not why and not restart and (why := recycle):
        reason = Reason.RECYCLE
    status = replace(
        stack.status,
        observed_generation=stack.intent.generation,
        health=_health(work, limits),
        migration_state=MigrationState.STALE if stale else MigrationState.CURRENT,
        reason=None,
        message="",
        attempts=0,
    )
    if not why:
        return Rest(status, _until_recycling(work, now, limits), succeeded=True)
    if work.when_stale is WhenStale.NOW and reason is Reason.STALE:
        if Part.CHECK not in work.done:
            return CheckJob()
        return _replace(work, reason, f"stopping in order to start as it should be: {why}", now)
    return _at_idle(work, replace(status, message=why), reason, now, limits)


def _why(reasons: tuple[Staleness, ...]) -> str:
    return ", ".join(reason.facet.value for reason in reasons if reason.restart) + " changed"


def _apply_live(work: Work, stale: frozenset[Facet]) -> Step | None:
    if not stale & _LIVE:
        return None
    if work.needs.live_files and Part.LIVE_FILES not in work.done:
        return PublishLiveFiles()
    have = work.stack.status.facets or work.wanted
    facets = replace(have, prompt=work.wanted.prompt, config=work.wanted.config)
    return Move(replace(work.stack.status, facets=facets))


def _until_recycling(work: Work, now: datetime, limits: Limits) -> timedelta | None:
    """Return when the runtime comes of age, or may be replaced again: nothing else would tell us."""
    status, waits = work.stack.status, []
    runtime = status.runtime
    if limits.recycle_age is not None and runtime is not None and runtime.started_at is not None:
        waits.append(limits.recycle_age - (now - runtime.started_at))
    if work.silent_probes >= limits.wedged_probes and status.recycled_at is not None:
        waits.append(limits.recycle_pause - (now - status.recycled_at))
    due = [wait for wait in waits if wait > timedelta(0)]
    return min(due) + timedelta(seconds=1) if due else None


def _at_idle(work: Work, status: Status, reason: Reason, now: datetime, limits: Limits) -> Step:
    """
    Replace the runtime when nothing works in it. Unknown counts as busy.

    It is looked at as the last act before the stop: a look that was made for an earlier plan decides only to wait.
    """
    looked = Part.ACTIVITY in work.done
    if _is_idle(work, now, limits):
        if Part.CHECK not in work.done:
            return CheckJob()
        if not looked:
            return LookAtActivity()
        message = f"stopping in order to start as it should be: {status.message}"
        return _replace(work, reason, message, now, recycled=reason is Reason.RECYCLE)
    if not looked and _age(work.activity_at, now) >= limits.idle_poll:
        return LookAtActivity()
    waiting = replace(status, message=f"waits until it is idle: {status.message}")
    return Rest(waiting, max(limits.idle_poll, _quiet_since(work) + limits.idle_after - now), succeeded=True)


def _is_idle(work: Work, now: datetime, limits: Limits) -> bool:
    activity = work.activity
    return activity is not None and not activity.busy and now - _quiet_since(work) >= limits.idle_after


def _quiet_since(work: Work) -> datetime:
    """Return when anything last happened in the runtime. One that has just started is about to be used."""
    runtime, activity = work.stack.status.runtime, work.activity
    assert runtime is not None, "a runtime that is lost was seen to before"
    if activity is None or activity.changed_at is None:
        return runtime.proven_at
    return max(runtime.proven_at, activity.changed_at)
