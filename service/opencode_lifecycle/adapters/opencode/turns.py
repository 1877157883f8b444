"""
Turns of agents, in version 1 of OpenCode: which are at work, ending them, and which were cut off.

A turn that is aborted is completed with an error in its message. One whose process ended is not: its last message says
nothing of its end, for ever, and nothing resumes it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from opencode_lifecycle.adapters.opencode.answers import is_not_loaded, json_of, shown
from opencode_lifecycle.adapters.opencode.exchange import Credentials, Exchange, Query
from opencode_lifecycle.adapters.opencode.sessions import (
    directories_of,
    is_id,
    latest_sessions,
    may_be_at_work_elsewhere,
    moment_of,
    statuses_of,
)
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.ports.prober import Turn

MOST_LOOKED_AT: Final = 50
"""Of so many sessions it is asked whether their last turn was cut off."""
_STATUS: Final = "/session/status"
_LAST_MESSAGES: Final = 4
"""Behind the answer that was cut off, its user may have said more."""
_PAUSE: Final = 0.1
"""Seconds between two looks whether a turn has ended."""


async def abort_turns(
    exchange: Exchange, credentials: Credentials, *, now: datetime, deadline: Deadline
) -> Sequence[Turn] | None:
    """Abort all that can be seen, wait for each to end, and return them; None when not everything could be seen."""
    sessions = await latest_sessions(exchange, credentials)
    directories: list[str | None] = [None, *directories_of(sessions or ())]
    whole = sessions is not None and not may_be_at_work_elsewhere(sessions, directories, now)
    found = dict[str, tuple[str | None, Turn]]()
    where = {session.id: session.directory for session in sessions or ()}
    for directory in directories:
        at_work = await _at_work_in(directory, exchange, credentials)
        whole = whole and at_work is not None
        for session_id in at_work or ():
            turn = Turn(session_id=session_id, directory=where.get(session_id) or directory or "")
            found.setdefault(session_id, (directory, turn))
    for directory, turn in found.values():
        whole = await _abort(turn.session_id, directory, exchange, credentials) and whole
    ended = await _have_ended([directory for directory, _ in found.values()], exchange, credentials, deadline)
    return _told([turn for _, turn in found.values()], credentials) if whole and ended else None


async def interrupted_turns(
    exchange: Exchange, credentials: Credentials, *, since: datetime
) -> Sequence[Turn] | None:
    """Return the turns without an end, of the latest sessions that changed at or after *since*."""
    sessions = await latest_sessions(exchange, credentials)
    if sessions is None:
        return None
    interrupted = []
    for session in sessions[:MOST_LOOKED_AT]:
        if session.changed_at < since:
            break
        last = await _last_answer(session.id, session.directory, exchange, credentials)
        if last is None:
            return None
        began, has_ended = last
        if not has_ended:
            turn = Turn(session_id=session.id, directory=session.directory, began_at=moment_of(began))
            interrupted.append(turn)
    return _told(interrupted, credentials)


async def _at_work_in(
    directory: str | None, exchange: Exchange, credentials: Credentials
) -> Sequence[str] | None:
    """Return the sessions at work in *directory*, or in the server's own; waiting for their user is at work, too."""
    answer = await exchange.get(_STATUS, query=_query(directory), credentials=credentials)
    if is_not_loaded(answer):
        return ()
    statuses = statuses_of(json_of(answer))
    if statuses is None or not all(map(is_id, statuses)):
        return None
    return [session_id for session_id, is_at_work in statuses.items() if is_at_work]


async def _abort(
    session_id: str, directory: str | None, exchange: Exchange, credentials: Credentials
) -> bool:
    """Ask the instance of the directory where the session shows as busy: another one does not run it."""
    path = f"/session/{session_id}/abort"
    return json_of(await exchange.post(path, query=_query(directory), credentials=credentials)) is True


async def _have_ended(
    directories: Sequence[str | None], exchange: Exchange, credentials: Credentials, deadline: Deadline
) -> bool:
    """Wait until nothing is at work in *directories*: by then what was aborted stands so in the history."""
    for directory in dict.fromkeys(directories):
        while at_work := await _at_work_in(directory, exchange, credentials):
            if deadline.left() <= _PAUSE:
                return False
            await asyncio.sleep(_PAUSE)
        if at_work is None:
            return False
    return True


async def _last_answer(
    session_id: str, directory: str, exchange: Exchange, credentials: Credentials
) -> tuple[float, bool] | None:
    """
    Return when the last answer in the session began, and whether it came to an end, with or without an error.

    None when that was not said. Where there was no answer, none was cut off.
    """
    query = {"directory": directory, "limit": str(_LAST_MESSAGES)}
    answer = await exchange.get(f"/session/{session_id}/message", query=query, credentials=credentials)
    messages = json_of(answer)
    if not isinstance(messages, list):
        return None
    ends = [_end_of(message) for message in messages]
    if None in ends:
        return None
    of_answers = [end for end in ends if end is not None and end[1] is not None]
    began, has_ended = max(of_answers, default=(0, True))
    return began, bool(has_ended)


def _end_of(message: Any) -> tuple[float, bool | None] | None:
    """Return when a message was made, and whether it has come to its end; None for what a user said, which has none."""
    info = message.get("info") if isinstance(message, dict) else None
    time = info.get("time") if isinstance(info, dict) else None
    created = time.get("created") if isinstance(time, dict) else None
    if not isinstance(info, dict) or not isinstance(time, dict) or not isinstance(created, int | float):
        return None
    if info.get("role") != "assistant":
        return created, None
    return created, time.get("completed") is not None


def _told(turns: Sequence[Turn], credentials: Credentials) -> Sequence[Turn]:
    return [
        replace(
            turn,
            session_id=shown(turn.session_id, credentials),
            directory=shown(turn.directory, credentials),
        )
        for turn in turns
    ]


def _query(directory: str | None) -> Query:
    return {} if directory is None else {"directory": directory}
