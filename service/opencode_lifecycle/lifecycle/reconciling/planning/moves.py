"""How a stack moves, and what all plans share."""

from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from opencode_lifecycle.lifecycle.reconciling.steps import (
    Limits,
    Look,
    Move,
    Part,
    Rest,
    RotateSecret,
    Work,
)
from opencode_lifecycle.model.facets import Facet, Facets
from opencode_lifecycle.model.migration import OrderOutcome
from opencode_lifecycle.model.observation import AllocationSeen, JobSeen, Observation
from opencode_lifecycle.model.proof import Proof
from opencode_lifecycle.model.stack import Stack, Status
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


def entered(
    stack: Stack, to: Phase, *, now: datetime, reason: Reason | None = None, message: str = "", **changes: Any
) -> Status:
    """
    Return the status of *stack* on entering phase *to*. The one function that moves a stack.

    Where its runtime is withdrawn, there is nothing whose health could be shown.
    """
    status = stack.status
    if changes.get("runtime", status.runtime) is None and status.runtime is not None:
        changes.setdefault("health", Health.UNKNOWN)
    check_move(stack.job_id, status.phase, to)
    since = status.phase_since if to is status.phase else now
    return replace(status, phase=to, phase_since=since, reason=reason, message=message, **changes)


def new_password(work: Work) -> RotateSecret | None:
    """
    Return the step that writes the new password that is asked for, as long as none was written.

    Of a runtime it comes before anything is looked at or stopped for it: with Vault away, what runs runs on, and a secret
    that has no password any more gets one.
    """
    status = work.stack.status
    is_due = work.needs.secret and work.stack.intent.rotation > status.rotation_done
    return RotateSecret(status.secret_version or 0) if is_due else None


def with_order_failed(stack: Stack) -> Status:
    """
    Return the status of *stack* with the order that stands seen to its end: it failed.

    A fresh start that it asked for is due no longer: without an order no agent would be waited for.
    """
    order = stack.standing_order
    if order is None:
        return stack.status
    return replace(
        stack.status,
        order_done=order.id,
        order_outcome=OrderOutcome.FAILED,
        fresh_start_done=stack.intent.fresh_start,
    )


def failed(stack: Stack, reason: Reason, message: str, now: datetime) -> Status:
    """
    The failure speaks for the generation it met, so that only a newer one, or a new request, is tried at once.

    An order ends with it, so that whoever gave it hears of it before the start is tried again.
    """
    was_migrating = stack.status.migration_state in {MigrationState.REPLACING, MigrationState.VERIFYING}
    order = stack.standing_order
    # What a neighbour was in the way of goes on when that is back, and a retry has to know what it may restore.
    is_seen_to = reason not in OUTAGES and (order is None or not order.restore or reason in FINAL_REASONS)
    if order is not None and is_seen_to:
        stack = replace(stack, status=with_order_failed(stack))
    return replace(
        entered(stack, Phase.FAILED, now=now, reason=reason, message=message),
        observed_generation=stack.intent.generation,
        phase_since=now,
        attempts=stack.status.attempts + 1,
        health=Health.UNKNOWN,
        migration_state=MigrationState.FAILED if was_migrating else stack.status.migration_state,
        runtime=None,
    )


def stop_open(work: Work, now: datetime) -> Move:
    """A server without a password is an open shell: it is stopped, and stays so until a person has looked."""
    message = "the server answers without credentials; it was stopped. Check its secret and its template, then recover"
    return Move(failed(work.stack, Reason.OPEN_WITHOUT_PASSWORD, message, now))


def is_fresh_start_due(stack: Stack) -> bool:
    """Whether an allocation was asked for that is newer than the one there is."""
    return stack.intent.fresh_start > stack.status.fresh_start_done


def retry_at(stack: Stack, limits: Limits) -> datetime:
    """Return when a failed stack is to be tried again: spread by its name, so that asking twice gives the same answer."""
    attempts = stack.status.attempts
    # A neighbour that was away for long says nothing about how often this stack failed.
    backoff = limits.outage if stack.status.reason in OUTAGES else limits.retry
    seconds = backoff.seconds(max(attempts, 1), Random(f"{stack.job_id} {attempts}"))
    return stack.status.phase_since + timedelta(seconds=seconds)


def is_shut_out(work: Work) -> bool:
    """Whether it could not start now, if it had to: its workspace lies on a node that takes nothing new."""
    node, workspace = work.closed_node, work.stack.status.workspace
    is_bound = work.needs.workspace and workspace is not None
    return is_bound and node is not None and workspace is not None and workspace.node_id == node.id


def not_found_yet(work: Work, seen: Observation) -> bool:
    """Whether a job is absent that nobody looked for directly. Lists may lie: nothing ends or begins anew by them alone."""
    return not isinstance(seen.job, JobSeen) and Part.LOOK not in work.done


def is_end_untold(work: Work, seen: Observation) -> bool:
    """
    Whether nothing tells that what ran has ended but its absence, which nobody looked for directly.

    1. A stack is stopped, and its allocation takes its time to end.
    2. A listing shows the job and lacks the allocation, since the two are listed by two calls. Or an event tells of the
       job, and nothing else is known of it.
    3. By that alone it would be purged, or a server started beside it.

    What has ended is shown as such until Nomad forgets it, so a stop costs no further look.
    """
    if Part.LOOK in work.done:
        return False
    runtime = work.stack.status.runtime
    if runtime is not None:
        return all(allocation.id != runtime.allocation_id for allocation in seen.allocations)
    may_have_run = isinstance(seen.job, JobSeen) or work.stack.status.job_modify_index is not None
    return may_have_run and not seen.allocations


def wait_for_end(work: Work, seen: Observation, now: datetime, limits: Limits) -> Look | Rest | None:
    """
    Rest while an allocation may still run, and look where only a list says that none does: two servers must never share a
    workspace.

    The wait itself has no end, since nothing may be concluded from silence; the request that led to it is told after the
    deadline that it failed.
    """
    if not seen.live:
        return Look() if is_end_untold(work, seen) else None
    status = work.stack.status
    message = f"waiting for allocation {seen.live[0].id[:8]} on {seen.live[0].node_name} to end"
    if now - status.phase_since < limits.stop:
        return Rest(replace(status, message=message), limits.poll)
    message += f", longer than {limits.stop.total_seconds():.0f} s; is its node reachable?"
    outcome = None if work.stack.intent.desired is Desired.DELETED else False
    # Why it failed, or is being replaced, is what its plan goes by, and stays said.
    reason = status.reason or Reason.NOT_ENDED
    return Rest(replace(status, reason=reason, message=message), limits.poll, succeeded=outcome)


def facets_in(job: JobSeen, work: Work) -> Facets | None:
    """
    Read from the job's meta what it was registered with, or None when that is not there.

    What meta does not carry is as it was recorded.
    """
    recorded = work.stack.status.facets or work.wanted
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


def is_about(proof: Proof, allocation: AllocationSeen) -> bool:
    """Whether *proof* was given by this very run of the allocation's task."""
    return (proof.allocation_id, proof.restarts) == (allocation.id, allocation.restarts)
