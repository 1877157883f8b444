"""
What an answer of version 1 of OpenCode amounts to.

Every unknown path, and even a HEAD of the health path, answers 200 with a web page: only JSON is an answer. Nothing of an
answer is quoted but its status and, where they are what was asked for, names of sessions and directories: the rest is the
other side's to choose, and may hold the password.
"""

import json
from http import HTTPStatus
from typing import Any, Final

from opencode_lifecycle.adapters.opencode.exchange import Answer, Credentials, Silence
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.proof import ProofResult

USERNAME: Final = "opencode"

_LONGEST_SHOWN: Final = 256
_HIDDEN: Final = "(not shown)"

Finding = tuple[ProofResult, str]
"""A result, and prose that says why."""


def credentials_of(password: Password) -> Credentials:
    return USERNAME, password


def shown(text: str, credentials: Credentials) -> str:
    """Return a name that the other side chose as it may be told: cut to a length, and not if the password is in it."""
    if credentials[1].reveal() in text:
        return _HIDDEN
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def json_of(answer: Answer | Silence) -> Any:
    """Return what a 200 with JSON holds, else None."""
    if isinstance(answer, Silence) or answer.status != HTTPStatus.OK or not answer.is_json:
        return None
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def object_of(answer: Answer | Silence) -> dict[str, Any] | None:
    """Return what a 200 holds; a web page has come here as an empty body, which is none."""
    value = json_of(answer)
    return value if isinstance(value, dict) else None


def is_not_loaded(answer: Answer | Silence) -> bool:
    """
    Whether it says that it cannot load the configuration of the directory that was asked for.

    Every path of such a directory says so. Nothing is at work in it: it answers as long as it is loaded, whatever
    becomes of its files.
    """
    if isinstance(answer, Silence) or answer.status != HTTPStatus.BAD_REQUEST or not answer.is_json:
        return False
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("name") in ("ConfigJsonError", "ConfigInvalidError")


def refusal_of(answer: Answer | Silence) -> Finding | None:
    """Return why nothing more can be asked with this password, or None when more can."""
    if isinstance(answer, Silence):
        return silence(answer)
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return ProofResult.REFUSES_PASSWORD, "it refused the password of its job"
    return None


def silence(answer: Silence) -> Finding:
    if answer is Silence.NOTHING_LISTENS:
        return ProofResult.NOT_LISTENING, answer.value
    return ProofResult.NOT_READY, answer.value


def unexpected(request: str, answer: Answer | Silence) -> Finding:
    if isinstance(answer, Silence):
        return silence(answer)
    kind = "JSON" if answer.is_json else "something that is not JSON"
    return ProofResult.NOT_READY, f"{request} was answered with {answer.status} and {kind}"
