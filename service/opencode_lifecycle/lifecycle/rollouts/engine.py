"""
What a rollout does next. Pure, and level-triggered: it asks what is true of the stacks now, never what just happened.

One turn takes in what the rows of the stacks show, makes at most one move of the rollout, and names what is to be done to
stacks. Run on its own result it finds nothing new; what it names stays named until the rows show that it was done.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from opencode_lifecycle.lifecycle.rollouts.gates import (
    Verdict,
    canaries_lacking,
    failures,
    failures_allowed,
    has_evidence,
    judge_wave,
    keeps_its_data,
)
from opencode_lifecycle.lifecycle.rollouts.pace import (
    Case,
    Pace,
    Sights,
    gives_its_place,
    in_turn,
    patience_with,
)
from opencode_lifecycle.lifecycle.rollouts.standing import (
    has_begun,
    is_at_rest,
    is_past,
    may_be_moved,
    may_go_back,
    rests,
    wakes_as_before,
)
from opencode_lifecycle.lifecycle.rollouts.turns import (
    Ask,
    Making,
    Order,
    OrderBack,
    Prepare,
    Quiet,
    Release,
    TakeBack,
    Turn,
    UseRelease,
)
from opencode_lifecycle.model.rollout import (
    Member,
    MemberReason,
    MemberState,
    Rollout,
    RolloutReason,
    RolloutState,
)
from opencode_lifecycle.model.states import Phase

MOST_PREPARED: Final = 100
"""Stacks of which nothing runs that are seen to in one turn: so that a pause never waits for thousands of them."""
STALLED_AFTER: Final = timedelta(minutes=30)
"""How long after its deadline an order may be without an outcome before a person is asked to look."""
BLOCKED_AFTER: Final = timedelta(minutes=5)
"""How long nothing may happen because too many stacks are without a working runtime, before the same."""
_NAMED: Final = 5
_EXPLAINED: Final = 3

_UNRESOLVED: Final = frozenset({MemberState.WAITING, MemberState.ORDERED})


def next_turn(
    rollout: Rollout, members: Sequence[Member], sights: Sights, now: datetime, quiet: Quiet | None = None
) -> Turn:
    """
    Work out the next turn of *rollout*. *members* are all of its members, in the order of their turns.

    Whoever takes one turn after another hands *quiet* from each to the next; the turn is the same without.
    """
    if not rollout.is_active:
        return Turn(rollout=rollout, members=(), actions=(), again_at=None)
    making = Making(_as_promoted(rollout, sights, now), members, sights, now, quiet or Quiet())
    match rollout.state:
        case RolloutState.RUNNING:
            _forward(making)
        case RolloutState.ROLLING_BACK:
            _backward(making)
        case RolloutState.ABORTED:
            _abort(making)
        case RolloutState.PAUSED:
            _pause(making)
        case RolloutState.SUCCEEDED | RolloutState.ROLLED_BACK | RolloutState.FAILED:
            pass
    return making.turn()


def _as_promoted(rollout: Rollout, sights: Sights, now: datetime) -> Rollout:
    """
    Return *rollout* with what is true of the fleet's target.

    Whoever made its release that, or took it back, may not have been able to write it down here.
    """
    if rollout.release in {None, rollout.target_before}:
        return rollout
    if sights.target != rollout.release:
        return rollout if rollout.promoted_at is None else replace(rollout, promoted_at=None)
    return rollout if rollout.promoted_at is not None else replace(rollout, promoted_at=now)


# --- there


def _forward(making: Making) -> None:
    if _stops_for_failures(making) or _lacks_canaries(making):
        return
    rollout = making.rollout
    wave = [case for case in making.cases if case.member.wave <= rollout.wave]
    unresolved = [case for case in wave if case.member.state in _UNRESOLVED]
    if unresolved:
        if rollout.settled_at is not None:
            making.rollout = replace(rollout, settled_at=None)
        pace = Pace(rollout, making.cases)
        was_full = pace.is_full
        _move_wave(making, [case for case in unresolved if case.member.state is MemberState.WAITING], pace)
        _give_places(making, is_full=was_full)
        _heed_pins(making)
        _watch_for_stalls(making)
        return
    _leave_wave(making, [case for case in wave if case.member.wave == rollout.wave])


def _stops_for_failures(making: Making) -> bool:
    """Stop where more failed than may: a canary takes everything back, whoever comes after it makes a person look."""
    rollout = making.rollout
    failed = failures(rollout, making.cases)
    if len(failed) <= failures_allowed(rollout, making.cases):
        return False
    message = f"{_stacks(len(failed))} failed: {_causes(failed)}"
    if rollout.wave > 0 or rollout.goes_back:
        making.enter(RolloutState.PAUSED, RolloutReason.FAILURES, message)
    elif all(member.reason == MemberReason.UNSEEN for member in failed):
        making.enter(RolloutState.PAUSED, RolloutReason.INCONCLUSIVE, message)
    elif rollout.release is None:
        making.enter(RolloutState.PAUSED, RolloutReason.CANARY_FAILED, message)
    else:
        making.enter(RolloutState.ROLLING_BACK, RolloutReason.CANARY_FAILED, message)
    return True


def _lacks_canaries(making: Making) -> bool:
    """Draw other canaries for those that could not be moved, as far as there are any that run."""
    rollout = making.rollout
    if rollout.wave > 0:
        return False
    for case in making.cases:
        # One that does not run proves nothing; it only starts on the release, when that is the fleet's target.
        if case.member.wave == 0 and case.member.state is MemberState.WAITING and _rests(rollout, case):
            making.change(replace(case.member, wave=max(1, rollout.waves)))
            return True
    lacking = canaries_lacking(rollout, making.cases)
    if lacking <= 0:
        return False
    others = [
        case
        for case in making.cases
        if case.member.wave > 0
        and case.member.state is MemberState.WAITING
        and case.stack is not None
        and not rests(rollout.specification, case.stack)
        and may_be_moved(rollout, case.member, case.stack)
    ]
    others = in_turn(others, making.sights)
    # What starts just now is none to be left out: it may be all that there is to prove the release.
    others.sort(key=lambda case: case.stack is None or case.stack.status.phase is not Phase.RUNNING)
    drawn = others[:lacking]
    for case in drawn:
        making.change(replace(case.member, wave=0))
    return bool(drawn)


def _move_wave(making: Making, waiting: Sequence[Case], pace: Pace) -> None:
    """Order as many of *waiting* as there are places, and see to those that only need to want something else."""
    rollout = making.rollout
    prepared, blocked = 0, False
    if pace.is_full and pace.taken:
        # Nobody can be ordered, and nobody is blocked while somebody is being moved.
        waiting = [case for case in waiting if case.stack is not None and is_at_rest(case.stack)]
    for case in in_turn(waiting, making.sights):
        member, stack = case.member, case.stack
        if stack is None or is_past(member, stack) or not may_be_moved(rollout, member, stack):
            continue
        if is_at_rest(stack):
            prepared += 1
            if prepared <= MOST_PREPARED:
                making.actions.append(Prepare(member))
        elif rests(rollout.specification, stack):
            continue
        elif pace.lets(case):
            pace.take(case)
            making.actions.append(Order(member))
        else:
            blocked = True
    if blocked and pace.taken == 0:
        _pause_when_blocked(making)


def _pause_when_blocked(making: Making) -> None:
    """
    Have a person look when nobody may be moved although nobody is being moved.

    Whoever is without a working runtime may get it back by itself; that is waited for, but not for ever.
    """
    changed_at = max((case.member.changed_at for case in making.cases), default=making.now)
    until = max(changed_at, making.rollout.entered_at) + BLOCKED_AFTER
    if making.now < until:
        making.look_again(until)
        return
    making.enter(
        RolloutState.PAUSED,
        RolloutReason.UNAVAILABLE,
        "as many stacks as may be are without a working runtime, and none of them is being moved",
    )


def _give_places(making: Making, *, is_full: bool) -> None:
    """
    Let agents that are at work keep nobody waiting: their stacks are moved last, and take turns there.

    Their deadline goes on from their first order.
    """
    rollout, last = making.rollout, making.rollout.waves + 1
    waiting = any(
        case.member.state is MemberState.WAITING and not _rests(rollout, case) for case in making.cases
    )
    deadline = rollout.specification.strategy.deadline
    for case in making.with_state(MemberState.ORDERED):
        member = case.member
        if not waiting or (member.wave >= last and not is_full):
            continue
        if gives_its_place(case, deadline, making.now):
            making.actions.append(Release(member))
        elif member.ordered_at is not None:
            making.look_again(member.ordered_at + patience_with(member))


def _heed_pins(making: Making) -> None:
    """Call off whoever waits for its agent and whose group was pinned meanwhile. A pin of its own ends its order by itself."""
    for case in making.with_state(MemberState.ORDERED):
        if making.sights.is_pinned_elsewhere(making.rollout, case.stack) and not case.member.goes_back:
            _call_off(making, case)


def _watch_for_stalls(making: Making) -> None:
    strategy, entered_at = making.rollout.specification.strategy, making.rollout.entered_at
    stalled = []
    for case in making.with_state(MemberState.ORDERED):
        ordered_at = case.member.ordered_at or entered_at
        until = max(ordered_at + strategy.deadline, entered_at) + STALLED_AFTER
        if making.now >= until:
            stalled.append(case.member)
        making.look_again(until)
    if stalled:
        message = f"nothing came of the orders to {_stacks(len(stalled))}: {_names(stalled)}"
        making.enter(RolloutState.PAUSED, RolloutReason.INCONCLUSIVE, message)


def _leave_wave(making: Making, wave: Sequence[Case]) -> None:
    """Ask the gate whether the next wave may begin, now that everybody in this one was seen to an end."""
    rollout = making.rollout
    judgement = judge_wave(rollout, wave, making.now)
    for member in judgement.failed:
        making.change(member)
    match judgement.verdict:
        case Verdict.WAITS:
            if rollout.settled_at is None:
                making.rollout = replace(rollout, settled_at=making.now)
            making.actions += [Ask(member) for member in judgement.ask]
            making.look_again(judgement.until)
        case Verdict.INCONCLUSIVE:
            message = f"neither healthy nor failed: {_names(judgement.doubtful)}"
            making.enter(RolloutState.PAUSED, RolloutReason.INCONCLUSIVE, message)
        case Verdict.PASSED:
            _go_on(making)


def _go_on(making: Making) -> None:
    rollout = making.rollout
    if rollout.wave == 0 and rollout.release is not None and rollout.promoted_at is None:
        if has_evidence(rollout, making.cases):
            making.actions.append(UseRelease(rollout.release, back=False))
        else:
            message = "no canary could be moved and judged, so nothing is known of the release"
            making.enter(RolloutState.ROLLING_BACK, RolloutReason.NO_CANARY, message)
        return
    if rollout.wave <= rollout.waves:
        making.rollout = replace(rollout, wave=rollout.wave + 1, settled_at=None)
        return
    making.enter(RolloutState.SUCCEEDED)


# --- and back


def _backward(making: Making) -> None:
    rollout = making.rollout
    if rollout.promoted_at is not None and rollout.target_before not in {None, rollout.release}:
        assert rollout.target_before is not None, "it is not among those"
        # First of all nobody comes to it any more.
        making.actions.append(UseRelease(rollout.target_before, back=True))
        return
    if _stops_for_failures(making):
        return
    remaining = [case for case in making.cases if _has_to_go_back(making, case)]
    pace = Pace(rollout, making.cases)
    for case in remaining:
        is_in_flight = case.member.state is MemberState.ORDERED
        if _goes_back_gently(case):
            making.actions.append(TakeBack(case.member))
        elif is_in_flight or pace.lets(case):
            making.actions.append(OrderBack(case.member))
            if not is_in_flight:
                pace.take(case)
    _watch_for_stalls(making)
    if not remaining and not making.with_state(*_UNRESOLVED) and making.rollout.state is rollout.state:
        has_failed = rollout.reason in {RolloutReason.CANARY_FAILED, RolloutReason.NO_CANARY}
        making.enter(
            RolloutState.FAILED if has_failed else RolloutState.ROLLED_BACK,
            rollout.reason,
            _with_those_that_stay(rollout.message, making.cases),
        )


def _has_to_go_back(making: Making, case: Case) -> bool:
    rollout, member, stack = making.rollout, case.member, case.stack
    if member.goes_back or stack is None or member.state is MemberState.WAITING:
        return False
    if wakes_as_before(rollout, stack) or making.sights.is_kept_by_its_group(rollout, stack):
        return False
    return may_go_back(rollout, member, stack)


def _goes_back_gently(case: Case) -> bool:
    """Whether going back disturbs nothing: nothing of it runs, or what runs is what ran before."""
    member, stack = case.member, case.stack
    assert stack is not None, "who is not there does not go back"
    if is_at_rest(stack):
        return True
    return (
        member.state in {MemberState.FAILED, MemberState.SKIPPED, MemberState.HELD}
        and stack.status.phase is Phase.RUNNING
        and stack.status.release == member.release_before
    )


def _pause(making: Making) -> None:
    """
    Call off whoever still waits to be moved; when the rollout goes on they are ordered again.

    Else an agent that comes to rest in an hour would be interrupted then, by a rollout that is paused. Whoever goes back
    has been moved once already, and is not left half way.
    """
    for case in making.with_state(MemberState.ORDERED):
        if not case.member.goes_back:
            _call_off(making, case)


def _abort(making: Making) -> None:
    in_flight = making.with_state(MemberState.ORDERED)
    for case in in_flight:
        _call_off(making, case)
    if not in_flight:
        making.rollout = replace(making.rollout, finished_at=making.now)


def _call_off(making: Making, case: Case) -> None:
    if case.stack is not None and not is_past(case.member, case.stack) and not has_begun(case.stack):
        making.actions.append(Release(case.member))


# --- words


def _with_those_that_stay(message: str, cases: Sequence[Case]) -> str:
    """Return *message* with who stays on the newer version because of what was written since."""
    staying = [case.member for case in cases if keeps_its_data(case.member)]
    if not staying:
        return message
    words = f"{_stacks(len(staying))} kept the newer version with what was written since: {_names(staying)}"
    return f"{message}; {words}" if message else words


def _rests(rollout: Rollout, case: Case) -> bool:
    return case.stack is not None and rests(rollout.specification, case.stack)


def _stacks(count: int) -> str:
    return "1 stack" if count == 1 else f"{count} stacks"


def _causes(failed: Sequence[Member]) -> str:
    """Name some of those that failed, each with what was the matter: what is taken back does not show it any more."""
    shown = sorted(failed, key=lambda member: member.user_id)[:_EXPLAINED]
    said = "; ".join(f"{member.user_id} ({member.message or member.reason})" for member in shown)
    return said if len(failed) <= _EXPLAINED else f"{said}; and {len(failed) - _EXPLAINED} more"


def _names(members: Sequence[Member]) -> str:
    shown = ", ".join(sorted(member.user_id for member in members)[:_NAMED])
    return shown if len(members) <= _NAMED else f"{shown} and {len(members) - _NAMED} more"
