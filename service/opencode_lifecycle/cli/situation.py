"""How one stack stands, in plain sentences: what is the matter with it, and what a person can do."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from shlex import quote
from typing import Final, TypeVar

from opencode_lifecycle.cli.advice import about_reason, meaning_of
from opencode_lifecycle.cli.client import JsonObject
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.states import OUTAGES, Desired, Health, MigrationState, Phase, Reason

Member = TypeVar("Member", bound=StrEnum)

_ON_THE_WAY: Final[Mapping[Phase, str]] = {
    Phase.PENDING: "It is about to be started.",
    Phase.STARTING: "It is being started, and its address is not proven yet.",
    Phase.RUNNING: "It runs.",
    Phase.STOPPING: "It is being stopped.",
    Phase.STOPPED: "It is stopped, and its workspace waits.",
    Phase.FAILED: "It could not be started or kept.",
    Phase.DELETING: "It is being deleted; that ends when everything it owned is proven gone.",
}
_UNSEEN: Final = frozenset({Reason.UNKNOWN, Reason.BRAKE, *OUTAGES})
_AT_REST: Final = frozenset({Phase.RUNNING, Phase.STOPPED, Phase.FAILED})
_OF_HEALTH: Final[Mapping[Health, str]] = {
    Health.HEALTHY: "Its address is proven, and it answers.",
    Health.DEGRADED: "It answered late or not at all the last time; it may be busy.",
    Health.UNRESPONSIVE: "It takes connections and answers none; it is replaced if that lasts.",
    Health.UNKNOWN: "Whether it answers is not known at the moment.",
}


def situation_of(stack: JsonObject) -> Sequence[str]:
    """Return what is the matter with *stack*, the coarsest first. Values of a newer service are left out."""
    said = [_of_phase(stack), *_of_reason(stack)]
    if stack.get("phase") == Phase.RUNNING and not stack.get("reason"):
        health = _member(Health, stack.get("health"))
        said.append(_OF_HEALTH.get(health, "") if health else "")
    said += [_of_generation(stack), _of_staleness(stack)]
    return [sentence for sentence in said if sentence]


def what_to_do(stack: JsonObject) -> Sequence[str]:
    """Return what a person can do about *stack*, commands ready to copy; nothing when there is nothing."""
    user = quote(str(stack.get("user_id")))
    advice = [about_reason(stack.get("reason"))]
    if stack.get("migration_state") == MigrationState.FAILED:
        advice.append("correct what was refused, then `opencode-lifecycle recover USER`")
    elif _stale(stack) and not (stack.get("migration") or {}).get("order"):
        advice.append(
            "nothing: it is put right by itself, unless `when_stale` is `report`; at once: "
            "`opencode-lifecycle recreate USER`"
        )
    return [each.replace("USER", user) for each in advice if each]


def _of_phase(stack: JsonObject) -> str:
    if stack.get("desired") == Desired.DELETED:
        return _ON_THE_WAY[Phase.DELETING]
    phase = _member(Phase, stack.get("phase"))
    if phase is Phase.RUNNING and _member(Reason, stack.get("reason")) in _UNSEEN:
        return "It ran when it was last seen."
    return _ON_THE_WAY[phase] if phase else ""


def _of_reason(stack: JsonObject) -> list[str]:
    """Return what the reason means and the message, but not twice the same."""
    meaning, message = meaning_of(stack.get("reason")), str(stack.get("message") or "")
    if not message:
        return [meaning]
    message = f"{message[0].upper()}{message[1:]}{'' if message.endswith('.') else '.'}"
    return [message] if meaning and message.startswith(meaning.removesuffix(".")) else [meaning, message]


def _of_generation(stack: JsonObject) -> str:
    is_told = stack.get("reason") or stack.get("phase") not in _AT_REST
    if stack.get("generation") == stack.get("observed_generation") or is_told:
        return ""
    return "A change was accepted that is not carried out yet."


def _of_staleness(stack: JsonObject) -> str:
    reasons = _stale(stack)
    if not reasons:
        return ""
    names = ", ".join(str(each.get("facet")).replace("_", " ") for each in reasons)
    restarts = any(each.get("restart") for each in reasons)
    said = f"It is stale ({names}); putting that right {'restarts it' if restarts else 'needs no restart'}."
    if stack.get("migration_state") == MigrationState.FAILED:
        return f"{said} That was tried and refused, and is not tried again by itself."
    return said


def _stale(stack: JsonObject) -> list[JsonObject]:
    """Return its staleness but for what is missing: that it does not run is said already."""
    return [each for each in stack.get("staleness") or [] if each.get("facet") != Facet.MISSING]


def _member(members: type[Member], value: object) -> Member | None:
    try:
        return members(str(value))
    except ValueError:
        return None
