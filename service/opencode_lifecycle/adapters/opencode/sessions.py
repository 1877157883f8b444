"""The sessions of all directories, as version 1 of OpenCode lists them."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from opencode_lifecycle.adapters.opencode.answers import json_of
from opencode_lifecycle.adapters.opencode.exchange import Credentials, Exchange, Query

MOST_SESSIONS: Final = 500
"""So many are listed at once, the latest first."""
MOST_DIRECTORIES: Final = 20
"""Asking for a directory makes the server load it and keep it, so that only those of the latest sessions are asked."""
MOST_COUNTED: Final = 10_000
LONGEST_TURN: Final = timedelta(days=1)
"""A session that has not changed for so long is not at work, though its directory was not asked."""
_LIST: Final = "/experimental/session"
_END_OF_TIME: Final = 4_102_444_800_000
"""The year 2100 in milliseconds: a later time is none."""
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    id: str
    directory: str
    title: str
    changed_at: datetime


async def latest_sessions(exchange: Exchange, credentials: Credentials) -> Sequence[Session] | None:
    """Return the latest `MOST_SESSIONS`, the latest first, or None when they could not be read."""
    return _sessions_of(json_of(await exchange.get(_LIST, query=_query(), credentials=credentials)))


async def count_sessions(exchange: Exchange, credentials: Credentials) -> int | None:
    """
    Count page by page, or return None when a page could not be read or they are too many.

    A page goes on before the last change of the one before, and would lose others of the same millisecond: it is asked
    for from one millisecond later, so that some come twice and count once.
    """
    seen = set[str]()
    query = _query()
    while len(seen) <= MOST_COUNTED:
        page = _sessions_of(json_of(await exchange.get(_LIST, query=query, credentials=credentials)))
        if page is None:
            return None
        new = {session.id for session in page} - seen
        seen |= new
        if len(page) < MOST_SESSIONS:
            return len(seen)
        if not new:
            return None  # a whole page of one millisecond, or a server that does not page
        query = _query() | {"cursor": str(round(page[-1].changed_at.timestamp() * 1000) + 1)}
    return None


def directories_of(sessions: Sequence[Session], *, most: int = MOST_DIRECTORIES) -> Sequence[str]:
    """Return where the latest sessions work, each directory once."""
    return list(dict.fromkeys(session.directory for session in sessions))[:most]


def may_be_at_work_elsewhere(
    sessions: Sequence[Session], asked: Collection[str | None], now: datetime
) -> bool:
    """Whether one of *sessions*, or one that is not listed any more, may be at work where nobody was *asked*."""
    unasked = [session.changed_at for session in sessions if session.directory not in asked]
    if len(sessions) >= MOST_SESSIONS:
        unasked.append(sessions[-1].changed_at)  # there may be older ones, but none that is later than this
    return any(changed_at > now - LONGEST_TURN for changed_at in unasked)


def statuses_of(answer: Any) -> Mapping[str, bool] | None:
    """
    Return by session whether it is at work, or None when the answer is no such list.

    Idle sessions are left out by the server, but its schema lets it name them.
    """
    if not isinstance(answer, dict) or not all(isinstance(status, dict) for status in answer.values()):
        return None
    return {session_id: status.get("type") != "idle" for session_id, status in answer.items()}


def moment_of(milliseconds: Any) -> datetime | None:
    """Return the moment that *milliseconds* since 1970 name, or None when they name none."""
    if not isinstance(milliseconds, int | float) or not 0 <= milliseconds < _END_OF_TIME:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def is_id(value: Any) -> bool:
    """Whether *value* can be an id, which becomes a part of a path."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _query() -> Query:
    """Without these it leaves out the archived ones, which may be at work, and all after the hundredth."""
    return {"archived": "true", "limit": str(MOST_SESSIONS)}


def _sessions_of(answer: Any) -> Sequence[Session] | None:
    if not isinstance(answer, list):
        return None
    sessions = [_session_of(each) for each in answer]
    known = [session for session in sessions if session is not None]
    if len(known) < len(sessions):
        return None
    return sorted(known, key=lambda session: session.changed_at, reverse=True)


def _session_of(source: Any) -> Session | None:
    time = source.get("time") if isinstance(source, dict) else None
    updated = time.get("updated") if isinstance(time, dict) else None
    changed_at = moment_of(updated)
    if changed_at is None:
        return None
    directory, title = source.get("directory"), source.get("title", "")
    if not isinstance(directory, str) or not directory or not _can_be_sent(directory):
        return None
    if not is_id(source.get("id")) or not isinstance(title, str):
        return None
    return Session(
        id=source["id"],
        directory=directory,
        title=title,
        changed_at=changed_at,
    )


def _can_be_sent(directory: str) -> bool:
    """Whether there are bytes for it. What has none would be left out of the address, and another directory asked."""
    try:
        directory.encode()
    except UnicodeEncodeError:
        return False
    return True
