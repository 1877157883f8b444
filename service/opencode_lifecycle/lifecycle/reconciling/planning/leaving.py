"""
A stack whose node takes nothing new: emptied through the gate while the node is drained, and held where it cannot run
anywhere else.

A workspace is bound to its node, so what was stopped there waits until that node is open again, and goes on by itself
then. Only what is known counts: of a node that cannot be seen nothing is concluded, neither that it is closed nor that
it is open again.
"""

from dataclasses import replace
from datetime import datetime

from opencode_lifecycle.lifecycle.reconciling.planning.interrupting import Interruption, at_gate
from opencode_lifecycle.lifecycle.reconciling.planning.moves import entered, is_shut_out
from opencode_lifecycle.lifecycle.reconciling.steps import Limits, Look, Move, Part, Rest, Step, Work
from opencode_lifecycle.model.migration import OrderOutcome
from opencode_lifecycle.model.node import ClosedNode
from opencode_lifecycle.model.observation import JobSeen, Observation
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.states import Health, MigrationState, Phase, Reason


def is_drained(work: Work) -> bool:
    """Whether the node that it runs on is being emptied."""
    return work.closed_node is not None and work.closed_node.drain is not None


def is_forced(work: Work, now: datetime) -> bool:
    """Whether the drain of its node waits for nobody any more."""
    node = work.closed_node
    forced_at = node.drain.forced_at if node is not None and node.drain is not None else None
    return forced_at is not None and now >= forced_at


def leave(work: Work, now: datetime, limits: Limits) -> Step:
    """
    Take the runtime off its node that is being drained: when it is idle, or shortly before Nomad ends it.

    An order that it has is at its end with that: what it is wanted to be it becomes at its next start.
    """
    node = work.closed_node
    assert node is not None, "only a node that is known is left"
    if work.stack.standing_order is not None:
        return Move(_with_order_held(work, work.stack.status))
    change = Interruption(why=_why(node), reason=Reason.NODE_DRAINING, drain=node.drain)
    return at_gate(work, change, now, limits)


def ended_by_node(work: Work, seen: Observation, now: datetime) -> Step | None:
    """
    See to a stack of which nothing is left to run and that cannot be placed again: its job is stopped, and it is held.

    1. The deadline of a drain passes before we were done, or a task ends on a node that takes nothing new.
    2. Nomad keeps the job, and starts it as soon as the node is open, whatever is wanted by then.

    So that is ours to do. What a list does not show is looked for directly before.
    """
    job = seen.job
    is_meant_to_run = any(
        allocation.desired_status == "run" and not allocation.client_status.is_terminal
        for allocation in seen.allocations
    )
    if not is_shut_out(work) or is_meant_to_run or not isinstance(job, JobSeen) or job.stopped:
        return None
    if not _was_seen_since(work, now):
        return None
    if Part.LOOK not in work.done:
        return Look()
    assert work.closed_node is not None, "it is shut out by a node"
    message = f"nothing of it runs any more, and {_why(work.closed_node)}"
    stopping = entered(
        work.stack, Phase.STOPPING, now=now, reason=Reason.NODE_DRAINING, message=message, runtime=None
    )
    if work.stack.status.phase is Phase.RUNNING:
        # It may have been at work: which turns were cut off is asked when it runs again.
        stopping = replace(stopping, migration_state=MigrationState.REPLACING, migrating_since=now)
    return Move(stopping)


def held(work: Work, now: datetime) -> Move | None:
    """Return the move by which a stack is held that cannot be placed, since its workspace is on a closed node."""
    if not is_shut_out(work):
        return None
    assert work.closed_node is not None, "it is shut out by a node"
    status = entered(
        work.stack,
        Phase.STOPPED,
        now=now,
        reason=Reason.NODE_DRAINING,
        message=_waits_for(work.closed_node),
        runtime=None,
        health=Health.UNKNOWN,
        migration_state=MigrationState.HELD,
        attempts=0,
    )
    return Move(status)


def plan_held(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    """Leave a stack held until its node is known to be open, whatever is asked for meanwhile; then start it."""
    stack = work.stack
    runs = (isinstance(seen.job, JobSeen) and not seen.job.stopped) or bool(seen.live)
    is_bound = work.needs.workspace and stack.status.workspace is not None
    is_open = work.nodes_age is not None and not is_shut_out(work)
    if runs or not is_bound or (is_open and _was_seen_since(work, now)):
        # A migration that has stopped it goes on where it was, and ends when the new runtime is verified.
        was_stopped = stack.status.migrating_since is not None
        state = MigrationState.REPLACING if was_stopped else MigrationState.CURRENT
        return Move(entered(stack, Phase.PENDING, now=now, migration_state=state))
    message = _waits_for(work.closed_node) if work.closed_node is not None else stack.status.message
    status = replace(_with_order_held(work, stack.status), message=message)
    status = replace(status, observed_generation=stack.intent.generation)
    return Rest(status, limits.poll if is_open else None)


def _was_seen_since(work: Work, now: datetime) -> bool:
    """
    Whether the nodes were seen since the stack came to where it is.

    1. A replica sees that the node is closed, and holds the stack.
    2. Another has not seen that yet. By what it knows, it would start it; and the first would hold it again.
    """
    return work.nodes_age is not None and now - work.nodes_age > work.stack.status.phase_since


def news_of_drain(
    before: Status, after: Status, node: ClosedNode | None
) -> tuple[str, dict[str, object]] | None:
    """Return the event of a runtime that begins to wait for its agent because its node is drained, or need not any more."""
    waited, waits = (
        status.phase is Phase.RUNNING and status.reason is Reason.NODE_DRAINING for status in (before, after)
    )
    if waits and not waited and node is not None and node.drain is not None:
        until = node.drain.forced_at.isoformat() if node.drain.forced_at is not None else None
        return "stack.node_draining", {"node": node.name, "until": until, "message": after.message}
    if waited and not waits and after.phase is Phase.RUNNING:
        return "stack.drain_called_off", {}
    return None


def _with_order_held(work: Work, status: Status) -> Status:
    """
    End the order. A fresh start that it asked for is due no longer, since every start from here on is one.

    1. An agent is at work under an order of a fresh start, and its node is drained.
    2. The order ends, and the fresh start stays due. Nobody is waited for then: it would be stopped at once.
    """
    order = work.stack.standing_order
    if order is None:
        return status
    return replace(
        status,
        order_done=order.id,
        order_outcome=OrderOutcome.HELD,
        fresh_start_done=work.stack.intent.fresh_start,
    )


def _why(node: ClosedNode) -> str:
    return f"node {node.name} {'is being drained' if node.drain is not None else 'takes nothing new'}"


def _waits_for(node: ClosedNode) -> str:
    return f"its workspace lies on node {node.name}, which takes nothing new; it starts by itself when that does again"
