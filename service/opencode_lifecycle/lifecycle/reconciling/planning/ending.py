"""A stack that ends: stopped, deleted, or stopped in order to be started afresh."""

from dataclasses import replace
from datetime import datetime

from opencode_lifecycle.lifecycle.reconciling.planning.interrupting import end_turns
from opencode_lifecycle.lifecycle.reconciling.planning.leaving import plan_held
from opencode_lifecycle.lifecycle.reconciling.planning.moves import (
    entered,
    is_shut_out,
    new_password,
    not_found_yet,
    wait_for_end,
)
from opencode_lifecycle.lifecycle.reconciling.planning.recycling import replacing
from opencode_lifecycle.lifecycle.reconciling.planning.replacement import replace_in_place
from opencode_lifecycle.lifecycle.reconciling.steps import (
    CheckJob,
    CheckServiceGone,
    ClearLiveFiles,
    DestroySecret,
    DestroyWorkspace,
    FinishDeletion,
    Limits,
    Look,
    Move,
    Part,
    PurgeJob,
    Rest,
    Step,
    StopJob,
    Work,
)
from opencode_lifecycle.model.observation import JobSeen, Observation
from opencode_lifecycle.model.states import TAKEN_BACK, Health, MigrationState, Phase, Reason


def plan_fresh_start(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    """
    End the old allocation before a new one is asked for, exactly once.

    1. A recreate is accepted: `fresh_start` is ahead of `fresh_start_done`. What runs runs on if Nomad would refuse the
       job that is to follow, or its node takes nothing new.
    2. The job is stopped; we may die and do it again, which changes nothing.
    3. Nothing runs any more: `fresh_start_done` is saved, together with the phase that starts anew.
    4. Only then is the job registered. Dying before it, we register; dying after it, we adopt what runs, because the
       saved generation says that its predecessor is gone.
    """
    stack = work.stack
    if not_found_yet(work, seen):
        return Look()
    running = isinstance(seen.job, JobSeen) and not seen.job.stopped
    if running and stack.status.phase is Phase.RUNNING:
        if rotation := new_password(work):
            return rotation
        if is_shut_out(work) and not _waits_for_another_password(work):
            return _left_running(work, limits)
        if Part.CHECK not in work.done:
            return CheckJob()
        return end_turns(work) or replacing(work, Reason.RECREATE, "stopping in order to start afresh", now)
    if (running or seen.live) and stack.status.phase is not Phase.STOPPING:
        reason, message = Reason.RECREATE, "stopping in order to start afresh"
        if not running and stack.status.reason is Reason.LOST:
            # Somebody else has stopped it, whatever its agent was at, and that stays said.
            reason, message = stack.status.reason, stack.status.message
        return Move(entered(stack, Phase.STOPPING, now=now, reason=reason, message=message))
    if running:
        return StopJob()
    waiting = wait_for_end(work, seen, now, limits)
    if waiting is not None:
        return waiting
    return Move(
        entered(
            stack, Phase.PENDING, now=now, fresh_start_done=stack.intent.fresh_start, runtime=None, attempts=0
        )
    )


def _waits_for_another_password(work: Work) -> bool:
    """Whether the old password is to be of no use any more, at whatever price."""
    status = work.stack.status
    return status.runtime is not None and status.runtime.secret_version != status.secret_version


def _left_running(work: Work, limits: Limits) -> Rest:
    """Refuse a fresh start that would take down what could not start again."""
    assert work.closed_node is not None, "it is shut out by a node"
    message = (
        f"node {work.closed_node.name} takes nothing new, and its workspace lies there, so it could not start again; what "
        "runs runs on. Recreate it when the node takes jobs again"
    )
    status = replace(
        work.stack.status,
        observed_generation=work.stack.intent.generation,
        fresh_start_done=work.stack.intent.fresh_start,
        reason=Reason.NODE_DRAINING,
        message=message,
    )
    return Rest(status, limits.poll, succeeded=False)


_REPLACING = TAKEN_BACK | {
    Reason.STALE,
    Reason.UNRESPONSIVE,
    Reason.RECYCLE,
    Reason.RECREATE,
    Reason.NODE_DRAINING,
}
"""A stop for these is the first half of a replacement. It is not taken back half way."""


def plan_interrupted_stop(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    """
    Go on from a stop of a stack that should run: to its replacement, or from a stop that is no longer wanted.

    Of the latter, what was not stopped yet runs on; what was must end first.
    """
    stack = work.stack
    if not_found_yet(work, seen):
        return Look()
    falls_asleep = stack.status.reason is Reason.IDLE
    if isinstance(seen.job, JobSeen) and not seen.job.stopped:
        if stack.status.reason is Reason.STALE:
            return replace_in_place(work, seen, seen.job, now, limits)
        if stack.status.reason in _REPLACING or (falls_asleep and stack.is_settled):
            return StopJob()
        return Move(entered(stack, Phase.PENDING, now=now))
    waiting = wait_for_end(work, seen, now, limits)
    if waiting is None and falls_asleep and stack.is_settled:
        message = "nobody used it; an ensure wakes it"
        return Move(entered(stack, Phase.STOPPED, now=now, reason=Reason.IDLE, message=message, runtime=None))
    return waiting or Move(entered(stack, Phase.PENDING, now=now, runtime=None))


def plan_asleep(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    """Leave a stack asleep that was stopped because nobody used it, until anything is asked of it; or held by its node."""
    stack = work.stack
    if stack.status.reason is Reason.NODE_DRAINING:
        return plan_held(work, seen, now, limits)
    runs = isinstance(seen.job, JobSeen) and not seen.job.stopped
    if stack.status.reason is Reason.IDLE and stack.is_settled and not runs and not seen.live:
        return Rest(stack.status, None)
    return Move(entered(stack, Phase.PENDING, now=now))


_HELD = "an operator holds it: no ensure starts it, until a start or a recover does"


def plan_stopped(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    job = seen.job
    is_foreign = isinstance(job, JobSeen) and not job.belongs_to(work.installation)
    runs = isinstance(job, JobSeen) and not job.stopped
    if not is_foreign and (runs or seen.live):
        if stack.status.phase is not Phase.STOPPING:
            return Move(entered(stack, Phase.STOPPING, now=now))
        if runs:
            return end_turns(work) or StopJob()
    if stack.status.phase is not Phase.STOPPED or stack.status.reason is Reason.NODE_DRAINING:
        if not is_foreign and (waiting := wait_for_end(work, seen, now, limits)) is not None:
            return waiting
        if not_found_yet(work, seen):
            return Look()
        return Move(
            entered(
                stack,
                Phase.STOPPED,
                now=now,
                runtime=None,
                health=Health.UNKNOWN,
                attempts=0,
                migration_state=MigrationState.CURRENT,
                migrating_since=None,
                fresh_start_done=stack.intent.fresh_start,
            )
        )
    if rotation := new_password(work):
        return rotation
    # What was in the way of a rotation is past.
    message = _HELD if stack.intent.held else ""
    status = replace(stack.status, observed_generation=stack.intent.generation, message=message)
    return Rest(status, None, succeeded=True)


def plan_deleted(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    if stack.status.phase is not Phase.DELETING:
        # The history of a workspace that is kept must stay true.
        keeps_history = stack.status.phase is Phase.RUNNING and not stack.intent.delete_workspace
        deleting = entered(stack, Phase.DELETING, now=now, runtime=None, health=Health.UNKNOWN)
        return (end_turns(work) if keeps_history else None) or Move(deleting)
    job = seen.job
    if not_found_yet(work, seen):
        return Look()
    if not isinstance(job, JobSeen) or job.belongs_to(work.installation):
        if isinstance(job, JobSeen) and not job.stopped:
            return StopJob()
        # Purged only after its last allocation ended: on Nomad 1.11 a volume whose claimant lost its job panics the
        # scheduler. And nothing is destroyed that an allocation may still use.
        waiting = wait_for_end(work, seen, now, limits)
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
