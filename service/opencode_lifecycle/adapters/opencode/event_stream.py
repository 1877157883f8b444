"""
OpenCode's stream of what happens in all directories, as far as it tells whether anything is at work.

A session at work sends hundreds of events a second, nearly all of them pieces of its answer, and each event comes a second
time as a `sync`. So a line is looked at as bytes first, and only what may matter is read as JSON.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from opencode_lifecycle.adapters.opencode import v1
from opencode_lifecycle.adapters.opencode.answers import credentials_of
from opencode_lifecycle.adapters.opencode.exchange import Silence, exchange_with
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamDenied, UpstreamNonsense, UpstreamUnavailable
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.prober import ReadPassword
from opencode_lifecycle.ports.runtime_events import EventKind, RuntimeEvent

SYSTEM: Final = "opencode"
OPERATION: Final = "follow"
HEARTBEAT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 3 * HEARTBEAT_SECONDS
LONGEST_LINE: Final = 256 * 1024
"""Bytes. What is longer is the output of some tool; whether it also said something of interest is found out by a look."""
_PATH: Final = "/global/event"
_DATA: Final = b"data:"
_MAY_MATTER: Final = re.compile(
    rb'"type": ?"(?:session\.(?:status|idle)"|permission\.|question\.|pty\.|server\.(?:connected|instance)|global\.)'
)
_KINDS: Final[Mapping[str, EventKind]] = {
    "server.connected": EventKind.OPENED,
    "session.idle": EventKind.CHANGED,
    "permission.asked": EventKind.WORKS,
    "question.asked": EventKind.WORKS,
    "pty.created": EventKind.WORKS,
}
_AT_WORK: Final = frozenset({"busy", "retry"})
_ENDS_OR_ANSWERS: Final = ("permission.", "question.", "pty.", "server.instance.", "global.")
"""Whatever else is told of these has ended something, or been answered by somebody."""
_UNREADABLE: Final = RuntimeEvent(kind=EventKind.CHANGED)


class OpenCodeEvents:
    """The `RuntimeEvents` of version 1. Each stream has a connection of its own, closed when it ends."""

    def __init__(self, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._silence = silence_seconds

    async def follow(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> AsyncIterator[RuntimeEvent]:
        async with exchange_with(address, deadline) as exchange:
            _, finding = await v1.look_unauthenticated(exchange)
            if finding is not None:
                raise UpstreamUnavailable(SYSTEM, OPERATION, finding[1])
            credentials = credentials_of(await read_password())
            with _translated():
                stream = exchange.stream(_PATH, credentials=credentials, silence_seconds=self._silence)
                async with stream as response:
                    _check(response)
                    lines = Lines(LONGEST_LINE)
                    async for piece in response.content.iter_any():
                        for line in lines.feed(piece):
                            event = event_in(line)
                            if event is not None:
                                yield event
        raise UpstreamUnavailable(SYSTEM, OPERATION, "the event stream ended")


class Lines:
    """Cuts what comes into lines. One that is longer than *longest* is dropped as it comes, and told as None."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest = b""
        self._is_too_long = False

    def feed(self, piece: bytes) -> Sequence[bytes | None]:
        """Return the lines that *piece* has ended."""
        first, *others = piece.split(b"\n")
        if not others:
            self._keep(first)
            return ()
        self._keep(first)
        lines = [None if self._is_too_long else self._rest]
        *whole, rest = others
        lines += [line if len(line) <= self._longest else None for line in whole]
        self._rest, self._is_too_long = b"", False
        self._keep(rest)
        return lines

    def _keep(self, part: bytes) -> None:
        if self._is_too_long or len(self._rest) + len(part) > self._longest:
            self._rest, self._is_too_long = b"", True
        else:
            self._rest += part


def event_in(line: bytes | None) -> RuntimeEvent | None:
    """Return what *line* tells, None where that is of no interest here."""
    if line is None:
        return _UNREADABLE
    if not line.startswith(_DATA) or _MAY_MATTER.search(line) is None:
        return None
    try:
        told = json.loads(line[len(_DATA) :])
    except (ValueError, RecursionError):
        return _UNREADABLE
    payload = told.get("payload") if isinstance(told, dict) else None
    if not isinstance(payload, dict):
        return _UNREADABLE
    kind = _kind_of(payload)
    if kind is None:
        return None
    directory = told.get("directory")
    return RuntimeEvent(kind=kind, directory=directory if isinstance(directory, str) else None)


def _kind_of(payload: Mapping[str, Any]) -> EventKind | None:
    name = payload.get("type")
    if not isinstance(name, str):
        return EventKind.CHANGED
    if name == "session.status":
        properties = payload.get("properties")
        status = properties.get("status") if isinstance(properties, dict) else None
        at_work = isinstance(status, dict) and status.get("type") in _AT_WORK
        return EventKind.WORKS if at_work else EventKind.CHANGED
    if name in _KINDS:
        return _KINDS[name]
    return EventKind.CHANGED if name.startswith(_ENDS_OR_ANSWERS) else None


def _check(response: aiohttp.ClientResponse) -> None:
    """Raise unless it is a stream of events. Nothing of the answer is quoted but its status."""
    if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise UpstreamDenied(SYSTEM, OPERATION, "it refused the password of its job")
    if response.status != HTTPStatus.OK or response.content_type != "text/event-stream":
        raise UpstreamNonsense(SYSTEM, OPERATION, f"it answered {response.status}, and not with events")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise UpstreamUnavailable(SYSTEM, OPERATION, "the event stream fell silent") from None
    except (aiohttp.ClientError, OSError, ValueError):
        raise UpstreamUnavailable(SYSTEM, OPERATION, Silence.BROKEN_OFF.value) from None
