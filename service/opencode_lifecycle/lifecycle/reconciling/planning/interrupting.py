"""How a runtime passes the busy gate: interrupted when its agent is idle or, by an order, when its deadline has passed."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from opencode_lifecycle.lifecycle.reconciling.planning.gate import Busy, Idle, Unknown, may_interrupt
from opencode_lifecycle.lifecycle.reconciling.planning.moves import entered, is_shut_out
from opencode_lifecycle.lifecycle.reconciling.planning.recycling import age_of, health_of, replacing
from opencode_lifecycle.lifecycle.reconciling.steps import (
    AbortTurns,
    CheckJob,
    Limits,
    LookAtActivity,
    LookAtNodes,
    Move,
    Part,
    Reload,
    Rest,
    Step,
    Work,
)
from opencode_lifecycle.model.lease import is_leased, is_reloading
from opencode_lifecycle.model.migration import AtDeadline, MigrationOrder, OrderOutcome
from opencode_lifecycle.model.node import Drain
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.states import MigrationState, Phase, Reason, WhenStale

_SOON = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """
    What a runtime is to be interrupted for: a restart, or a reload under which its process runs on.

    With *drain* its node is being emptied: its deadline is that of the drain, and what may follow on the stop does not
    matter.
    """

    why: str
    reason: Reason = Reason.STALE
    reload: bool = False
    drain: Drain | None = None

    @property
    def needs_check(self) -> bool:
        """Whether Nomad must say before that it would take what is to follow."""
        return not self.reload and self.drain is None


def at_gate(work: Work, change: Interruption, now: datetime, limits: Limits) -> Step:
    """
    Interrupt the runtime when nothing works in it; by an order or a drain, at its deadline at the latest. Unknown counts
    as busy, and so does what could not start again.

    It is looked at as the last act before: a look that was made for an earlier plan decides only to wait. And before a
    restart Nomad has said that it would take what is to follow.
    """
    order = work.stack.standing_order if change.drain is None else None
    looked = Part.ACTIVITY in work.done
    verdict = may_interrupt(work, now, limits)
    if change.needs_check and is_shut_out(work):
        verdict = Unknown(why="its node takes nothing new, so it could not start again")
    match verdict:
        case Idle():
            if change.needs_check and Part.CHECK not in work.done:
                return CheckJob()
            if not looked:
                return LookAtActivity()
            return _interrupt(work, change, now, forced=False)
        case Busy(until=until, why=why):
            # Before that nothing can make it idle; what is at work now is looked at again and again.
            state = MigrationState.DRAINING
            wait = max(until - now, _SOON) if until > now else limits.idle_poll
        case Unknown(why=why):
            state, wait = MigrationState.QUEUED, limits.idle_poll
        case unreachable:
            assert_never(unreachable)
    if not looked and age_of(work.activity_at, now) >= limits.idle_poll:
        # At its deadline, too: that nobody has looked, since whoever would have died, is no agent at work. And planned first
        # where it may be over at once: what is seen of its use would be too old after that.
        may_be_over = change.needs_check and order is not None and not is_shut_out(work)
        return CheckJob() if may_be_over and Part.CHECK not in work.done else LookAtActivity()
    deadline = _deadline_of(order, change)
    if deadline is not None and now >= deadline:
        return _past_deadline(work, order, change, now, limits)
    reason = change.reason if change.drain is not None else None
    status = _waiting(work, state, f"waits until it is idle: {change.why}; {why}", limits, reason)
    if deadline is not None:
        wait = min(wait, deadline - now + timedelta(seconds=1))
    return Rest(status, wait, succeeded=True)


def _deadline_of(order: MigrationOrder | None, change: Interruption) -> datetime | None:
    if change.drain is not None:
        return change.drain.forced_at
    return order.deadline if order is not None else None


def end_turns(work: Work) -> AbortTurns | None:
    """Return what ends the turns at work before a stop, so that their history stays true; None when that was tried already."""
    runtime_answers = work.stack.status.runtime is not None and work.silent_probes == 0
    return AbortTurns() if runtime_answers and Part.ABORT not in work.done else None


def waits_for_no_agent(work: Work) -> bool:
    """Whether what is stale is replaced at once, as `when_stale` says where nobody has ordered otherwise."""
    return work.when_stale is WhenStale.NOW and work.stack.standing_order is None


def at_once(work: Work, change: Interruption, now: datetime, limits: Limits) -> Step:
    """
    Interrupt the runtime whatever its agent is at; a lease alone is waited for, since it was promised to a backend.

    1. No lease holds, and turns are at work. They are to be aborted, so that their history stays true.
    2. A backend takes a lease, is answered 200 and sends a prompt. Aborting now would break the promise.

    So the stop is committed first, which a lease prevents or is refused by, and turns are aborted after that.
    """
    busy_until = work.stack.busy_until
    if busy_until is not None and is_leased(work.stack, now):
        message = f"waits until no backend is at work with it: {change.why}"
        status = _waiting(work, MigrationState.DRAINING, message, limits)
        return Rest(status, max(busy_until - now, _SOON), succeeded=True)
    if Part.CHECK not in work.done:
        return CheckJob()
    return _interrupt(work, change, now, forced=False)


def _waiting(
    work: Work, state: MigrationState, message: str, limits: Limits, reason: Reason | None = None
) -> Status:
    return replace(
        work.stack.status,
        observed_generation=work.stack.intent.generation,
        health=health_of(work, limits),
        migration_state=state,
        reason=reason,
        message=message,
        attempts=0,
    )


def idle_stop(work: Work, now: datetime, limits: Limits) -> Step | timedelta | None:
    """
    Return the step by which a runtime that nobody has used for long is stopped, or when to look whether one is due.

    None where its group stops nothing, or nobody could wake it. It stays wanted: whoever asks for it wakes it.
    """
    after = work.idle_stop_after
    if after is None or is_shut_out(work):
        return None
    quiet = replace(limits, idle_after=max(after, limits.idle_after))
    looked = Part.ACTIVITY in work.done
    match may_interrupt(work, now, quiet):
        case Idle() if looked:
            message = f"stopping, since nobody has used it for {after.total_seconds():.0f} s"
            asleep = entered(work.stack, Phase.STOPPING, now=now, reason=Reason.IDLE, message=message)
            return Move(replace(asleep, observed_generation=work.stack.intent.generation), unless_busy=True)
        case Busy(until=until) if until > now or looked or age_of(work.activity_at, now) < after:
            # From the end of what it is at now, it has to be quiet for so long again.
            return max(limits.idle_poll, until - now if until > now else after)
        case _:
            return LookAtActivity() if not looked else max(limits.idle_poll, after)


def _interrupt(work: Work, change: Interruption, now: datetime, *, forced: bool) -> Step:
    if change.reload:
        return _reload(work, change, forced=forced)
    message = f"stopping in order to start as it should be: {change.why}"
    if change.drain is not None:
        message = f"stopping: {change.why}"
    recycled = change.reason is Reason.RECYCLE
    return replacing(work, change.reason, message, now, recycled=recycled, unless_busy=not forced)


def _reload(work: Work, change: Interruption, *, forced: bool) -> Step:
    """
    Have the process read its configuration anew, once that is committed: it ends every turn, as a stop does.

    1. The runtime was just seen idle; a backend takes a lease before it is told to read anew.
    2. Committed first, the reload is refused or the lease is. Without it, the prompt that follows would be cut off.
    """
    status = work.stack.status
    if is_reloading(status):
        return Reload()
    message = f"reads its configuration anew: {change.why}"
    committed = replace(
        status, migration_state=MigrationState.REPLACING, reason=Reason.STALE, message=message
    )
    return Move(committed, unless_busy=not forced)


def _past_deadline(
    work: Work, order: MigrationOrder | None, change: Interruption, now: datetime, limits: Limits
) -> Step:
    if order is None:
        return _force(work, change, now)
    status = replace(
        work.stack.status,
        observed_generation=work.stack.intent.generation,
        health=health_of(work, limits),
        order_done=order.id,
        # A fresh start is due no longer: without the order no agent would be waited for.
        fresh_start_done=work.stack.intent.fresh_start,
    )
    cannot_start_again = change.needs_check and is_shut_out(work)
    kept_by = "its node took nothing new" if cannot_start_again else "its agent was at work"
    at_deadline = order.at_deadline
    if at_deadline is AtDeadline.FORCE and cannot_start_again:
        # Force is for agents that never rest. This one would lose its runtime, and get none that is as it should be.
        at_deadline = AtDeadline.SKIP
    match at_deadline:
        case AtDeadline.SKIP:
            message = f"left as it is, since {kept_by} until the deadline: {change.why}"
            skipped = replace(
                status,
                migration_state=MigrationState.STALE,
                message=message,
                reason=None,
                order_outcome=OrderOutcome.SKIPPED,
            )
            return Rest(skipped, limits.idle_poll, succeeded=True)
        case AtDeadline.HOLD:
            message = f"held, since {kept_by} until the deadline: {change.why}. Recover or recreate it"
            held = replace(
                status, migration_state=MigrationState.HELD, message=message, reason=Reason.AT_WORK
            )
            return Rest(replace(held, order_outcome=OrderOutcome.HELD), None, succeeded=False)
        case AtDeadline.FORCE:
            return _force(work, change, now)
        case unreachable:
            assert_never(unreachable)


def _force(work: Work, change: Interruption, now: datetime) -> Step:
    """
    Interrupt what is at work, its turns aborted first.

    1. A node is drained, and that is listed.
    2. The drain is called off, or given longer; the next listing fails.
    3. By the last one, the time of the agents is over.

    So the node is looked at as the last act before. Where that fails, nothing could be stopped either.
    """
    if change.needs_check and Part.CHECK not in work.done:
        return CheckJob()
    if change.drain is not None and Part.NODES not in work.done:
        return LookAtNodes()
    return end_turns(work) or _interrupt(work, change, now, forced=True)
