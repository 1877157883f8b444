"""
How one stack stands for a rollout, told from its row alone. Pure.

A row says everything: which order stands in it and which was seen to the end, what the stack is wanted to be, and what
became of it. So whoever looks, also after a crash between two writes, finds the same.
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Self

from opencode_lifecycle.model.identifiers import ReleaseId, RolloutId
from opencode_lifecycle.model.migration import OrderOutcome
from opencode_lifecycle.model.rollout import Member, MemberReason, MemberState, Rollout, RolloutState
from opencode_lifecycle.model.rollout_specification import RolloutSpecification
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import OUTAGES, Desired, Health, MigrationState, Phase, Reason

_ORDER: Final = re.compile(r"(\.back)?(?:\.([1-9][0-9]*))?\Z", re.ASCII)
_BEGUN: Final = frozenset({MigrationState.REPLACING, MigrationState.VERIFYING})
_DOWN: Final = frozenset({Phase.STOPPING, Phase.STOPPED})
_FATAL: Final = frozenset({Reason.CRASH_LOOP, Reason.OUT_OF_MEMORY, Reason.OPEN_WITHOUT_PASSWORD})
_MOVED: Final = frozenset({MemberState.MIGRATED, MemberState.SKIPPED, MemberState.HELD, MemberState.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderName:
    """Which order of a rollout to one stack: the direction, and a number that no other one has."""

    back: bool
    number: int

    @classmethod
    def of(cls, member: Member) -> Self:
        """Name the last order that *member* was given."""
        return cls(back=member.goes_back, number=member.orders)

    def id_in(self, rollout_id: RolloutId) -> str:
        """Return the id of the order: that of the rollout, for the first one."""
        direction = ".back" if self.back else ""
        return f"{rollout_id}{direction}.{self.number}" if self.number > 1 else f"{rollout_id}{direction}"


def order_of(rollout_id: RolloutId, order_id: str) -> OrderName | None:
    """Return which order of the rollout bears that id, or None when it is not one of its."""
    if not order_id.startswith(rollout_id):
        return None
    found = _ORDER.match(order_id[len(rollout_id) :])
    return OrderName(back=bool(found[1]), number=int(found[2] or 1)) if found is not None else None


# --- what may be done to a stack


def is_past(member: Member, stack: Stack) -> bool:
    """Whether what is known of the stack is older than the rollout's own last change of it, and says nothing therefore."""
    return stack.intent.generation < member.generation


def is_gone(member: Member, stack: Stack | None) -> bool:
    """Whether the stack that is in the rollout is not there any more. What came after it under its name is another."""
    return (
        stack is None
        or stack.intent.desired is Desired.DELETED
        or stack.created_at != member.stack_created_at
    )


def is_at_rest(stack: Stack) -> bool:
    """Whether nothing of it runs, nor can before something else changes: it only starts on what is wanted by then."""
    is_down = stack.status.phase is Phase.FAILED or stack.is_held_by_node
    return stack.intent.desired is not Desired.RUNNING or is_down


def is_asleep(stack: Stack) -> bool:
    """
    Whether it was stopped since nobody used it, or is just being, and nothing was asked of it since.

    Whoever wakes it has it start on what the fleet is on by then. Any change of what it is wanted to be would wake it.
    """
    status = stack.status
    return (
        status.reason is Reason.IDLE
        and stack.intent.desired is Desired.RUNNING
        and status.phase in _DOWN
        and stack.is_settled
    )


def rests(specification: RolloutSpecification, stack: Stack) -> bool:
    """Whether a rollout leaves it down: one that is asleep is woken for a new password alone."""
    return is_at_rest(stack) or (is_asleep(stack) and not specification.rotate_passwords)


def wakes_as_before(rollout: Rollout, stack: Stack) -> bool:
    """Whether it is asleep, and wakes on what the fleet was on before the rollout, which goes back to that."""
    is_restored = rollout.promoted_at is None and rollout.target_before not in {None, rollout.release}
    return rollout.goes_back and is_restored and is_asleep(stack) and not stack.intent.pinned


def is_working(stack: Stack) -> bool:
    """Whether it has a runtime that can be used."""
    runtime = stack.status.runtime
    return (
        stack.status.phase is Phase.RUNNING
        and runtime is not None
        and runtime.address is not None
        and stack.status.health is not Health.UNRESPONSIVE
    )


def has_begun(stack: Stack) -> bool:
    """Whether its migration is past the point at which it can be called off."""
    return stack.status.migration_state in _BEGUN or stack.status.phase is not Phase.RUNNING


def why_left_out(rollout: Rollout, member: Member, stack: Stack | None) -> MemberReason | None:
    """Return why a member that was not moved is none of the rollout's business any more; None when it is."""
    if stack is None or is_gone(member, stack):
        return MemberReason.DELETED
    intent = stack.intent
    if intent.held:
        return MemberReason.HELD
    if intent.pinned and rollout.release is not None:
        return MemberReason.PINNED
    standing = stack.standing_order
    if standing is not None and order_of(rollout.id, standing.id) is None:
        return MemberReason.ORDERED_BY_ANOTHER
    if max(intent.fresh_start, intent.rotation) > member.generation:
        return MemberReason.RECREATED
    if rollout.release is not None and intent.wanted_release != member.release_before:
        return MemberReason.MOVED
    return None


def may_be_moved(rollout: Rollout, member: Member, stack: Stack) -> bool:
    """Whether the stack is as it was when the rollout took it up, and has no order of it."""
    order = stack.intent.order
    is_ordered = order is not None and _is_later(order_of(rollout.id, order.id), member)
    return (
        not is_ordered
        and not is_past(member, stack)
        and why_left_out(rollout, member, stack) is None
        and not (order is not None and stack.standing_order is not None)
    )


def may_go_back(rollout: Rollout, member: Member, stack: Stack) -> bool:
    """Whether the stack is wanted to be what the rollout made it, and has no order back."""
    if is_past(member, stack) or is_gone(member, stack) or stack.intent.pinned:
        return False
    order = stack.standing_order
    name = order_of(rollout.id, order.id) if order is not None else None
    if order is not None and (name is None or name.back):
        return False
    return (
        rollout.release is not None
        and stack.intent.wanted_release == rollout.release
        and member.release_before not in {None, rollout.release}
    )


def release_wanted(rollout: Rollout, member: Member) -> ReleaseId | None:
    """Return what the last order to *member* made the stack want; None for what it wanted anyway."""
    return member.release_before if member.goes_back else rollout.release


# --- what became of a stack


def observed(rollout: Rollout, member: Member, stack: Stack | None, now: datetime) -> Member:
    """Return *member* as the row of its stack shows it now; itself where nothing is new."""
    if is_gone(member, stack):
        return _of_gone(rollout, member, now)
    assert stack is not None, "what is not there is gone"
    if is_past(member, stack):
        return member
    order = stack.intent.order
    name = order_of(rollout.id, order.id) if order is not None else None
    if name is not None and _is_later(name, member):
        # Ordered, and the one who did was not able to write that down here.
        member = adopted(member, name, stack, now)
    if member.state is MemberState.ORDERED:
        return _of_ordered(rollout, member, stack, now)
    if rollout.goes_back and member.state is not MemberState.WAITING:
        return _of_going_back(rollout, member, stack, now)
    if member.state is MemberState.WAITING:
        return _of_waiting(rollout, member, stack, now)
    if member.state is MemberState.MIGRATED and _has_failed(rollout, member, stack):
        return _entered(
            member, stack, MemberState.FAILED, MemberReason.UNHEALTHY, now=now, message=stack.status.message
        )
    return member


def adopted(member: Member, name: OrderName, stack: Stack, now: datetime) -> Member:
    """Return *member* as one that was given the order of that name, in the row as it is."""
    return member.moved_to(
        MemberState.ORDERED,
        goes_back=name.back,
        orders=name.number,
        generation=stack.intent.generation,
        first_ordered_at=member.first_ordered_at or now,
        ordered_at=now,
        prompt=None,
        reason=None,
        message="",
        changed_at=now,
    )


def _is_later(name: OrderName | None, member: Member) -> bool:
    return name is not None and name.number > member.orders


def _of_gone(rollout: Rollout, member: Member, now: datetime) -> Member:
    is_open = member.state in {MemberState.WAITING, MemberState.ORDERED}
    is_moved = member.state in _MOVED and not member.goes_back
    if is_open or (is_moved and rollout.goes_back):
        return _entered(member, None, MemberState.LEFT_OUT, MemberReason.DELETED, now=now)
    return member


def _of_ordered(rollout: Rollout, member: Member, stack: Stack, now: datetime) -> Member:
    order, mine = stack.intent.order, OrderName.of(member).id_in(rollout.id)
    if stack.status.order_done == mine:
        return _finished(rollout, member, stack, now)
    if order is None or order.id != mine:
        return _without_order(rollout, member, stack, now)
    if stack.intent.desired is not Desired.RUNNING:
        return _entered(member, stack, MemberState.LEFT_OUT, MemberReason.STOPPED, now=now)
    if why := _overruled(rollout, member, stack):
        return _entered(member, stack, MemberState.LEFT_OUT, why, now=now)
    return member


def _overruled(rollout: Rollout, member: Member, stack: Stack) -> MemberReason | None:
    """Return what somebody did to a stack that has an order, or had one, that makes it none of the rollout's business."""
    intent, wanted = stack.intent, release_wanted(rollout, member)
    if intent.pinned and rollout.release is not None:
        return MemberReason.PINNED
    if max(intent.fresh_start, intent.rotation) > member.generation:
        return MemberReason.RECREATED
    return MemberReason.MOVED if wanted is not None and intent.wanted_release != wanted else None


def _without_order(rollout: Rollout, member: Member, stack: Stack, now: datetime) -> Member:
    """Judge a member whose order is gone: given back by the rollout itself, or overruled by somebody."""
    if stack.intent.desired is not Desired.RUNNING:
        return _entered(member, stack, MemberState.LEFT_OUT, MemberReason.STOPPED, now=now)
    if member.goes_back:
        wanted = stack.intent.wanted_release
        came = wanted == member.release_before
        return _entered(
            member,
            stack,
            MemberState.TAKEN_BACK if came else MemberState.LEFT_OUT,
            None if came else _ended_or(MemberReason.MOVED, rollout),
            now=now,
        )
    why = why_left_out(rollout, member, stack)
    if why is None and rollout.state is RolloutState.RUNNING:
        # It waits in the last wave of all: nobody waits there for anybody whose agent is not at work.
        waiting = replace(member, wave=rollout.waves + 1)
        return _entered(waiting, stack, MemberState.WAITING, MemberReason.AT_WORK, now=now)
    if why is None and rollout.state is RolloutState.PAUSED:
        return _entered(member, stack, MemberState.WAITING, None, now=now)
    return _entered(member, stack, MemberState.LEFT_OUT, why or MemberReason.ROLLOUT_ENDED, now=now)


def _ended_or(reason: MemberReason, rollout: Rollout) -> MemberReason:
    return MemberReason.ROLLOUT_ENDED if rollout.state is RolloutState.ABORTED else reason


def _finished(rollout: Rollout, member: Member, stack: Stack, now: datetime) -> Member:
    """
    Judge a member whose order was seen to its end.

    1. A stack is moved. Before the rollout looks at it again, somebody pins it to what it ran before.
    2. It goes back to that: to call it moved would count on a release that nobody runs there.
    """
    status, wanted = stack.status, release_wanted(rollout, member)
    match status.order_outcome:
        case OrderOutcome.DONE if wanted is not None and stack.intent.wanted_release != wanted:
            why = MemberReason.PINNED if stack.intent.pinned else MemberReason.MOVED
            return _entered(member, stack, MemberState.LEFT_OUT, why, now=now)
        case OrderOutcome.DONE:
            state = MemberState.TAKEN_BACK if member.goes_back else MemberState.MIGRATED
            return _entered(member, stack, state, None, now=now)
        case OrderOutcome.SKIPPED:
            return _entered(
                member, stack, MemberState.SKIPPED, MemberReason.AT_WORK, now=now, message=status.message
            )
        case OrderOutcome.HELD:
            by_node = status.reason is Reason.NODE_DRAINING
            held_for = Reason.NODE_DRAINING if by_node else MemberReason.AT_WORK
            return _entered(member, stack, MemberState.HELD, held_for, now=now, message=status.message)
        case OrderOutcome.FAILED | None:
            reason = MemberReason.UNSEEN if status.reason in OUTAGES else status.reason
            return _entered(member, stack, MemberState.FAILED, reason, now=now, message=status.message)


def _of_waiting(rollout: Rollout, member: Member, stack: Stack, now: datetime) -> Member:
    intent = stack.intent
    moves = rollout.release is not None and rollout.release != member.release_before
    if rests(rollout.specification, stack) and not is_at_rest(stack):
        return _of_asleep(rollout, member, stack, now, moves=moves)
    is_left_out = intent.held or (intent.pinned and rollout.release is not None)
    if is_at_rest(stack) and not is_left_out:
        is_prepared = moves and intent.wanted_release == rollout.release
        has_rotated = rollout.specification.rotate_passwords and intent.rotation > member.generation
        if is_prepared or (has_rotated and not moves):
            return _entered(member, stack, MemberState.MIGRATED, MemberReason.NOT_RUNNING, now=now)
        if not moves and not rollout.specification.rotate_passwords:
            # There is nothing to prepare: it starts on what it wants in any case.
            return _entered(member, stack, MemberState.LEFT_OUT, MemberReason.NOT_RUNNING, now=now)
    if (why := why_left_out(rollout, member, stack)) is not None:
        return _entered(member, stack, MemberState.LEFT_OUT, why, now=now)
    if rollout.goes_back or rollout.state is RolloutState.ABORTED:
        return _entered(member, stack, MemberState.LEFT_OUT, MemberReason.ROLLOUT_ENDED, now=now)
    return member


def _of_asleep(rollout: Rollout, member: Member, stack: Stack, now: datetime, *, moves: bool) -> Member:
    """Judge who is left to sleep: when its wave has come the release is the fleet's target, and it wakes on that."""
    if not moves:
        return _entered(member, stack, MemberState.LEFT_OUT, MemberReason.NOT_RUNNING, now=now)
    is_there = stack.intent.wanted_release == rollout.release and not stack.intent.pinned
    if not is_there:
        if (why := why_left_out(rollout, member, stack)) is not None:
            return _entered(member, stack, MemberState.LEFT_OUT, why, now=now)
        if rollout.goes_back or rollout.state is RolloutState.ABORTED:
            return _entered(member, stack, MemberState.LEFT_OUT, MemberReason.ROLLOUT_ENDED, now=now)
    if is_there or rollout.wave >= max(1, member.wave):
        return _entered(member, stack, MemberState.MIGRATED, MemberReason.NOT_RUNNING, now=now)
    return member


def _of_going_back(rollout: Rollout, member: Member, stack: Stack, now: datetime) -> Member:
    """Judge whom the rollout moved, once, and that has no order back of it."""
    if member.state is MemberState.LEFT_OUT and (member.orders == 0 or member.goes_back):
        return member
    if member.state not in _MOVED | {MemberState.LEFT_OUT} or member.goes_back:
        return member
    if stack.intent.pinned:
        return _entered(member, stack, MemberState.LEFT_OUT, MemberReason.PINNED, now=now)
    standing = stack.standing_order
    if standing is not None and order_of(rollout.id, standing.id) is None:
        return _entered(member, stack, MemberState.LEFT_OUT, MemberReason.ORDERED_BY_ANOTHER, now=now)
    if stack.intent.wanted_release == member.release_before:
        return _entered(member, stack, MemberState.TAKEN_BACK, None, now=now)
    if wakes_as_before(rollout, stack):
        return _entered(member, stack, MemberState.TAKEN_BACK, MemberReason.NOT_RUNNING, now=now)
    if stack.intent.wanted_release != rollout.release:
        return _entered(member, stack, MemberState.LEFT_OUT, MemberReason.MOVED, now=now)
    return member


def _has_failed(rollout: Rollout, member: Member, stack: Stack) -> bool:
    """Whether a stack that was moved does not run any more, beyond doubt, and nobody changed it since."""
    status = stack.status
    is_its_own = rollout.release is None or stack.intent.wanted_release == rollout.release
    return (
        member.reason != MemberReason.NOT_RUNNING
        and is_its_own
        and stack.intent.desired is Desired.RUNNING
        and status.reason not in OUTAGES
        and (status.phase is Phase.FAILED or status.reason in _FATAL)
    )


def _entered(
    member: Member,
    stack: Stack | None,
    state: MemberState,
    reason: MemberReason | Reason | None,
    *,
    now: datetime,
    message: str = "",
) -> Member:
    why = reason.value if reason is not None else None
    if (member.state, member.reason, member.message) == (state, why, message):
        return member
    generation = max(member.generation, stack.intent.generation) if stack is not None else member.generation
    return member.moved_to(state, generation=generation, reason=why, message=message, changed_at=now)
