"""Holding one stack on a release, whatever the fleet's target is. Pure, as all decisions."""

from dataclasses import replace

from opencode_lifecycle.lifecycle.requests.decisions import change, existing, noted
from opencode_lifecycle.lifecycle.requests.request import Decide, Request
from opencode_lifecycle.model.errors import BodyFault, InvalidBody, StackNotFound
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.operation import OperationKind
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Desired
from opencode_lifecycle.ports.stores import Decision, Situation


def pin(request: Request, release: ReleaseId) -> Decide:
    """Have the stack want *release*, also when the fleet moves on. Its runtime is brought there as `when_stale` says."""

    def decide(situation: Situation) -> Decision:
        stack = _lasting(request, situation)
        _check_resources(request, release, stack)
        intent = replace(stack.intent, wanted_release=release, pinned=True)
        if intent == stack.intent:
            return noted(request, stack, OperationKind.PIN)
        return change(request, stack, intent, OperationKind.PIN)

    return decide


def unpin(request: Request) -> Decide:
    """Have the stack want what its group wants again, which is the fleet's target for most."""

    def decide(situation: Situation) -> Decision:
        stack = _lasting(request, situation)
        if not stack.intent.pinned:
            return noted(request, stack, OperationKind.UNPIN)
        target = request.target(stack.intent.group)
        _check_resources(request, target, stack)
        return change(
            request, stack, replace(stack.intent, wanted_release=target, pinned=False), OperationKind.UNPIN
        )

    return decide


def _lasting(request: Request, situation: Situation) -> Stack:
    """Return the stack. One that is being deleted is as good as gone: what comes after it begins anew, without a pin."""
    stack = existing(request, situation)
    if stack.intent.desired is Desired.DELETED:
        raise StackNotFound(user_id=request.user_id)
    return stack


def _check_resources(request: Request, release: ReleaseId, stack: Stack) -> None:
    try:
        request.check_resources(release, stack.intent.resources)
    except InvalidBody as error:
        detail = f"the stack is of the resource class {stack.intent.resources}: {error.faults[0].detail}"
        raise InvalidBody([BodyFault("/release", detail)]) from None
