"""
Saying something to version 1 of OpenCode, to see whether an answer comes.

Its health is the same whether prompts are answered, refused or ignored.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from opencode_lifecycle.adapters.opencode.answers import object_of, unexpected
from opencode_lifecycle.adapters.opencode.exchange import Answer, Credentials, Exchange, Silence
from opencode_lifecycle.adapters.opencode.sessions import is_id, latest_sessions
from opencode_lifecycle.ports.prober import PromptOutcome, PromptResult

TITLE: Final = "opencode-lifecycle: does it answer?"
"""By which a session of ours is known, also when what made it ended before it could delete it."""
ABANDONED_AFTER: Final = timedelta(minutes=15)
"""A session of ours that has not changed for so long is nobody's any more."""
_NO_TOOLS: Final = [{"permission": "*", "pattern": "*", "action": "deny"}]
_ERRORS: Final = frozenset(
    {
        "APIError",
        "ContextOverflowError",
        "MessageAbortedError",
        "MessageOutputLengthError",
        "ProviderAuthError",
        "StructuredOutputError",
        "UnknownError",
    }
)
"""What is quoted of an answer's error. Any other name is the other side's to choose."""


async def open_session(exchange: Exchange, credentials: Credentials) -> str | PromptResult:
    """Open a session in the server's own directory and return its id, or what kept it from being opened."""
    body = {"title": TITLE, "permission": _NO_TOOLS}
    answer = await exchange.post("/session", body=body, credentials=credentials)
    failure = _failure("the request for a session", answer)
    if failure is not None:
        return failure
    session_id = (object_of(answer) or {}).get("id")
    if not isinstance(session_id, str) or not is_id(session_id):
        return PromptResult(outcome=PromptOutcome.FAILED, detail="the session that it opened has no id")
    return session_id


async def say(exchange: Exchange, credentials: Credentials, session_id: str, text: str) -> PromptResult:
    """Say *text* in the session and wait for the whole answer."""
    body = {"parts": [{"type": "text", "text": text}]}
    answer = await exchange.post(f"/session/{session_id}/message", body=body, credentials=credentials)
    failure = _failure("the prompt", answer)
    if failure is not None:
        return failure
    problem = _problem_of(object_of(answer) or {})
    if problem is not None:
        return PromptResult(outcome=PromptOutcome.FAILED, detail=problem)
    return PromptResult(outcome=PromptOutcome.ANSWERED)


async def clear_away(
    exchange: Exchange, credentials: Credentials, session_id: str | None, *, now: datetime
) -> None:
    """
    Delete the session, and those of ours that were left behind.

    Without *session_id* it may have been opened all the same: then whatever of ours is there is deleted.
    """
    if session_id is not None:
        await _delete(exchange, credentials, session_id)
    for session in await latest_sessions(exchange, credentials) or ():
        is_abandoned = session_id is None or session.changed_at < now - ABANDONED_AFTER
        if session.title == TITLE and is_abandoned:
            await _delete(exchange, credentials, session.id)


async def _delete(exchange: Exchange, credentials: Credentials, session_id: str) -> None:
    """End what is at work in the session first, so that nothing is written to what is deleted."""
    await exchange.post(f"/session/{session_id}/abort", credentials=credentials)
    await exchange.delete(f"/session/{session_id}", credentials=credentials)


def _failure(request: str, answer: Answer | Silence) -> PromptResult | None:
    if answer is Silence.TOO_SLOW:
        return PromptResult(outcome=PromptOutcome.TIMED_OUT, detail=answer.value)
    if isinstance(answer, Answer) and answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return PromptResult(outcome=PromptOutcome.NOT_ASKED, detail="it refused the password of its job")
    if object_of(answer) is None:
        return PromptResult(outcome=PromptOutcome.FAILED, detail=unexpected(request, answer)[1])
    return None


def _problem_of(message: Mapping[str, Any]) -> str | None:
    """Return what is wrong with an answer, in words of ours, or None when it is whole."""
    info, parts = message.get("info"), message.get("parts")
    if not isinstance(info, Mapping) or info.get("role") != "assistant":
        return "what it answered is no message of an agent"
    if info.get("error") is not None:
        return _error_of(info["error"])
    time = info.get("time")
    if not isinstance(time, Mapping) or time.get("completed") is None:
        return "its answer broke off"
    texts = (
        [part.get("text") for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    )
    return None if any(isinstance(each, str) and each.strip() for each in texts) else "its answer is empty"


def _error_of(error: Any) -> str:
    name = error.get("name") if isinstance(error, Mapping) else None
    is_known = isinstance(name, str) and name in _ERRORS
    return f"its answer bears the error {name}" if is_known else "its answer bears an error"
