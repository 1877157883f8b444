"""
What to do next for one stack. Pure: everything it knows is in its argument, everything it decides is in its result.

Level-triggered: it asks what is true now, never what just happened, so it may be called at any time, by any replica,
after any crash. It names one step; the reconciler takes it and asks again. Asked about its own result it names `Rest`.

`starting`, `running` and `ending` hold the rules by where the stack is on its way, `moves` what they share, `brake` what
is held back while a condition stands.
"""

from dataclasses import replace
from datetime import datetime
from typing import assert_never

from opencode_lifecycle.lifecycle.reconciling.planning.brake import held_back
from opencode_lifecycle.lifecycle.reconciling.planning.ending import (
    plan_asleep,
    plan_deleted,
    plan_fresh_start,
    plan_interrupted_stop,
    plan_stopped,
)
from opencode_lifecycle.lifecycle.reconciling.planning.moves import (
    entered,
    failed,
    is_fresh_start_due,
    retry_at,
)
from opencode_lifecycle.lifecycle.reconciling.planning.running import plan_running
from opencode_lifecycle.lifecycle.reconciling.planning.starting import (
    plan_failed,
    plan_pending,
    plan_starting,
    rest_failed,
)
from opencode_lifecycle.lifecycle.reconciling.steps import Limits, Look, Move, Part, Rest, Step, Work
from opencode_lifecycle.model.observation import JobSeen, Observation
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.staleness import facets_of, staleness_of
from opencode_lifecycle.model.states import Desired, Phase, Reason

__all__ = ["entered", "failed", "marked", "plan", "retry_at"]


def plan(work: Work, *, now: datetime, limits: Limits) -> Step:
    """Name the next step for the stack."""
    step = held_back(work, _plan(work, now, limits), limits)
    return replace(step, status=marked(work, step.status)) if isinstance(step, Move | Rest) else step


def marked(work: Work, status: Status) -> Status:
    """Return *status* with the facets in which it is stale, so that a fleet can be counted without looking at each."""
    stale = facets_of(staleness_of(status, work.asked, desired=work.stack.intent.desired))
    return status if stale == status.stale else replace(status, stale=stale)


def _plan(work: Work, now: datetime, limits: Limits) -> Step:
    if work.observation is None:
        if Part.JOB in work.done:
            return Rest(work.stack.status, limits.poll)
        return Look()
    match work.stack.intent.desired:
        case Desired.RUNNING:
            return _plan_wanted(work, work.observation, now, limits)
        case Desired.STOPPED:
            return plan_stopped(work, work.observation, now, limits)
        case Desired.DELETED:
            return plan_deleted(work, work.observation, now, limits)
        case unreachable:
            assert_never(unreachable)


def _plan_wanted(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack = work.stack
    job = seen.job
    if isinstance(job, JobSeen) and not job.belongs_to(work.installation):
        return _foreign(work, job, now)
    is_left_alone = stack.status.phase is Phase.RUNNING and stack.is_refused and stack.is_settled
    # By an order, what runs is waited for at the gate, and what starts anew by itself is seen to run first. So is what was
    # given up because a neighbour was away: an agent may be at work in it.
    runs = isinstance(job, JobSeen) and not job.stopped
    is_to_be_seen = stack.status.phase in {Phase.STARTING, Phase.RUNNING} or (
        runs and stack.status.phase in {Phase.PENDING, Phase.FAILED}
    )
    is_gated = is_to_be_seen and stack.standing_order is not None
    if is_fresh_start_due(stack) and not is_left_alone and not is_gated:
        return plan_fresh_start(work, seen, now, limits)
    match stack.status.phase:
        case Phase.STOPPING:
            return plan_interrupted_stop(work, seen, now, limits)
        case Phase.STOPPED:
            return plan_asleep(work, seen, now, limits)
        case Phase.DELETING:
            return Move(entered(stack, Phase.PENDING, now=now))
        case Phase.FAILED:
            return plan_failed(work, seen, now, limits)
        case Phase.PENDING:
            return plan_pending(work, seen, now, limits)
        case Phase.STARTING:
            return plan_starting(work, seen, now, limits)
        case Phase.RUNNING:
            return plan_running(work, seen, now, limits)
        case unreachable:
            assert_never(unreachable)


def _foreign(work: Work, job: JobSeen, now: datetime) -> Step:
    owner = job.meta.get("managed_by") or "nobody we know"
    message = f"a job {job.job_id} exists that is marked as {owner}'s; it is left alone. Rename or remove it"
    status = work.stack.status
    # Whoever asks again is told again: it is a failure of what was asked for last.
    is_told = status.reason is Reason.FOREIGN_JOB and status.phase is Phase.FAILED and status.attempts > 0
    if is_told:
        return rest_failed(work, None)
    return Move(failed(work.stack, Reason.FOREIGN_JOB, message, now))
