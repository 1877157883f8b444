"""When a runtime is better started afresh for its own good, and how any runtime is replaced."""

from datetime import datetime, timedelta

from opencode_lifecycle.lifecycle.reconciling.planning.moves import entered
from opencode_lifecycle.lifecycle.reconciling.steps import Limits, Move, Work
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.states import Health, MigrationState, Phase, Reason


def health_of(work: Work, limits: Limits) -> Health:
    """Return what the probes of a proven runtime tell of it."""
    if work.silent_probes >= limits.silent_probes:
        return Health.UNRESPONSIVE
    return Health.DEGRADED if work.silent_probes > 0 else Health.HEALTHY


def news_of_health(before: Status, after: Status, silent_probes: int) -> tuple[str, dict[str, object]] | None:
    """Return the event of a runtime that is called unresponsive, with how many probes it took, or that answers again."""
    was, now = (
        each.phase is Phase.RUNNING and each.health is Health.UNRESPONSIVE for each in (before, after)
    )
    if now and not was:
        return "health.unresponsive", {"unanswered_probes": silent_probes}
    if was and not now and after.phase is Phase.RUNNING:
        return f"health.{after.health}", {"unanswered_probes": silent_probes}
    return None


def recycled_lately(work: Work, now: datetime, limits: Limits) -> bool:
    return age_of(work.stack.status.recycled_at, now) < limits.recycle_pause


def why_recycle(work: Work, now: datetime, limits: Limits) -> str:
    """Return why the runtime is better started afresh when it is idle; empty when it is fine."""
    runtime = work.stack.status.runtime
    if runtime is None or recycled_lately(work, now, limits):
        return ""
    age = age_of(runtime.started_at, now) if runtime.started_at is not None else timedelta(0)
    if limits.recycle_age is not None and age > limits.recycle_age:
        return f"it has run for {age.days} days"
    share = limits.recycle_memory
    if share is not None and work.memory is not None and work.memory_max > 0:
        used = work.memory / work.memory_max
        if used > share:
            return f"it uses {used:.0%} of the memory that it may use"
    return ""


def age_of(since: datetime | None, now: datetime) -> timedelta:
    return now - since if since is not None else timedelta.max


def replacing(
    work: Work,
    reason: Reason,
    message: str,
    now: datetime,
    *,
    recycled: bool = False,
    unless_busy: bool = False,
) -> Move:
    """
    Begin to replace the runtime, for *reason*.

    With *unless_busy*, the move is not made when a backend says before it is saved that its agent is at work.
    """
    stack = work.stack
    status = entered(
        stack,
        Phase.STOPPING,
        now=now,
        reason=reason,
        message=message,
        migration_state=MigrationState.REPLACING,
        migrating_since=now,
        recycled_at=now if recycled else stack.status.recycled_at,
    )
    return Move(status, unless_busy=unless_busy)
