"""What must be true before a rollout goes on: of its canaries, of each wave, and of the whole. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from opencode_lifecycle.lifecycle.rollouts.pace import Case
from opencode_lifecycle.lifecycle.rollouts.standing import is_asleep, is_at_rest, is_gone
from opencode_lifecycle.model.rollout import Member, MemberReason, MemberState, PromptVerdict, Rollout
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Health, MigrationState, Phase, Reason

GATE_PATIENCE: Final = timedelta(minutes=5)
"""How long the gate waits for what can be called neither healthy nor failed, after the soak."""
PROMPTED: Final = 5
"""Of how many stacks of a wave an answer to the prompt is asked for, at most."""
ASKED_AGAIN_AFTER: Final = timedelta(seconds=10)

_IN_MOTION: Final = frozenset({MigrationState.DRAINING, MigrationState.REPLACING, MigrationState.VERIFYING})


class Verdict(StrEnum):
    """What the gate says of a wave of which everybody was seen to an end."""

    PASSED = "passed"
    WAITS = "waits"
    INCONCLUSIVE = "inconclusive"
    """It waited for long enough, and still nothing can be said. That is not passing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """
    The verdict, and why. Who is found to have *failed* is no member of what passed.

    *ask* are those that the prompt is to be put to now. *until* is when it is worth looking again, without news.
    """

    verdict: Verdict
    failed: Sequence[Member] = ()
    ask: Sequence[Member] = ()
    until: datetime | None = None
    doubtful: Sequence[Member] = ()


def judge_wave(rollout: Rollout, wave: Sequence[Case], now: datetime) -> Judgement:
    """Judge a wave that has settled, once it has soaked."""
    moved = [case for case in wave if _is_judged(rollout, case)]
    strategy, settled_at = rollout.specification.strategy, rollout.settled_at
    if not moved:
        return Judgement(verdict=Verdict.PASSED)
    if settled_at is None or now < settled_at + strategy.soak:
        until = None if settled_at is None else settled_at + strategy.soak
        return Judgement(verdict=Verdict.WAITS, until=until)
    until = max(settled_at + strategy.soak, rollout.entered_at) + GATE_PATIENCE
    doubtful = [case for case in moved if strategy.gate.health and not _is_healthy(case.stack)]
    if doubtful:
        return _of_doubtful(doubtful, until, now)
    if strategy.gate.prompt is not None:
        return _of_prompts([case.member for case in moved[:PROMPTED]], until, now)
    return Judgement(verdict=Verdict.PASSED)


def failures(rollout: Rollout, cases: Sequence[Case]) -> list[Member]:
    """
    Return who failed in the direction in which the rollout goes.

    Whoever does not go back since their user has worked on is as good as before, and keeps nobody else from going back.
    """
    return [
        case.member
        for case in cases
        if case.member.state is MemberState.FAILED
        and case.member.goes_back is rollout.goes_back
        and not keeps_its_data(case.member)
    ]


def keeps_its_data(member: Member) -> bool:
    """Whether it stays on the newer version, with what was written since."""
    return member.state is MemberState.FAILED and member.goes_back and member.reason == Reason.DATA_NEWER


def failures_allowed(rollout: Rollout, cases: Sequence[Case]) -> int:
    """Return how many of all may fail; of the canaries none may, and who did fail and was let pass is not counted."""
    if rollout.wave == 0 and not rollout.goes_back:
        return rollout.forgiven
    total = sum(1 for case in cases if case.member.state is not MemberState.LEFT_OUT)
    return rollout.specification.strategy.gate.failure_budget.at_most(total) + rollout.forgiven


def canaries_lacking(rollout: Rollout, cases: Sequence[Case]) -> int:
    """
    Return how many more canaries are needed, because some could not be moved or show nothing of the release any more.

    1. A canary is moved. Before it has soaked its user stops it, or somebody recreates it on what the fleet is on still.
    2. Nobody is left to be looked at. The gate would pass what nobody has seen.
    """
    wanted = rollout.specification.strategy.canary.at_least(len(cases))
    there = {MemberState.WAITING, MemberState.ORDERED}
    return wanted - sum(
        1
        for case in cases
        if case.member.wave == 0 and (case.member.state in there or _is_judged(rollout, case))
    )


def has_evidence(rollout: Rollout, cases: Sequence[Case]) -> bool:
    """
    Whether a canary was moved and is there still to be judged, or none was there to be moved.

    1. A canary is moved. Before it has soaked its node is drained, or its user stops it, and nobody else could be one. The
       gate, which judges who runs, has nobody to object to.
    2. Or one is ordered, and waits for its agent. Its group is pinned; it gives its place back, and is a canary no more.

    So whoever was ordered counts, whichever wave it is in by now: until the release is proven only canaries are.
    """
    ordered = [case for case in cases if case.member.orders > 0]
    return not ordered or any(_is_judged(rollout, case) for case in ordered)


def _is_judged(rollout: Rollout, case: Case) -> bool:
    """Whether it was moved, runs, and is still what the rollout made it."""
    member, stack = case.member, case.stack
    return (
        member.state is MemberState.MIGRATED
        and member.reason != MemberReason.NOT_RUNNING
        and stack is not None
        and not is_gone(member, stack)
        and not is_at_rest(stack)
        and not is_asleep(stack)
        and (rollout.release is None or stack.intent.wanted_release == rollout.release)
    )


def _is_healthy(stack: Stack | None) -> bool:
    return (
        stack is not None
        and stack.status.phase is Phase.RUNNING
        and stack.status.health is Health.HEALTHY
        and stack.status.migration_state not in _IN_MOTION
    )


def _of_doubtful(doubtful: Sequence[Case], until: datetime, now: datetime) -> Judgement:
    if now < until:
        return Judgement(verdict=Verdict.WAITS, until=until)
    silent = [case for case in doubtful if case.stack and case.stack.status.health is Health.UNRESPONSIVE]
    failed = [
        case.member.moved_to(
            MemberState.FAILED,
            reason=MemberReason.UNHEALTHY.value,
            message="it was moved, and answers nothing",
            changed_at=now,
        )
        for case in silent
    ]
    if failed:
        return Judgement(verdict=Verdict.WAITS, failed=failed)
    return Judgement(verdict=Verdict.INCONCLUSIVE, doubtful=[case.member for case in doubtful])


def _of_prompts(asked: Sequence[Member], until: datetime, now: datetime) -> Judgement:
    failed = [
        member.moved_to(
            MemberState.FAILED,
            reason=MemberReason.NO_ANSWER.value,
            message=": ".join(filter(None, ("it did not answer the prompt", member.message))),
            changed_at=now,
        )
        for member in asked
        if member.prompt is PromptVerdict.FAILED
    ]
    if failed:
        return Judgement(verdict=Verdict.WAITS, failed=failed)
    unanswered = [member for member in asked if member.prompt is not PromptVerdict.ANSWERED]
    if not unanswered:
        return Judgement(verdict=Verdict.PASSED)
    if now >= until:
        return Judgement(verdict=Verdict.INCONCLUSIVE, doubtful=unanswered)
    due = [
        member
        for member in unanswered
        if member.prompt is None or now >= member.changed_at + ASKED_AGAIN_AFTER
    ]
    return Judgement(verdict=Verdict.WAITS, ask=due, until=min(until, now + ASKED_AGAIN_AFTER))
