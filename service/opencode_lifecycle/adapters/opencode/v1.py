"""
What version 1 of OpenCode answers, and what that means.

Traps this module knows: an empty password leaves the server open; every unknown path, and even a HEAD of the health
path, answers 200 with a web page; health is shallow, it says healthy while no directory can be served.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from opencode_lifecycle.adapters.opencode.answers import (
    Finding,
    credentials_of,
    is_not_loaded,
    json_of,
    object_of,
    refusal_of,
    silence,
    unexpected,
)
from opencode_lifecycle.adapters.opencode.exchange import Exchange, Silence
from opencode_lifecycle.adapters.opencode.sessions import (
    directories_of,
    latest_sessions,
    may_be_at_work_elsewhere,
    statuses_of,
)
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.proof import ProofResult
from opencode_lifecycle.ports.prober import Activity, Liveness

_HEALTH: Final = "/global/health"
_CONFIGURATION: Final = "/config"
_LIVENESS: Final[Mapping[Silence, Liveness]] = {
    Silence.NOTHING_LISTENS: Liveness.SILENT,
    Silence.BROKEN_OFF: Liveness.SILENT,
    Silence.TOO_SLOW: Liveness.HUNG,
    Silence.NOT_HTTP: Liveness.STRANGE,
    Silence.TOO_LARGE: Liveness.STRANGE,
}
_VERSION: Final = re.compile(r"\d{1,6}\.\d{1,6}\.\d{1,6}(?:-[0-9A-Za-z.]{1,32})?")


async def look_unauthenticated(exchange: Exchange) -> tuple[Liveness, Finding | None]:
    """Ask for health without credentials. The finding is None when the server refused as it must."""
    answer = await exchange.get(_HEALTH)
    if isinstance(answer, Silence):
        return _LIVENESS[answer], silence(answer)
    if answer.status == HTTPStatus.UNAUTHORIZED and answer.asks_for_basic:
        return Liveness.ALIVE, None
    if answer.is_json and answer.status in range(200, 300):
        return Liveness.OPEN, (ProofResult.OPEN, "it answered a request without credentials")
    return Liveness.STRANGE, unexpected("a request without credentials", answer)


async def look_at_health(
    exchange: Exchange, password: Password, expected_version: str
) -> tuple[str, Finding | None]:
    """Ask for health with the password. Returned are the version, where it said one, and what is wrong, if anything."""
    answer = await exchange.get(_HEALTH, credentials=credentials_of(password))
    refusal = refusal_of(answer)
    if refusal is not None:
        return "", refusal
    health = object_of(answer)
    if health is None:
        return "", unexpected("the health request", answer)
    version = health.get("version")
    if not isinstance(version, str) or _VERSION.fullmatch(version) is None:
        return "", (ProofResult.NOT_READY, "its health names no version")
    if health.get("healthy") is not True:
        return version, (ProofResult.NOT_READY, "it says that it is not healthy")
    if version != expected_version:
        return version, (ProofResult.WRONG_VERSION, f"it is version {version}, not {expected_version}")
    return version, None


CANNOT_LOAD: Final[Finding] = (ProofResult.NOT_READY, "it cannot load its configuration")
"""Only another start heals that, also when the file is put right."""


async def look_at_configuration(
    exchange: Exchange, password: Password, directory: str | None
) -> Finding | None:
    """Ask for the configuration of *directory*, which makes the server load it. None when it answered as it must."""
    query = {} if directory is None else {"directory": directory}
    answer = await exchange.get(_CONFIGURATION, query=query, credentials=credentials_of(password))
    refusal = refusal_of(answer)
    if refusal is not None:
        return refusal
    if is_not_loaded(answer):
        return CANNOT_LOAD
    if object_of(answer) is None:
        return unexpected("the request for its configuration", answer)
    return None


async def look_at_activity(exchange: Exchange, password: Password, now: datetime) -> Activity | None:
    """
    Ask for the sessions of all directories, and in each of these for what is at work or waits.

    A busy session shows only to who asks in its own directory. None when anything could not be read, or is too much to
    ask for: what is not seen may be at work.
    """
    sessions = await latest_sessions(exchange, credentials_of(password))
    if sessions is None:
        return None
    changed_at = sessions[0].changed_at if sessions else None
    asked: list[str | None] = [None, *directories_of(sessions)]
    for directory in asked:
        busy = await _is_busy_in(directory, exchange, password)
        if busy is None:
            return None
        if busy:
            return Activity(busy=True, changed_at=changed_at)
    if may_be_at_work_elsewhere(sessions, asked, now):
        return None
    return Activity(busy=False, changed_at=changed_at)


async def _is_busy_in(directory: str | None, exchange: Exchange, password: Password) -> bool | None:
    """Ask in *directory*, or with None in the server's own, whether somebody is at work. None when it did not say."""
    query = {} if directory is None else {"directory": directory}
    for path, says_busy in _PER_DIRECTORY.items():
        answer = await exchange.get(path, query=query, credentials=credentials_of(password))
        if is_not_loaded(answer):
            return False
        busy = says_busy(json_of(answer))
        if busy or busy is None:
            return busy
    return False


def _has_working_session(answer: Any) -> bool | None:
    statuses = statuses_of(answer)
    return None if statuses is None else any(statuses.values())


def _has_open_terminal(answer: Any) -> bool | None:
    if not isinstance(answer, list) or not all(isinstance(terminal, dict) for terminal in answer):
        return None
    return any(terminal.get("status") != "exited" for terminal in answer)


_PER_DIRECTORY: Final[Mapping[str, Callable[[Any], bool | None]]] = {
    "/session/status": _has_working_session,
    "/pty": _has_open_terminal,
}
"""
Sessions at work, and terminals.

A session that waits for its user's permission or answer is at work, too. What it asked for is not counted beside: once the
turn was aborted it is listed for ever, and would keep the runtime from ever being seen idle.
"""
