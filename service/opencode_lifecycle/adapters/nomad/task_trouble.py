"""Why a task does not run, as far as its events say."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from opencode_lifecycle.adapters.nomad.connection import sentence_of
from opencode_lifecycle.model.observation import TaskTrouble

_FROM_VAULT: Final = ("vault.", "Vault", "vault:")
_OF_EXITS: Final[Mapping[object, TaskTrouble]] = {
    65: TaskTrouble.DATA_NEWER,
    74: TaskTrouble.DISK_FULL,
    78: TaskTrouble.SECRET,
}
"""What our entrypoint exits with when it starts nothing for a reason of its own."""

_DRIVER_EVENTS: Final = frozenset(
    {
        "Driver Failure",
        "Setup Failure",
        "Failed Validation",
        "Failed Artifact Download",
        "Sibling Task Failed",
    }
)


def trouble_of(state: Mapping[str, Any]) -> tuple[TaskTrouble | None, str]:
    """
    Return the kind of trouble and Nomad's sentence about it, from one task's state.

    The newest event that tells of trouble counts, unless the task runs: what it recovered from is past. The exit of a
    task that was told to stop is none.
    """
    events = state.get("Events")
    if not isinstance(events, Sequence) or state.get("State") == "running":
        return None, ""
    told_to_stop = any(isinstance(event, Mapping) and event.get("Type") == "Killing" for event in events)
    for event in reversed(events):
        if not isinstance(event, Mapping) or (told_to_stop and event.get("Type") == "Terminated"):
            continue
        kind = _kind_of(event)
        if kind is not None:
            return kind, sentence_of(_words_of(event))
    return None, ""


def _kind_of(event: Mapping[str, Any]) -> TaskTrouble | None:
    words = _words_of(event)
    match event.get("Type"):
        case "Template" if words.startswith("Missing:"):
            return TaskTrouble.SECRET if "vault." in words else None
        case "Template" | "Killing" if words.startswith("Template failed"):
            return TaskTrouble.SECRET
        case "Killing" | "Setup Failure" | "Failed Vault Token Derivation" | "Vault" if any(
            sign in words for sign in _FROM_VAULT
        ):
            return TaskTrouble.SECRET
        case "Terminated":
            return _kind_of_end(event)
        case kind if kind in _DRIVER_EVENTS:
            return TaskTrouble.DRIVER
        case _:
            return None


def _kind_of_end(event: Mapping[str, Any]) -> TaskTrouble | None:
    details = event.get("Details")
    if isinstance(details, Mapping) and details.get("oom_killed") == "true":
        return TaskTrouble.OUT_OF_MEMORY
    return _OF_EXITS.get(event.get("ExitCode"), TaskTrouble.EXITED)


def _words_of(event: Mapping[str, Any]) -> str:
    for name in ("DisplayMessage", "DriverError", "SetupError", "KillReason", "Message", "Type"):
        words = event.get(name)
        if isinstance(words, str) and words:
            return words
    return ""
