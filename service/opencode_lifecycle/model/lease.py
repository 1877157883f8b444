"""
Work leases: a backend says that it is at work with a runtime, and until when.

A lease stands in the row of its stack, and so does the stop of its runtime. Whichever is committed first wins, and the
other is told:

1. A worker reads the row: no lease, and nothing works in the runtime. It plans to stop it.
2. A backend renews its lease. The row says so now, and the backend is answered 200.
3. The worker saves that it stops. The save reads the row again in its own transaction, finds a lease that holds, and writes
   nothing: `Busy`. Nomad was told nothing yet; the worker plans anew, and waits.

Or the other way round:

2. The worker saves that it stops, and only then tells Nomad.
3. The backend renews its lease. The renewal reads the row in its own transaction, finds that it stops, and writes nothing:
   `StackDraining`. The backend sends that runtime no more work.

There is no third order: both read and write the one row in one transaction, and of two that do, one waits for the other.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final

from opencode_lifecycle.model.errors import StackDraining
from opencode_lifecycle.model.stack import Stack, Status
from opencode_lifecycle.model.states import Desired, MigrationState, Phase, Reason

_SOON: Final = 2
"""Seconds after which to ask again where it goes on by itself: a runtime that is replaced is back within some of them."""
_LATER: Final = 30
"""Seconds after which to ask again where nothing changes before somebody asks for the stack."""


def leased(stack: Stack, until: datetime) -> Stack:
    """
    Return *stack* with a lease until *until*, or until later where it has that already: no renewal shortens a lease.

    Raises `StackDraining` where what runs will be stopped, or nothing runs and nobody has asked that it should. Who waits
    for a runtime that is still to start may say so: it is not taken away again before it was used.
    """
    check_may_be_leased(stack)
    if stack.busy_until is not None and stack.busy_until >= until:
        return stack
    return replace(stack, busy_until=until)


def is_leased(stack: Stack, at: datetime) -> bool:
    """Whether a lease holds at that moment."""
    return stack.busy_until is not None and stack.busy_until > at


def check_may_be_leased(stack: Stack) -> None:
    """Raise `StackDraining` unless a lease of *stack* would be kept, by where the row says that the stack is."""
    if stack.intent.desired is not Desired.RUNNING:
        raise StackDraining(f"The stack is to be {stack.intent.desired}.", retry_after=_LATER)
    match stack.status.phase:
        case Phase.STOPPING | Phase.DELETING:
            raise StackDraining("The runtime is being stopped.", retry_after=_SOON)
        case Phase.STOPPED | Phase.FAILED if stack.is_settled:
            # With a newer request than the status speaks for it is about to start.
            raise StackDraining("No runtime runs or is about to start; ensure the stack.", retry_after=_LATER)
        case Phase.STARTING | Phase.RUNNING if _is_to_be_replaced(stack):
            raise StackDraining("The runtime is about to be replaced by a fresh one.", retry_after=_SOON)
        case Phase.RUNNING if is_reloading(stack.status):
            raise StackDraining("The runtime is being reloaded.", retry_after=_SOON)


def is_reloading(status: Status) -> bool:
    """
    Whether it is committed that the process reads its configuration anew, which ends every turn.

    A runtime that is being replaced and runs is one whose files change under it; that alone disturbs nobody. That it is
    for being stale is written before it is told to read them, by a save which a lease prevents.
    """
    return (
        status.phase is Phase.RUNNING
        and status.migration_state is MigrationState.REPLACING
        and status.reason is Reason.STALE
    )


def _is_to_be_replaced(stack: Stack) -> bool:
    """
    Whether somebody asked for a fresh runtime at once, and that was not refused.

    By an order, what runs is waited for: it may be leased until its stop is saved.
    """
    is_left_alone = stack.is_refused and stack.is_settled
    is_waited_for = stack.status.phase in {Phase.STARTING, Phase.RUNNING} and stack.standing_order is not None
    is_due = stack.intent.fresh_start > stack.status.fresh_start_done
    return is_due and not is_left_alone and not is_waited_for
