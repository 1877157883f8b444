"""
The busy gate: whether what runs may be interrupted now. Pure.

Idle must be proven, and hold for a quiet period; what cannot be seen counts as busy. A lease counts before everything that
is seen: a backend may know of work that has not begun.
"""

from dataclasses import dataclass
from datetime import datetime

from opencode_lifecycle.lifecycle.reconciling.steps import Limits, Work
from opencode_lifecycle.model.lease import is_leased


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing works in it, nobody has said that they do, and nothing has happened for the quiet period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """It is at work, or was too lately. *until* is before when nothing can make it idle; *why* is for people."""

    until: datetime
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """It was not seen, or too long ago: to be looked at. *why* is for people."""

    why: str


Verdict = Idle | Busy | Unknown


def may_interrupt(work: Work, now: datetime, limits: Limits) -> Verdict:
    """
    Say whether the runtime may be interrupted at *now*.

    That is a judgement by what is known. The interruption itself is saved with `Move.unless_busy`, so that a lease which
    comes after this still counts (`model.lease`), and only after a look that was made for it.
    """
    stack, activity = work.stack, work.activity
    busy_until = stack.busy_until
    if busy_until is not None and is_leased(stack, now):
        return Busy(until=busy_until + limits.idle_after, why="a backend is at work with it")
    quiet_at = _quiet_since(work) + limits.idle_after
    if activity is not None and activity.busy:
        return Busy(until=max(now, quiet_at), why="a session of it works or waits for its user")
    if now < quiet_at:
        return Busy(until=quiet_at, why="it was used a moment ago")
    if activity is None or work.activity_at is None:
        return Unknown(why="it cannot be seen what its sessions do")
    if now - work.activity_at > limits.idle_poll:
        return Unknown(why="it was idle when it was last looked at, too long ago")
    return Idle()


def _quiet_since(work: Work) -> datetime:
    """
    Return when anything last happened in the runtime. One that has just started is about to be used.

    A lease that has lapsed is use like any other: whoever held it was at work until then, whatever the sessions show.
    """
    stack, activity = work.stack, work.activity
    assert stack.status.runtime is not None, "only what runs can be interrupted"
    changed_at = activity.changed_at if activity is not None else None
    used = (stack.status.runtime.proven_at, stack.busy_until, changed_at)
    return max(at for at in used if at is not None)
