"""
What a request changes. Pure functions over the situation of one user, called inside the transaction that writes the
result, and possibly more than once.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from opencode_lifecycle.lifecycle.requests.request import DEFAULT_GROUP, Decide, Request, TakeOver
from opencode_lifecycle.model.errors import PreconditionFailed, StackHeld, StackNotFound
from opencode_lifecycle.model.identifiers import (
    JobId,
    job_id_of,
    new_event_id,
    new_operation_id,
)
from opencode_lifecycle.model.migration import MigrationOrder
from opencode_lifecycle.model.operation import Event, Operation, OperationKind, OperationState, PhaseEntered
from opencode_lifecycle.model.stack import Intent, Stack, Status, Successor
from opencode_lifecycle.model.states import Desired, Phase, Reason
from opencode_lifecycle.model.view import EnsureRequest
from opencode_lifecycle.ports.stores import Decision, Situation


def ensure(request: Request, wish: EnsureRequest) -> Decide:
    """Make the user's runtime run as *wish* says; what it leaves out stays as it is."""

    def decide(situation: Situation) -> Decision:
        stack = situation.stack
        if stack is None:
            _check_generation(request, None)
            return _create(request, wish, situation)
        _check_generation(request, stack)
        if stack.intent.held:
            raise StackHeld(user_id=stack.user_id)
        if stack.intent.desired is Desired.DELETED:
            return _succeed(request, wish, stack, situation)
        changed = _wished(stack.intent, wish)
        if stack.intent.desired is Desired.STOPPED or changed != stack.intent:
            intent = replace(changed, desired=Desired.RUNNING)
            if stack.status.phase is not Phase.RUNNING and not _keeps_its_release(stack):
                intent = replace(intent, wanted_release=request.target(intent.group))
            request.check_resources(intent.wanted_release, wish.resources)
            return change(request, stack, intent, OperationKind.ENSURE)
        asleep = stack.status.phase is Phase.STOPPED and stack.status.reason is Reason.IDLE
        # Nothing comes of it by itself, or not soon, also where what was asked for last has no outcome.
        is_down = stack.is_settled and (asleep or stack.status.phase is Phase.FAILED)
        # A runtime whose change was refused is as good as before, and may be asked for at any time: that is no wish to
        # have the change tried again.
        if _runs(stack) or (is_at_work(situation.last_operation) and not is_down):
            return Decision()
        if _keeps_its_release(stack):
            return change(request, stack, stack.intent, OperationKind.ENSURE)
        target = request.target(stack.intent.group)
        request.check_resources(target, wish.resources)
        intent = replace(stack.intent, wanted_release=target)
        return change(request, stack, intent, OperationKind.ENSURE)

    return decide


def start(request: Request, *, recover: bool = False, restore: bool = False) -> Decide:
    """Run a stack that exists, held or failed as it may be; with *restore* by an order that gives up newer data."""

    def decide(situation: Situation) -> Decision:
        stack = existing(request, situation)
        kind = OperationKind.RECOVER if recover else OperationKind.START
        intent = replace(stack.intent, desired=Desired.RUNNING, held=False)
        if stack.intent.desired is Desired.DELETED:
            return _succeed(request, EnsureRequest(), stack, situation)
        if stack.status.phase is not Phase.RUNNING and not _keeps_its_release(stack):
            intent = replace(intent, wanted_release=request.target(intent.group))
        if intent == stack.intent and _runs(stack) and not stack.waits_for_a_person and not restore:
            return noted(request, stack, kind)
        # Whoever asks for it says so: what was refused is tried again.
        generation = intent.generation + 1
        order = MigrationOrder(id=f"restore.{generation}", restore=True) if restore else intent.order
        return change(request, stack, replace(intent, recovered=generation, order=order), kind)

    return decide


def stop(request: Request, *, hold: bool) -> Decide:
    """Stop the stack; with *hold*, no ensure starts it again."""

    def decide(situation: Situation) -> Decision:
        stack = existing(request, situation)
        if stack.intent.desired is Desired.DELETED:
            if stack.intent.successor is None:
                return noted(request, stack, OperationKind.STOP)
            # What was to begin anew will not; the deletion goes on and keeps its operation.
            changed = change(request, stack, replace(stack.intent, successor=None), OperationKind.STOP)
            assert changed.operation is not None
            done = replace(changed.operation, state=OperationState.SUCCEEDED, finished_at=request.now)
            assert changed.stack is not None
            intent = replace(changed.stack.intent, last_operation=stack.intent.successor.deletion)
            stack = replace(changed.stack, intent=intent)
            return replace(changed, stack=stack, operation=done, supersede=False)
        intent = replace(stack.intent, desired=Desired.STOPPED, held=hold or stack.intent.held)
        if intent == stack.intent and stack.status.phase is Phase.STOPPED and stack.is_settled:
            return noted(request, stack, OperationKind.STOP)
        if intent == stack.intent and is_at_work(situation.last_operation):
            return Decision()
        return change(request, stack, intent, OperationKind.STOP)

    return decide


def recreate(request: Request, *, rotate: bool = False) -> Decide:
    """Replace the allocation by a new one, on the wanted release and, with *rotate*, with a new password."""

    def decide(situation: Situation) -> Decision:
        stack = existing(request, situation)
        kind = OperationKind.ROTATE_PASSWORD if rotate else OperationKind.RECREATE
        if stack.intent.desired is Desired.DELETED:
            if rotate:
                return noted(request, stack, kind)
            return _succeed(request, EnsureRequest(), stack, situation)
        if stack.intent.held and not rotate:
            raise StackHeld(user_id=stack.user_id)
        generation = stack.intent.generation + 1
        intent = replace(
            stack.intent,
            desired=stack.intent.desired if rotate else Desired.RUNNING,
            fresh_start=generation,
            recovered=generation,
            rotation=generation if rotate else stack.intent.rotation,
            wanted_release=stack.intent.wanted_release
            if stack.intent.pinned
            else request.target(stack.intent.group),
        )
        return change(request, stack, intent, kind)

    return decide


def delete(request: Request, *, delete_workspace: bool) -> Decide:
    """Tear the stack down. The volume is kept unless *delete_workspace*, also when it was kept by an earlier deletion."""

    def decide(situation: Situation) -> Decision:
        stack = situation.stack
        if stack is None:
            kept = situation.kept_workspace
            if kept is None or not delete_workspace:
                raise StackNotFound(user_id=request.user_id)
            _check_generation(request, None)
            created = _new_stack(request, EnsureRequest(), kept_status(situation, request.now))
            intent = replace(created.intent, desired=Desired.DELETED, delete_workspace=True)
            return _insert(request, replace(created, intent=intent), OperationKind.DELETE, forget_kept=True)
        _check_generation(request, stack)
        intent = replace(
            stack.intent,
            desired=Desired.DELETED,
            held=False,
            successor=None,
            delete_workspace=delete_workspace or stack.intent.delete_workspace,
        )
        if intent == stack.intent and is_at_work(situation.last_operation):
            return Decision()
        return change(request, stack, intent, OperationKind.DELETE)

    return decide


def adopt(request: Request, *, running: bool, take_over: TakeOver) -> Decide:
    """Make the row that a thing of ours lacks: it runs on if it does, as what *take_over* says, and else waits."""

    def decide(situation: Situation) -> Decision:
        if situation.stack is not None:
            return Decision()
        created = _new_stack(request, EnsureRequest(), kept_status(situation, request.now))
        desired = Desired.RUNNING if running else Desired.STOPPED
        intent, unknown = take_over(created)
        stack = replace(created, intent=replace(intent, desired=desired))
        taken = {**_differences(created.intent, intent), "not_known": unknown}
        kept = situation.kept_workspace is not None
        return _insert(request, stack, OperationKind.ADOPT, forget_kept=kept, **taken)

    return decide


def is_at_work(operation: Operation | None) -> bool:
    """Whether *operation* is there and not finished."""
    return operation is not None and not operation.state.is_finished


def successor_of(stack: Stack, *, now: datetime) -> Stack | None:
    """Return the next life of a deleted stack when one was asked for meanwhile. Its generation counts on."""
    wish = stack.intent.successor
    if wish is None:
        return None
    intent = Intent(
        generation=stack.intent.generation,
        desired=Desired.RUNNING,
        group=wish.group,
        resources=wish.resources,
        labels=wish.labels,
        environment=wish.environment,
        wanted_release=stack.intent.wanted_release,
        last_operation=wish.operation,
    )
    workspace = None if stack.intent.delete_workspace else stack.status.workspace
    return replace(
        stack,
        intent=intent,
        status=Status(phase_since=now, workspace=workspace),
        busy_until=None,
        created_at=now,
        updated_at=now,
    )


def kept_status(situation: Situation, now: datetime) -> Status:
    """Return the first status of a stack, with the workspace that an earlier life of it left behind."""
    kept = situation.kept_workspace
    return Status(phase_since=now, workspace=kept.workspace if kept is not None else None)


def _keeps_its_release(stack: Stack) -> bool:
    """
    Whether what it wants is not the fleet's to say: it is pinned, or just being moved by an order.

    An ensure that comes while a canary is replaced must not take it back to the target from before.
    """
    is_moved = stack.intent.desired is Desired.RUNNING and stack.standing_order is not None
    return stack.intent.pinned or is_moved


def _runs(stack: Stack) -> bool:
    """Whether the stack runs, and everything that was asked for was seen to."""
    return stack.status.phase is Phase.RUNNING and stack.is_settled


def existing(request: Request, situation: Situation) -> Stack:
    """Return the stack, or raise `StackNotFound`, or `PreconditionFailed` when it is not the one that was meant."""
    stack = situation.stack
    if stack is None:
        raise StackNotFound(user_id=request.user_id)
    _check_generation(request, stack)
    return stack


def _check_generation(request: Request, stack: Stack | None) -> None:
    if request.if_match is not None and (stack is None or stack.intent.generation != request.if_match):
        raise PreconditionFailed(generation=stack.intent.generation if stack else None)


def _wished(intent: Intent, wish: EnsureRequest) -> Intent:
    return replace(
        intent,
        group=wish.group if wish.group is not None else intent.group,
        resources=wish.resources if wish.resources is not None else intent.resources,
        labels=wish.labels if wish.labels is not None else intent.labels,
        environment=wish.environment if wish.environment is not None else intent.environment,
    )


def _new_stack(request: Request, wish: EnsureRequest, status: Status) -> Stack:
    job_id: JobId = job_id_of(request.installation, request.user_id)
    intent = Intent(
        generation=1,
        desired=Desired.RUNNING,
        group=DEFAULT_GROUP,
        resources=request.default_resources,
        labels={},
        environment={},
        wanted_release=request.target(wish.group or DEFAULT_GROUP),
    )
    return Stack(
        user_id=request.user_id,
        job_id=job_id,
        namespace=request.namespace,
        region=request.region,
        intent=_wished(intent, wish),
        status=status,
        created_at=request.now,
        updated_at=request.now,
    )


def _create(request: Request, wish: EnsureRequest, situation: Situation) -> Decision:
    stack = _new_stack(request, wish, kept_status(situation, request.now))
    request.check_resources(stack.intent.wanted_release, wish.resources)
    return _insert(request, stack, OperationKind.ENSURE, forget_kept=situation.kept_workspace is not None)


def _insert(
    request: Request, stack: Stack, kind: OperationKind, *, forget_kept: bool, **data: object
) -> Decision:
    operation = _operation(request, stack, kind)
    stack = replace(stack, intent=replace(stack.intent, last_operation=operation.id))
    return Decision(
        stack=stack,
        operation=operation,
        events=(_event(request, stack, kind, data),),
        wake=True,
        forget_kept_workspace=forget_kept,
    )


def change(request: Request, stack: Stack, intent: Intent, kind: OperationKind) -> Decision:
    """
    Write *intent* as the next generation.

    Asking again for what failed is a new generation too: whoever is at the failure under an old claim then sees that the
    row has moved on, and the new try is not lost in that worker's save.
    """
    generation = stack.intent.generation + 1
    intent = stack.beside_order(intent)
    changes = _differences(stack.intent, intent)
    changed = replace(stack, intent=replace(intent, generation=generation), updated_at=request.now)
    operation = _operation(request, changed, kind)
    changed = replace(changed, intent=replace(changed.intent, last_operation=operation.id))
    return Decision(
        stack=changed, operation=operation, events=(_event(request, changed, kind, changes),), wake=True
    )


def noted(request: Request, stack: Stack, kind: OperationKind) -> Decision:
    """Answer a request that changes nothing with an operation that has succeeded."""
    operation = replace(
        _operation(request, stack, kind), state=OperationState.SUCCEEDED, finished_at=request.now
    )
    return Decision(operation=operation, supersede=False)


def _succeed(request: Request, wish: EnsureRequest, stack: Stack, situation: Situation) -> Decision:
    """Accept an ensure of a stack that is being deleted: it begins anew when the deletion has ended."""
    was = stack.intent.successor
    target = request.target(wish.group or (was.group if was else DEFAULT_GROUP))
    request.check_resources(target, wish.resources)
    base = Intent(
        generation=0,
        desired=Desired.RUNNING,
        group=was.group if was else DEFAULT_GROUP,
        resources=was.resources if was else request.default_resources,
        labels=was.labels if was else {},
        environment=was.environment if was else {},
        wanted_release=target,
    )
    wished = _wished(base, wish)
    if was is not None and wished == base and is_at_work(situation.last_operation):
        return Decision()
    decision = change(request, stack, stack.intent, OperationKind.ENSURE)
    assert decision.stack is not None
    assert decision.operation is not None
    successor = Successor(
        group=wished.group,
        resources=wished.resources,
        labels=wished.labels,
        environment=wished.environment,
        operation=decision.operation.id,
        deletion=was.deletion if was else stack.intent.last_operation,
    )
    intent = replace(decision.stack.intent, successor=successor, wanted_release=target)
    # The deletion goes on, and its operation ends with a receipt.
    return replace(decision, stack=replace(decision.stack, intent=intent), supersede=False)


def _operation(request: Request, stack: Stack, kind: OperationKind) -> Operation:
    return Operation(
        id=new_operation_id(),
        kind=kind,
        user_id=stack.user_id,
        generation=stack.intent.generation,
        state=OperationState.ACCEPTED,
        phases=(PhaseEntered(phase=stack.status.phase, at=request.now),),
        principal=request.by.name,
        created_at=request.now,
    )


def _event(request: Request, stack: Stack, kind: OperationKind, changes: Mapping[str, Any]) -> Event:
    return Event(
        id=new_event_id(),
        user_id=stack.user_id,
        kind=f"stack.{kind}",
        actor=request.by.name,
        at=request.now,
        generation=stack.intent.generation,
        data=changes,
    )


_TOLD = ("desired", "group", "resources", "labels", "held", "wanted_release", "pinned", "delete_workspace")


def _differences(before: Intent, after: Intent) -> Mapping[str, Any]:
    """Return what changed, by name. Environment values are not repeated in history; their names are."""
    changes: dict[str, Any] = {}
    for name in _TOLD:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            changes[name] = {"from": old, "to": new}
    if before.order != after.order and before.order is not None:
        changes["order_ended"] = before.order.id
    if before.environment != after.environment:
        changes["environment"] = {"names": sorted(after.environment)}
    return changes
