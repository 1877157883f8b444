"""
What version 1 of OpenCode answers, and what that means.

Traps this module knows: an empty password leaves the server open; every unknown path, and even a HEAD of the health
path, answers 200 with a web page; health is shallow, it says healthy while no directory can be served.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from opencode_lifecycle.adapters.opencode.exchange import Answer, Exchange, Silence
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.proof import ProofResult
from opencode_lifecycle.ports.prober import Activity, Liveness

USERNAME: Final = "opencode"
_HEALTH: Final = "/global/health"
_END_OF_TIME: Final = 4_102_444_800_000
"""The year 2100 in milliseconds: a later time is none."""
_CONFIGURATION: Final = "/config"
_SESSIONS: Final = "/experimental/session"
_MOST_SESSIONS: Final = 500
_ALL_SESSIONS: Final = {"archived": "true", "limit": str(_MOST_SESSIONS)}
"""The latest first. Without these it leaves out the archived ones, which may be at work, and all after the hundredth."""
_MOST_DIRECTORIES: Final = 20
"""Asking for a directory makes the server load it and keep it, so that only those of the latest sessions are asked."""
_LONGEST_TURN: Final = timedelta(days=1)
"""A session that has not changed for so long is not at work, though its directory was not asked."""
_LIVENESS: Final[Mapping[Silence, Liveness]] = {
    Silence.NOTHING_LISTENS: Liveness.SILENT,
    Silence.BROKEN_OFF: Liveness.SILENT,
    Silence.TOO_SLOW: Liveness.HUNG,
    Silence.NOT_HTTP: Liveness.STRANGE,
    Silence.TOO_LARGE: Liveness.STRANGE,
}
_VERSION: Final = re.compile(r"\d{1,6}\.\d{1,6}\.\d{1,6}(?:-[0-9A-Za-z.]{1,32})?")

Finding = tuple[ProofResult, str]
"""A result, and prose that says why."""


async def look_unauthenticated(exchange: Exchange) -> tuple[Liveness, Finding | None]:
    """Ask for health without credentials. The finding is None when the server refused as it must."""
    answer = await exchange.get(_HEALTH)
    if isinstance(answer, Silence):
        return _LIVENESS[answer], _silent(answer)
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


async def look_at_activity(exchange: Exchange, password: Password, now: datetime) -> Activity | None:
    """
    Ask for the sessions of all directories, and in each of these for what is at work or waits.

    A busy session shows only to who asks in its own directory. None when anything could not be read, or is too much to
    ask for: what is not seen may be at work.
    """
    credentials = (USERNAME, password)
    sessions = _json(await exchange.get(_SESSIONS, query=_ALL_SESSIONS, credentials=credentials))
    if not isinstance(sessions, list):
        return None
    changes = _changes(sessions)
    if changes is None:
        return None
    changed_at = changes[0][0] if changes else None
    directories = list(dict.fromkeys(directory for _, directory in changes))
    asked: list[str | None] = [None, *directories[:_MOST_DIRECTORIES]]
    for directory in asked:
        busy = await _is_busy_in(directory, exchange, password)
        if busy is None:
            return None
        if busy:
            return Activity(busy=True, changed_at=changed_at)
    unasked = [at for at, directory in changes if directory not in asked]
    if len(changes) >= _MOST_SESSIONS:
        unasked.append(changes[-1][0])  # there may be older ones, but none that is later than this
    if any(at > now - _LONGEST_TURN for at in unasked):
        return None
    return Activity(busy=False, changed_at=changed_at)


async def _is_busy_in(directory: str | None, exchange: Exchange, password: Password) -> bool | None:
    """Ask in *directory*, or with None in the server's own, whether somebody is at work. None when it did not say."""
    query = {} if directory is None else {"directory": directory}
    for path, says_busy in _PER_DIRECTORY.items():
        answer = _json(await exchange.get(path, query=query, credentials=(USERNAME, password)))
        busy = says_busy(answer)
        if busy or busy is None:
            return busy
    return False


def _has_working_session(answer: Any) -> bool | None:
    """Read the statuses by session. Idle sessions are left out by the server, but its schema lets it name them."""
    if not isinstance(answer, dict) or not all(isinstance(status, dict) for status in answer.values()):
        return None
    return any(status.get("type") != "idle" for status in answer.values())


def _has_open_terminal(answer: Any) -> bool | None:
    if not isinstance(answer, list) or not all(isinstance(terminal, dict) for terminal in answer):
        return None
    return any(terminal.get("status") != "exited" for terminal in answer)


def _is_waiting(answer: Any) -> bool | None:
    return bool(answer) if isinstance(answer, list) else None


_PER_DIRECTORY: Final[Mapping[str, Callable[[Any], bool | None]]] = {
    "/session/status": _has_working_session,
    "/permission": _is_waiting,
    "/question": _is_waiting,
    "/pty": _has_open_terminal,
}
"""Sessions at work, and what waits for its user or is a terminal of theirs."""


def _changes(sessions: Sequence[Any]) -> Sequence[tuple[datetime, str]] | None:
    """Return when each session last changed, and where it is at work, the latest first."""
    changes = []
    for session in sessions:
        time = session.get("time") if isinstance(session, dict) else None
        updated = time.get("updated") if isinstance(time, dict) else None
        if not isinstance(updated, int | float) or not 0 <= updated < _END_OF_TIME:
            return None
        directory = session.get("directory")
        if not isinstance(directory, str) or not directory or not _can_be_sent(directory):
            return None
        changes.append((datetime.fromtimestamp(updated / 1000, UTC), directory))
    return sorted(changes, reverse=True)


def _can_be_sent(directory: str) -> bool:
    """Whether there are bytes for it. What has none would be left out of the address, and another directory asked."""
    try:
        directory.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json(answer: Answer | Silence) -> Any:
    """Return what a 200 with JSON holds, else None."""
    if isinstance(answer, Silence) or answer.status != HTTPStatus.OK or not answer.is_json:
        return None
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
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
    value = _json(answer)
    return value if isinstance(value, dict) else None
