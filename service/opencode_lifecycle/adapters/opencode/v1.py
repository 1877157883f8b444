"""
What version 1 of OpenCode answers, and what that means.

Traps this module knows: an empty password leaves the server open; every unknown path, and even a HEAD of the health
path, answers 200 with a web page; health is shallow, it says healthy while no directory can be served.
"""

import json
import re
from http import HTTPStatus
from typing import Any, Final

from opencode_lifecycle.adapters.opencode.exchange import Answer, Exchange, Silence
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.proof import ProofResult
from opencode_lifecycle.ports.prober import Liveness

USERNAME: Final = "opencode"
_HEALTH: Final = "/global/health"
_CONFIGURATION: Final = "/config"
_VERSION: Final = re.compile(r"\d{1,6}\.\d{1,6}\.\d{1,6}(?:-[0-9A-Za-z.]{1,32})?")

Finding = tuple[ProofResult, str]
"""A result, and prose that says why."""


async def look_unauthenticated(exchange: Exchange) -> tuple[Liveness, Finding | None]:
    """Ask for health without credentials. The finding is None when the server refused as it must."""
    answer = await exchange.get(_HEALTH)
    if isinstance(answer, Silence):
        strange = answer in {Silence.NOT_HTTP, Silence.TOO_LARGE}
        return (Liveness.STRANGE if strange else Liveness.SILENT), _silent(answer)
    if answer.status == HTTPStatus.UNAUTHORIZED and answer.asks_for_basic:
        return Liveness.ALIVE, None
    if answer.is_json and answer.status in range(200, 300):
        return Liveness.OPEN, (ProofResult.OPEN, "it answered a request without credentials")
    return Liveness.STRANGE, _unexpected("a request without credentials", answer)


async def look_at_health(
    exchange: Exchange, password: Password, expected_version: str
) -> tuple[str, Finding | None]:
    """Ask for health with the password. Returned are the version, where it said one, and what is wrong, if anything."""
    answer = await exchange.get(_HEALTH, credentials=(USERNAME, password))
    refusal = _refusal(answer)
    if refusal is not None:
        return "", refusal
    health = _json_object(answer)
    if health is None:
        return "", _unexpected("the health request", answer)
    version = health.get("version")
    if not isinstance(version, str) or _VERSION.fullmatch(version) is None:
        return "", (ProofResult.NOT_READY, "its health names no version")
    if health.get("healthy") is not True:
        return version, (ProofResult.NOT_READY, "it says that it is not healthy")
    if version != expected_version:
        return version, (ProofResult.WRONG_VERSION, f"it is version {version}, not {expected_version}")
    return version, None


async def look_at_configuration(
    exchange: Exchange, password: Password, directory: str | None
) -> Finding | None:
    """Ask for the configuration of *directory*, which makes the server load it. None when it answered as it must."""
    query = {} if directory is None else {"directory": directory}
    answer = await exchange.get(_CONFIGURATION, query=query, credentials=(USERNAME, password))
    refusal = _refusal(answer)
    if refusal is not None:
        return refusal
    if _json_object(answer) is None:
        return _unexpected("the request for its configuration", answer)
    return None


def _refusal(answer: Answer | Silence) -> Finding | None:
    if isinstance(answer, Silence):
        return _silent(answer)
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return ProofResult.REFUSES_PASSWORD, "it refused the password of its job"
    return None


def _silent(silence: Silence) -> Finding:
    if silence is Silence.NOTHING_LISTENS:
        return ProofResult.NOT_LISTENING, silence.value
    return ProofResult.NOT_READY, silence.value


def _unexpected(request: str, answer: Answer | Silence) -> Finding:
    """Quote nothing but the status: the rest is the other side's to choose."""
    if isinstance(answer, Silence):
        return _silent(answer)
    kind = "JSON" if answer.is_json else "something that is not JSON"
    return ProofResult.NOT_READY, f"{request} was answered with {answer.status} and {kind}"


def _json_object(answer: Answer | Silence) -> dict[str, Any] | None:
    """Return what a 200 holds; a web page has come here as an empty body, which is none."""
    if isinstance(answer, Silence) or answer.status != HTTPStatus.OK:
        return None
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
