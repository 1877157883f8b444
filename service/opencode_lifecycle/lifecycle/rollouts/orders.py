"""
What a rollout changes of a stack: its intent, and nothing else. Pure functions, called inside the transaction that writes.

Each looks again at what it was decided on: between that and its transaction anybody may have changed the stack, and people
come first. Where one finds that it is not to be done any more it changes nothing; what became of the stack is then seen in
its row (`standing.observed`), as it is after a crash.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from opencode_lifecycle.lifecycle.requests.request import Decide
from opencode_lifecycle.lifecycle.rollouts.standing import (
    OrderName,
    has_begun,
    is_at_rest,
    is_past,
    may_be_moved,
    may_go_back,
    order_of,
    release_wanted,
    rests,
)
from opencode_lifecycle.lifecycle.rollouts.turns import (
    Action,
    Ask,
    Order,
    OrderBack,
    Prepare,
    Release,
    TakeBack,
    UseRelease,
)
from opencode_lifecycle.model.identifiers import new_event_id
from opencode_lifecycle.model.migration import DataPolicy, MigrationOrder
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.rollout import Member, Rollout
from opencode_lifecycle.model.stack import Intent, Stack
from opencode_lifecycle.ports.stores import Decision, Situation

SHORTEST_DEADLINE: Final = timedelta(seconds=30)
"""What an order gives a runtime at least: one that has used up its deadline may have become idle since."""


def decision_of(action: Action, rollout: Rollout, now: datetime) -> Decide | None:
    """Return what *action* changes of the stack of its member; None when it changes none."""
    match action:
        case Order(member):
            return order(rollout, member, now=now)
        case OrderBack(member):
            return order_back(rollout, member, now=now)
        case Release(member):
            return release(rollout, member, now=now)
        case Prepare(member):
            return prepare(rollout, member, now=now)
        case TakeBack(member):
            return take_back(rollout, member, now=now)
        case Ask() | UseRelease():
            return None


def order(rollout: Rollout, member: Member, *, now: datetime) -> Decide:
    """Order the stack to be migrated, unless it was ordered already or is none of the rollout's business any more."""

    def decide(situation: Situation) -> Decision:
        stack = situation.stack
        if stack is None or not may_be_moved(rollout, member, stack) or rests(rollout.specification, stack):
            return Decision()
        return _ordered(rollout, member, stack, back=False, now=now)

    return decide


def order_back(rollout: Rollout, member: Member, *, now: datetime) -> Decide:
    """Order the stack back to what it was wanted to be before, also in the middle of its way there."""

    def decide(situation: Situation) -> Decision:
        stack = situation.stack
        if stack is None or not may_go_back(rollout, member, stack) or is_at_rest(stack):
            return Decision()
        return _ordered(rollout, member, stack, back=True, now=now)

    return decide


def prepare(rollout: Rollout, member: Member, *, now: datetime) -> Decide:
    """Have a stack of which nothing runs start on what the rollout moves to."""

    def decide(situation: Situation) -> Decision:
        stack = situation.stack
        if stack is None or not may_be_moved(rollout, member, stack) or not is_at_rest(stack):
            return Decision()
        intent = stack.intent
        if rollout.release is not None:
            intent = replace(intent, wanted_release=rollout.release)
        if rollout.specification.rotate_passwords:
            intent = replace(intent, rotation=intent.generation + 1)
        if intent == stack.intent:
            return Decision()
        return _changed(rollout, stack, intent, "stack.prepared", now=now)

    return decide


def take_back(rollout: Rollout, member: Member, *, now: datetime) -> Decide:
    """Have a stack want what it was wanted to be before, where that disturbs nothing that runs."""

    def decide(situation: Situation) -> Decision:
        stack = situation.stack
        if stack is None or not may_go_back(rollout, member, stack):
            return Decision()
        order = stack.intent.order
        is_ours = order is not None and order_of(rollout.id, order.id) is not None
        before = stack.calling_off(stack.intent) if is_ours else stack.intent
        intent = replace(before, wanted_release=member.release_before or before.wanted_release)
        return _changed(rollout, stack, intent, "stack.taken_back", now=now)

    return decide


def release(rollout: Rollout, member: Member, *, now: datetime) -> Decide:
    """Take the order back from a stack whose migration has not begun; it stays as it is."""

    def decide(situation: Situation) -> Decision:
        stack = situation.stack
        if stack is None or is_past(member, stack) or has_begun(stack):
            return Decision()
        order = stack.standing_order
        if order is None or order_of(rollout.id, order.id) != OrderName.of(member):
            return Decision()
        came_from = rollout.release if member.goes_back else member.release_before
        wanted = stack.intent.wanted_release
        if came_from is not None and wanted == release_wanted(rollout, member):
            wanted = came_from
        intent = replace(stack.calling_off(stack.intent), wanted_release=wanted)
        return _changed(rollout, stack, intent, "stack.released", now=now)

    return decide


def _ordered(rollout: Rollout, member: Member, stack: Stack, *, back: bool, now: datetime) -> Decision:
    strategy, specification = rollout.specification.strategy, rollout.specification
    first = member.first_ordered_at if member.first_ordered_at is not None and not back else now
    generation = stack.intent.generation + 1
    is_first = not back and member.orders == 0 and stack.intent.generation == member.generation
    # A generation is never given twice, whatever became of an earlier order and of what was written down of it.
    number = 1 if is_first else generation
    order = MigrationOrder(
        id=OrderName(back=back, number=number).id_in(rollout.id),
        deadline=max(first + strategy.deadline, now + min(strategy.deadline, SHORTEST_DEADLINE)),
        at_deadline=strategy.at_deadline,
        rotate=specification.rotate_passwords and not back,
        fresh=specification.recreate and not back,
        restore=back and rollout.rollback_data is DataPolicy.RESTORE,
    )
    wanted = member.release_before if back else rollout.release
    before = stack.calling_off(stack.intent)
    intent = replace(
        before,
        order=order,
        wanted_release=wanted or stack.intent.wanted_release,
        # Somebody asked for it: what was refused before is tried again, this once.
        recovered=generation,
        rotation=generation if order.rotate else before.rotation,
        fresh_start=generation if order.fresh else before.fresh_start,
    )
    return _changed(rollout, stack, intent, "stack.ordered", now=now, order=order.id)


def _changed(
    rollout: Rollout, stack: Stack, intent: Intent, kind: str, *, now: datetime, **data: Any
) -> Decision:
    before, generation = stack.intent, stack.intent.generation + 1
    changed = replace(stack, intent=replace(intent, generation=generation), updated_at=now)
    if before.wanted_release != intent.wanted_release:
        data["wanted_release"] = {"from": before.wanted_release, "to": intent.wanted_release}
    event = Event(
        id=new_event_id(),
        user_id=stack.user_id,
        kind=kind,
        actor=rollout.created_by,
        at=now,
        generation=generation,
        data={"rollout": rollout.id, **data},
    )
    return Decision(stack=changed, events=(event,), wake=True)
