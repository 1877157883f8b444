"""Why one stack is as it is, what happens next and what that waits for: sentences from what the service says. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from shlex import quote
from typing import Any, Final

from opencode_lifecycle.cli.advice import about_condition, meaning_of
from opencode_lifecycle.cli.client import JsonObject
from opencode_lifecycle.cli.output import duration, parse_time
from opencode_lifecycle.cli.rollout_words import because, in_rollout, waits_for_its_turn, who_rolled_back
from opencode_lifecycle.cli.situation import situation_of, what_to_do
from opencode_lifecycle.model.rollout import RolloutState
from opencode_lifecycle.model.states import FINAL_REASONS, OUTAGES, Desired, MigrationState, Phase, Reason

Row = tuple[str, str]

ROLLOUT_PREFIX: Final = "ro_"
BACK: Final = ".back"
"""In the id of an order of a rollout that takes back what it moved."""

_BY_CLASS: Final[Mapping[str, str]] = {
    "live": "its instructions are written; they count from the next turn of its agent on, and nothing is interrupted",
    "reload": "its process reads configuration and prompts anew while its agent is idle, and runs on",
    "restart": "its runtime is stopped while its agent is idle, and started on {wanted} with the same workspace",
}
_IN_PLACE: Final = "it is put right in place, and nothing is interrupted"
_MOVED: Final = "it is moved to {wanted} while its agent is idle"

_AT_DEADLINE: Final[Mapping[str, str]] = {
    "skip": "then it is left as it is, and the rollout goes on without it",
    "hold": "then it is left as it is until an operator says otherwise",
    "force": "then its running turns are aborted, and it is moved",
}
_NEXT_OF_DRAIN: Final = (
    "Its runtime is stopped while its agent is idle. If its workspace is bound to the node, it is started again when the "
    "node takes jobs again; else at once on another."
)
_TRIED_AGAIN: Final = "It is tried again by itself, after pauses that grow to 5 min."
_BY_PHASE: Final[Mapping[str, str]] = {
    Phase.PENDING: "Its job is registered with Nomad, on {wanted}.",
    Phase.STARTING: "Its address is handed out as soon as it is proven.",
    Phase.STOPPING: "When Nomad says that its allocation has ended, it is started on {wanted}.",
    Phase.STOPPED: "It is started on {wanted}.",
    Phase.DELETING: "When its deletion has ended, it is made anew.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """
    All that the service said, each part as it came. What the caller may not read is absent.

    *rollout* is the one by whose order the stack is migrated, else the latest that it is in, with what became of it there
    as its only member.
    """

    stack: JsonObject
    operation: JsonObject | None = None
    events: Sequence[JsonObject] = ()
    conditions: Sequence[JsonObject] = ()
    rollout: JsonObject | None = None
    next_look: JsonObject | None = None
    away: Sequence[str] = ()
    """The neighbours that the service cannot reach, a few words for each."""

    def document(self, rows: Sequence[Row]) -> JsonObject:
        """Return everything, with the sentences, as one JSON value."""
        return {
            "stack": self.stack,
            "operation": self.operation,
            "events": list(self.events),
            "conditions": list(self.conditions),
            "rollout": self.rollout,
            "next_look": self.next_look,
            "explanation": [{"about": about, "says": says} for about, says in rows],
        }


def explain(known: Known, *, now: datetime) -> Sequence[Row]:
    """
    Return what there is to say, in the order in which a person asks: what it should be, what it is, why these differ,
    how far the way from one to the other is, what comes next, what that waits for, and what a person can do.

    Each row is what it is about and a sentence. Values of a newer service are left out, not guessed at.
    """
    stack = known.stack
    return [
        ("should be", _should_be(stack)),
        *(("is", sentence) for sentence in _is(stack)),
        *(("stale", _difference(reason)) for reason in stack.get("staleness") or []),
        *_migration(known, now),
        *(("rollout", sentence) for sentence in _in_rollout(known)),
        *(("next", sentence) for sentence in _next(known)),
        *(("next", sentence) for sentence in _next_look(known, now)),
        *(("waits for", sentence) for sentence in _waits(known, now)),
        *(("refused", sentence) for sentence in _refused(stack)),
        *(("to do", sentence) for sentence in _to_do(known)),
    ]


def _should_be(stack: JsonObject) -> str:
    desired = stack.get("desired")
    if desired == Desired.DELETED:
        return "gone"
    if desired == Desired.STOPPED:
        return "stopped"
    pin = ", to which it is pinned" if stack.get("pinned") else ""
    return f"running on {stack.get('wanted_release')}{pin}; resources {stack.get('resources')}, group {stack.get('group')}"


def _is(stack: JsonObject) -> Iterator[str]:
    runtime = stack.get("runtime")
    if isinstance(runtime, Mapping):
        yield (
            f"{stack.get('phase')}, {stack.get('health')}, on {stack.get('release')}: OpenCode "
            f"{runtime.get('opencode_version')} on {runtime.get('node')}"
        )
    else:
        yield str(stack.get("phase"))
    yield from situation_of({**stack, "staleness": []})


def _difference(reason: JsonObject) -> str:
    needs = "restarts it" if reason.get("restart") else "needs no restart"
    change = f"{reason.get('have') or '-'} → {reason.get('want') or '-'}"
    return f"{reason.get('facet')}: {change} ({reason.get('severity')}, {needs})"


def _migration(known: Known, now: datetime) -> Iterator[Row]:
    stack, migration = known.stack, _migration_of(known.stack)
    said = str(stack.get("migration_state"))
    if kind := migration.get("class"):
        said += f", class {kind}"
    if since := parse_time(migration.get("since")):
        said += f", for {_span(since, now)}"
    if order := _order_of(stack):
        said += f", by order of {_whose(order, known.rollout)}"
    yield "migration", said


def _in_rollout(known: Known) -> Iterator[str]:
    if known.rollout is not None and not _order_of(known.stack):
        yield from in_rollout(known.rollout)


def _next(known: Known) -> Iterator[str]:
    stack = known.stack
    wanted = str(stack.get("wanted_release"))
    phase = stack.get("phase")
    if stack.get("desired") == Desired.DELETED:
        yield "What it owns is taken away step by step; it ends when all of it is proven gone."
    elif stack.get("desired") == Desired.STOPPED:
        if phase == Phase.STOPPED:
            yield "Nothing: it stays stopped until somebody asks for it."
        else:
            yield "It is stopped; its workspace stays."
    elif phase == Phase.FAILED:
        if _reason(stack) in FINAL_REASONS:
            yield "Nothing by itself: trying again cannot help until the cause is seen to and somebody asks."
        else:
            yield _TRIED_AGAIN
    elif _reason(stack) is Reason.NODE_DRAINING and phase == Phase.STOPPED:
        yield f"It is started on {wanted} when its node takes jobs again."
    elif phase == Phase.RUNNING and _is_drained(stack):
        yield _NEXT_OF_DRAIN
    elif phase == Phase.RUNNING and _waits_for_its_turn(known):
        release = known.rollout.get("release") if known.rollout is not None else None
        yield (
            f"When its turn comes, it is moved to {release}."
            if release
            else "It is seen to when its turn comes."
        )
    elif phase == Phase.RUNNING:
        yield _next_of_migration(stack).format(wanted=wanted)
    elif phase in _BY_PHASE:
        yield _BY_PHASE[str(phase)].format(wanted=wanted)


def _waits_for_its_turn(known: Known) -> bool:
    return known.rollout is not None and not _order_of(known.stack) and waits_for_its_turn(known.rollout)


def _next_of_migration(stack: JsonObject) -> str:
    migration = _migration_of(stack)
    what = _BY_CLASS.get(str(migration.get("class")), _MOVED if migration.get("order") else _IN_PLACE)
    footing = migration.get("footing_release") or "what ran before"
    sentences: Mapping[str, str] = {
        MigrationState.CURRENT: "Nothing: it is as it should be."
        if not stack.get("staleness")
        else f"{_first(what)}.",
        MigrationState.STALE: f"Unless `when_stale` is `report`, {what}.",
        MigrationState.QUEUED: f"{_first(what)}.",
        MigrationState.DRAINING: f"{_first(what)}.",
        MigrationState.REPLACING: "It is being moved. Then what is new must be delivered and healthy before it counts.",
        MigrationState.VERIFYING: f"If what is new is delivered and healthy, it is current; else it goes back to {footing}.",
        MigrationState.FAILED: "Nothing by itself: what was tried is not tried again before somebody asks.",
        MigrationState.HELD: "Nothing, until an operator says otherwise.",
    }
    return sentences.get(str(stack.get("migration_state")), "")


def _next_look(known: Known, now: datetime) -> Iterator[str]:
    """Say when it is taken up next, and what is done then if all is as it is now."""
    look = known.next_look
    if look is None:
        return
    if look.get("at_work"):
        yield "It is just being seen to."
        return
    due_at = parse_time(look.get("due_at"))
    steps = ", ".join(str(step) for step in look.get("steps") or []) or "nothing"
    if due_at is None:
        yield "It is looked at again when something of it is seen to change, or somebody asks."
    elif due_at <= now:
        yield f"It is due, and taken up as soon as a worker is free: {steps}."
    else:
        yield f"It is looked at again at {_moment(due_at)} (in {_span(now, due_at)}); if all is as now, then: {steps}."


def _waits(known: Known, now: datetime) -> Iterator[str]:
    stack = known.stack
    if stack.get("desired") == Desired.RUNNING and stack.get("phase") == Phase.RUNNING:
        yield from _waits_of_migration(known, now)
    elif _reason(stack) is Reason.NODE_DRAINING and stack.get("phase") == Phase.STOPPED:
        yield f"{_node_named(stack)}, which {_state_of(_node_of(stack))}."
    if not _is_at_rest(stack):
        yield from known.away
    if _reason(stack) in OUTAGES and not known.away:
        yield f"that neighbour: {meaning_of(stack.get('reason'))}"
    if stack.get("generation") != stack.get("observed_generation"):
        yield "a worker to take up the latest change that was accepted."
    for condition in known.conditions:
        if condition.get("freezes") and stack.get("reason") == Reason.BRAKE:
            yield f"a person to judge {condition.get('id')}: {condition.get('message')}"


def _is_at_rest(stack: JsonObject) -> bool:
    """Whether nothing is to be done to it."""
    at_rest = {Phase.RUNNING: Desired.RUNNING, Phase.STOPPED: Desired.STOPPED}
    phase = stack.get("phase")
    return (
        phase in at_rest
        and stack.get("desired") == at_rest[Phase(str(phase))]
        and stack.get("generation") == stack.get("observed_generation")
        and (phase == Phase.STOPPED or stack.get("migration_state") == MigrationState.CURRENT)
    )


def _waits_of_migration(known: Known, now: datetime) -> Iterator[str]:
    stack, order = known.stack, _order_of(known.stack)
    state = stack.get("migration_state")
    is_unseen = _reason(stack) is Reason.UNKNOWN
    if state == MigrationState.QUEUED or (state == MigrationState.DRAINING and is_unseen):
        yield "proof that its agent is idle: what cannot be seen counts as work."
        yield _until_the_drain_ends(stack, now) if _is_drained(stack) else _until_the_deadline(order, now)
    elif state == MigrationState.DRAINING:
        yield (
            "its agent, which works, waits for a permission or holds a terminal, or has not yet been idle for as long as the "
            "setting `idle_after` says."
        )
        yield _until_the_drain_ends(stack, now) if _is_drained(stack) else _until_the_deadline(order, now)
    busy_until = parse_time(_migration_of(stack).get("busy_until"))
    if busy_until is not None and busy_until > now:
        yield (
            f"its backend, which said that it works until {_moment(busy_until)} (in {_span(now, busy_until)}) and may say "
            "so again."
        )


def _until_the_drain_ends(stack: JsonObject, now: datetime) -> str:
    node = _node_of(stack)
    forced_at = parse_time(node.get("forced_at"))
    if forced_at is None:
        return f"For that it is waited as long as {_node_named(stack)} is being drained."
    deadline = parse_time(node.get("deadline"))
    ended = (
        f", before Nomad ends what is left on {_node_named(stack)} at {_moment(deadline)}" if deadline else ""
    )
    return f"For that it is waited until {_when(forced_at, now)}; then its running turns are aborted, and it is stopped{ended}."


def _until_the_deadline(order: JsonObject, now: datetime) -> str:
    deadline = parse_time(order.get("deadline"))
    if deadline is None:
        return "For that it is waited as long as it takes."
    then = _AT_DEADLINE.get(str(order.get("at_deadline")), "")
    return f"For that it is waited until {_when(deadline, now)}; {then}."


def _refused(stack: JsonObject) -> Iterator[str]:
    migration = _migration_of(stack)
    if migration.get("refused"):
        footing = migration.get("footing_release") or "what ran before"
        yield f"What was tried last was taken back; it stays on {footing} while the same is asked for."


def _to_do(known: Known) -> Iterator[str]:
    stack = known.stack
    user = quote(str(stack.get("user_id")))
    yield from what_to_do(stack)
    order = _order_of(stack)
    if stack.get("migration_state") == MigrationState.HELD and _reason(stack) is not Reason.NODE_DRAINING:
        yield f"release it with `opencode-lifecycle recover {user}`, or move it now with `opencode-lifecycle recreate {user}`"
    elif _migration_of(stack).get("refused") and stack.get("migration_state") != MigrationState.FAILED:
        yield f"have what was refused tried again: `opencode-lifecycle recover {user}`"
    if order and _is_rollout(order):
        yield f"see the rollout: `opencode-lifecycle rollout show {quote(_rollout_id(order))}`"
    elif known.rollout is not None and any(in_rollout(known.rollout)):
        yield f"see the rollout: `opencode-lifecycle rollout show {quote(str(known.rollout.get('id')))}`"
    is_concerned = bool(order) or _waits_for_its_turn(known)
    if known.rollout is not None and known.rollout.get("state") == RolloutState.PAUSED and is_concerned:
        why = because(known.rollout)
        why = f" ({why})" if why else ""
        yield (
            f"its rollout is paused{why}, which moves nobody else: `opencode-lifecycle rollout resume "
            f"{quote(str(known.rollout.get('id')))}`"
        )
    for condition in known.conditions:
        if condition.get("freezes") and stack.get("reason") == Reason.BRAKE:
            yield about_condition(condition.get("kind"), condition.get("id"))


def rollout_of(stack: JsonObject) -> str | None:
    """Return the id of the rollout by whose order *stack* is migrated, if it is one's."""
    order = _order_of(stack)
    return _rollout_id(order) if order and _is_rollout(order) else None


def _whose(order: JsonObject, rollout: JsonObject | None) -> str:
    if not _is_rollout(order):
        return f"operation {order.get('id')}"
    if BACK not in str(order.get("id")):
        return f"rollout {_rollout_id(order)}"
    who = who_rolled_back(rollout) if rollout is not None else ""
    return f"rollout {_rollout_id(order)}, which takes it back{f', as {who} asked' if who else ''}"


def _rollout_id(order: JsonObject) -> str:
    """Return the rollout that an order is of: its id comes before what tells several orders of it apart."""
    return str(order.get("id")).partition(".")[0]


def _is_rollout(order: JsonObject) -> bool:
    return str(order.get("id")).startswith(ROLLOUT_PREFIX)


def _migration_of(stack: JsonObject) -> JsonObject:
    return _object(stack.get("migration"))


def _order_of(stack: JsonObject) -> JsonObject:
    return _object(_migration_of(stack).get("order"))


def _node_of(stack: JsonObject) -> JsonObject:
    return _object(_migration_of(stack).get("node"))


def _node_named(stack: JsonObject) -> str:
    name = _node_of(stack).get("name")
    return f"node {name}" if name else "its node"


def _state_of(node: JsonObject) -> str:
    if not node:
        return "cannot be seen at the moment"
    return "is being drained" if node.get("draining") else "takes nothing new"


def _is_drained(stack: JsonObject) -> bool:
    return bool(_node_of(stack).get("draining"))


def _object(value: Any) -> JsonObject:
    return value if isinstance(value, Mapping) else {}


def _reason(stack: JsonObject) -> Reason | None:
    try:
        return Reason(str(stack.get("reason")))
    except ValueError:
        return None


def _first(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}"


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _when(moment: datetime, now: datetime) -> str:
    passed = f"in {_span(now, moment)}" if moment > now else f"{_span(moment, now)} ago"
    return f"{_moment(moment)} ({passed})"


def _span(earlier: datetime, later: datetime) -> str:
    return duration(max(0, int((later - earlier).total_seconds())))
