"""What the states and reasons of rollouts mean to a person, and what a rollout waits for: sentences, from what the service says."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from shlex import quote
from typing import Any, Final

from opencode_lifecycle.cli.client import JsonObject
from opencode_lifecycle.cli.output import counted, duration, parse_time
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.rollout import (
    MemberReason,
    MemberState,
    Placement,
    RolloutReason,
    RolloutState,
)
from opencode_lifecycle.model.states import Reason

OF_ROLLOUTS: Final[Mapping[RolloutReason, str]] = {
    RolloutReason.OPERATOR: "somebody asked for it",
    RolloutReason.FAILURES: "more stacks failed than the failure budget allows",
    RolloutReason.CANARY_FAILED: "a canary did not pass",
    RolloutReason.NO_CANARY: "no canary could be moved and judged, so nothing is known of the release",
    RolloutReason.INCONCLUSIVE: "what was moved cannot be seen, so it can be called neither healthy nor failed",
    RolloutReason.UNAVAILABLE: "as many stacks are without a working runtime as may be",
}

_SAID_BY_MESSAGE: Final = frozenset(
    {RolloutReason.NO_CANARY, RolloutReason.INCONCLUSIVE, RolloutReason.UNAVAILABLE}
)
"""Of these the message says what the reason means, and more."""

OF_MEMBERS: Final[Mapping[MemberReason, str]] = {
    MemberReason.PINNED: "it is pinned to another release",
    MemberReason.HELD: "an operator holds it",
    MemberReason.DELETED: "it was deleted",
    MemberReason.STOPPED: "it was stopped; it starts on what is wanted then",
    MemberReason.NOT_RUNNING: "nothing of it runs; it starts on what is wanted then",
    MemberReason.RECREATED: "it was recreated meanwhile",
    MemberReason.MOVED: "it is there already, or was wanted elsewhere meanwhile",
    MemberReason.ORDERED_BY_ANOTHER: "another order moves it",
    MemberReason.CHANGED: "it changed after the plan was made",
    MemberReason.CONDITION: "a standing condition holds back what would be done to it",
    MemberReason.AT_WORK: "its agent is at work",
    MemberReason.UNHEALTHY: "it was moved, and is not healthy",
    MemberReason.NO_ANSWER: "it was moved, and did not answer the prompt",
    MemberReason.UNSEEN: "a neighbour was away, so nothing can be said of it",
    MemberReason.ROLLOUT_ENDED: "the rollout ended before its turn",
    MemberReason.CAME_LATER: "it came to the release by itself, and is taken back with the others",
}

IN_ORDER: Final = (
    MemberState.ORDERED,
    MemberState.MIGRATED,
    MemberState.FAILED,
    MemberState.HELD,
    MemberState.SKIPPED,
    MemberState.LEFT_OUT,
    MemberState.TAKEN_BACK,
    MemberState.WAITING,
)
"""Of the states of members, as a person reads them: what moves now, what has ended, what is to come."""

_OUTCOMES: Final[Mapping[RolloutState, str]] = {
    RolloutState.FAILED: "has failed",
    RolloutState.ABORTED: "was aborted",
    RolloutState.ROLLED_BACK: "was rolled back",
}

_NAMES: Final[Mapping[MemberState, str]] = {
    MemberState.ORDERED: "in flight",
    MemberState.LEFT_OUT: "left out",
    MemberState.TAKEN_BACK: "taken back",
}
_NOT_DONE: Final = frozenset({MemberState.WAITING, MemberState.ORDERED, MemberState.LEFT_OUT})
_SHOWN_VALUES: Final = frozenset({Facet.IMAGE, Facet.OPENCODE_VERSION, Facet.SECRET_VERSION, Facet.MISSING})
"""Of these a person can read what it has and should have; the others are digests, or long."""


def named(state: MemberState) -> str:
    return _NAMES.get(state, state.value)


def count_of(counts: Any, state: MemberState) -> int:
    """Return how many are in *state*; what is no number of a service we know is none."""
    value = counts.get(state.value) if isinstance(counts, Mapping) else None
    return value if isinstance(value, int) else 0


def total_of(counts: Any) -> int:
    return sum(count_of(counts, state) for state in MemberState)


def concerned_of(counts: Any) -> int:
    """Return how many a rollout is about. Who was left out is none of its business."""
    return total_of(counts) - count_of(counts, MemberState.LEFT_OUT)


def done_of(counts: Any) -> int:
    """Return how many were seen to their end, whatever came of them."""
    return sum(count_of(counts, state) for state in MemberState if state not in _NOT_DONE)


def done_text(counts: Any) -> str:
    """Say how far it is, such as `2 of 5, 1 left out`."""
    left_out = count_of(counts, MemberState.LEFT_OUT)
    done = f"{done_of(counts)} of {concerned_of(counts)}"
    return f"{done}, {left_out} left out" if left_out else done


def counts_text(counts: Any) -> str:
    """Say how many are in each state, such as `2 in flight, 5 migrated`."""
    said = [f"{count_of(counts, state)} {named(state)}" for state in IN_ORDER if count_of(counts, state)]
    return ", ".join(said) or "nobody"


def wave_name(wave: object, waves: object = None) -> str:
    """Name a wave: after the last of *waves* come those whose agents were at work when it was their turn."""
    if wave == 0:
        return "canary"
    if isinstance(wave, int) and isinstance(waves, int) and wave > waves:
        return "at work"
    return "-" if wave is None else str(wave)


def standing(rollout: JsonObject) -> str:
    """Say in which state it is, why, and at which wave."""
    said = str(rollout.get("state")).replace("_", " ")
    if rollout.get("state") == RolloutState.PAUSED and rollout.get("goes_back"):
        said += " on its way back"
    if not is_over(rollout) and not rollout.get("goes_back"):
        said += f", {_whose_turn(rollout)}"
    return said


def _whose_turn(rollout: JsonObject) -> str:
    wave, waves = rollout.get("wave"), rollout.get("waves")
    name = wave_name(wave, waves)
    if name == "canary":
        return "canaries"
    if name != "at work":
        return f"wave {name} of {waves}"
    was_anybody = any(each.get("wave") == wave for each in rollout.get("wave_counts") or ())
    return "those that were at work" if was_anybody else "all waves done"


def because(rollout: JsonObject) -> str:
    """Return the reason and the message of a rollout as one text; empty when nothing needs saying."""
    reason, message = rollout.get("reason"), str(rollout.get("message") or "")
    if message and reason in _SAID_BY_MESSAGE:
        return message
    if reason == RolloutReason.OPERATOR and message.startswith("by "):
        who, _, more = message.removeprefix("by ").partition("; ")
        return f"{who} asked for it{f'; {more}' if more else ''}"
    meaning = OF_ROLLOUTS[RolloutReason(reason)] if reason in set(RolloutReason) else str(reason or "")
    return ": ".join(part for part in (meaning, message) if part)


def who_rolled_back(rollout: JsonObject) -> str:
    """Return who had it rolled back, or an empty text where it goes back by itself, goes forward, or does not say."""
    is_on_its_way = rollout.get("state") in {RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK}
    is_by_somebody = rollout.get("reason") == RolloutReason.OPERATOR
    message = str(rollout.get("message") or "").partition("; ")[0]
    return message.removeprefix("by ") if is_on_its_way and is_by_somebody else ""


def outcome(rollout: JsonObject) -> str:
    """Say how one that is over and did not succeed has ended, such as `was aborted: olga asked for it`."""
    state, why = rollout.get("state"), because(rollout)
    said = _OUTCOMES[RolloutState(str(state))] if state in _OUTCOMES else f"has ended as {state}"
    return f"{said}: {why}" if why else said


def is_over(rollout: JsonObject) -> bool:
    return rollout.get("finished_at") is not None


def waits_of(rollout: JsonObject, *, now: datetime) -> Iterator[str]:
    """
    Say what a rollout waits for, most pressing first; nothing when it is over.

    What it may have been given is told: among its `draining` stacks of it whose agents are waited for, as its `members`
    some that are in flight, and as its `away` neighbours that cannot be reached.
    """
    if is_over(rollout):
        return
    state, rollout_id = rollout.get("state"), quote(str(rollout.get("id")))
    if state == RolloutState.PAUSED:
        why = because(rollout)
        yield (
            f"a person, since it is paused{f' ({why})' if why else ''}; then: opencode-lifecycle rollout resume, abort or "
            f"rollback {rollout_id}"
        )
    in_flight = count_of(rollout.get("counts"), MemberState.ORDERED)
    if in_flight:
        yield f"{counted(in_flight, 'stack')} in flight{_who_is_in_flight(rollout, in_flight)}"
        yield from rollout.get("away") or ()
        yield from _agents_at_work(rollout, now)
    soaks_until = parse_time(rollout.get("soaks_until"))
    if soaks_until is not None and not in_flight and soaks_until > now:
        yield f"its wave to show itself sound, until {_moment(soaks_until)} (in {_span(now, soaks_until)})"
    elif soaks_until is not None and not in_flight:
        asks = _gate_of(rollout).get("prompt")
        yield f"the gate: what was moved must be healthy{' and answer the prompt' if asks else ' as it should be'}"


def _gate_of(rollout: JsonObject) -> JsonObject:
    found: Any = rollout
    for name in ("specification", "strategy", "gate"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _who_is_in_flight(rollout: JsonObject, number: int) -> str:
    listed = rollout.get("members")
    items = listed.get("items") if isinstance(listed, Mapping) else None
    users = [str(each.get("user_id")) for each in items or () if each.get("state") == MemberState.ORDERED]
    more = number - len(users)
    return f": {', '.join(users)}{f' and {more} more' if more > 0 else ''}" if users else ""


def _agents_at_work(rollout: JsonObject, now: datetime) -> Iterator[str]:
    for stack in rollout.get("draining") or ():
        migration = stack.get("migration")
        order = migration.get("order") if isinstance(migration, Mapping) else None
        if not isinstance(order, Mapping) or str(order.get("id")).partition(".")[0] != rollout.get("id"):
            continue
        deadline = parse_time(order.get("deadline"))
        left = _span(now, deadline) if deadline is not None and deadline > now else ""
        until = f", until {_moment(deadline)}" if deadline is not None else ""
        is_seen = stack.get("reason") != Reason.UNKNOWN
        what = f"the agent of {stack.get('user_id')}" if is_seen else f"a look at {stack.get('user_id')}"
        yield f"{what}{until}{f' (in {left})' if left else ''}"


def waits_for_its_turn(rollout: JsonObject) -> bool:
    """Whether the first of the members that are there will be ordered by a rollout that is under way."""
    member = _first_member(rollout)
    return not is_over(rollout) and member is not None and member.get("state") == MemberState.WAITING


def in_rollout(rollout: JsonObject) -> Iterator[str]:
    """
    Say what became of the first of the members that are there, or that its turn has not come.

    Nothing of one that is being moved, which its stack says itself, nor that it was moved by one that is over.
    """
    member, rollout_id = _first_member(rollout), rollout.get("id")
    if member is None:
        return
    state, why = member.get("state"), str(member.get("message") or "")
    reason = member.get("reason")
    if not why and reason in set(MemberReason):
        why = OF_MEMBERS[MemberReason(reason)]
    if state == MemberState.WAITING and not is_over(rollout):
        wave = wave_name(member.get("wave"), rollout.get("waves"))
        place = {"canary": "among the canaries", "at work": "after all waves"}.get(wave, f"in wave {wave}")
        yield f"its turn comes {place} of {rollout_id}, which is {standing(rollout)}{f'; {why}' if why else ''}"
    elif state == MemberState.MIGRATED and not is_over(rollout):
        yield f"it was moved by {rollout_id}, which is {standing(rollout)}"
    elif state == MemberState.TAKEN_BACK and (who := who_rolled_back(rollout)):
        yield f"taken back in {rollout_id}, which {who} rolled back{f': {why}' if why else ''}"
    elif state not in {MemberState.WAITING, MemberState.ORDERED, MemberState.MIGRATED}:
        why = why or because(rollout)
        yield f"{str(state).replace('_', ' ')} in {rollout_id}{f': {why}' if why else ''}"


def _first_member(rollout: JsonObject) -> JsonObject | None:
    listed = rollout.get("members")
    items = listed.get("items") if isinstance(listed, Mapping) else None
    return items[0] if isinstance(items, list) and items and isinstance(items[0], Mapping) else None


def why_text(reasons: Any) -> str:
    """Say in what a stack is stale, with values only where a person can read them."""
    said = []
    for reason in reasons if isinstance(reasons, Sequence) else ():
        facet = str(reason.get("facet"))
        change = (
            f" {reason.get('have') or '-'} → {reason.get('want') or '-'}" if facet in _SHOWN_VALUES else ""
        )
        said.append(f"{facet}{change}")
    return ", ".join(said)


def totals_text(plan: JsonObject) -> str:
    """Say how many stacks a plan moves, in which way, and how many it leaves out and why."""
    totals = plan.get("totals") or {}
    classes = [f"{totals.get(each)} {each}" for each in ("live", "reload", "restart") if totals.get(each)]
    left_out = Counter(
        str(each.get("left_out")).replace("_", " ")
        for each in plan.get("stacks") or []
        if each.get("left_out")
    )
    said = f"{counted(int(totals.get('stacks') or 0), 'stack')} selected: {totals.get('to_move')} to move"
    said += f" ({', '.join(classes)})" if classes else ""
    said += f", {totals.get('left_out')} left out"
    said += f" ({', '.join(f'{number} {why}' for why, number in left_out.items())})" if left_out else ""
    if totals.get("busy"):
        said += f"; {totals['busy']} busy or not seen to be idle, which are waited for"
    not_asked = sum(
        each.get("class") == MigrationClass.RESTART and each.get("placement") == Placement.UNKNOWN
        for each in plan.get("stacks") or []
    )
    if not_asked:
        said += f"; {not_asked} of which Nomad was not asked, or could not say, whether it can place them"
    if totals.get("not_placeable"):
        said += f"; {totals['not_placeable']} that Nomad cannot place now"
    return f"{said}."


def waves_text(plan: JsonObject) -> str:
    """Say how many are in each wave, such as `canary 1, then 4, 4 and 2`."""
    sizes = Counter(each.get("wave") for each in plan.get("stacks") or [] if each.get("wave") is not None)
    canaries = sizes.pop(0, 0)
    waves = [str(sizes[wave]) for wave in sorted(sizes)]
    listed = " and ".join(part for part in (", ".join(waves[:-1]), *waves[-1:]) if part)
    if not canaries:
        return listed or "-"
    return f"canary {canaries}{f', then {listed}' if listed else ''}"


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _span(earlier: datetime, later: datetime) -> str:
    return duration(max(0, int((later - earlier).total_seconds())))
