"""What happened: the events of a stack or of all, as a list or as a stream, and the runtime's own log."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from opencode_lifecycle.api import cursors
from opencode_lifecycle.api import parameters as query
from opencode_lifecycle.api.calls import arguments_of, principal_of, stack_of
from opencode_lifecycle.api.identifiers import is_event_id
from opencode_lifecycle.api.responses import respond
from opencode_lifecycle.api.routes import EVENTS
from opencode_lifecycle.api.schemas import EventShape
from opencode_lifecycle.api.streams import Streams
from opencode_lifecycle.api.use_cases import Provisioning
from opencode_lifecycle.model.errors import InvalidRequest
from opencode_lifecycle.model.identifiers import UserId

_EVENT_STREAM: Final = "text/event-stream"
_POLL_SECONDS: Final = 1.0
_POLLS_PER_SIGN_OF_LIFE: Final = 15


class HistoryHandlers:
    def __init__(self, *, provisioning: Provisioning, streams: Streams) -> None:
        self._provisioning = provisioning
        self._streams = streams

    async def log(self, request: web.Request) -> web.StreamResponse:
        arguments = arguments_of(request)
        chunks = self._provisioning.log(
            stack_of(request),
            kind=arguments[query.LOG_TYPE],
            tail=arguments[query.TAIL],
            follow=arguments[query.FOLLOW],
        )
        headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
        return await self._streams.send(request, headers, chunks)

    async def stack_events(self, request: web.Request) -> web.StreamResponse:
        return await self._events(request, stack_of(request))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """All events, or for a `user` those of its own stack."""
        return await self._events(request, principal_of(request).subject)

    async def _events(self, request: web.Request, user_id: UserId | None) -> web.StreamResponse:
        cursor = arguments_of(request)[query.CURSOR]
        after = _event_id(cursors.unseal("events", user_id, cursor)) if cursor is not None else None
        if _EVENT_STREAM in request.headers.get("Accept", ""):
            if (last := request.headers.get("Last-Event-ID")) is not None:
                after = _event_id(last)
            headers = {"Content-Type": _EVENT_STREAM, "Cache-Control": "no-store"}
            return await self._streams.send(request, headers, self._follow(user_id, after))
        page = await self._provisioning.events(user_id, after, arguments_of(request)[query.LIMIT])
        return respond(
            EVENTS.from_domain(
                page, EventShape.from_domain, lambda last: cursors.seal("events", user_id, last)
            )
        )

    async def _follow(self, user_id: UserId | None, after: str | None) -> AsyncIterator[bytes]:
        """Yield what is recorded behind *after*, and then what comes, with a sign of life in between."""
        quiet = 0
        while True:
            page = await self._provisioning.events(user_id, after, query.MAX_LIMIT)
            for event in page.items:
                after = event.id
                yield _message(EventShape.from_domain(event))
            if page.next_cursor is not None:
                continue
            quiet = 0 if page.items else quiet + 1
            if quiet % _POLLS_PER_SIGN_OF_LIFE == 1:
                yield b": alive\n\n"
            await asyncio.sleep(_POLL_SECONDS)


def _event_id(text: str) -> str:
    if not is_event_id(text):
        raise InvalidRequest("That is not the id of an event.")
    return text


def _message(event: EventShape) -> bytes:
    return b"id: %s\ndata: %s\n\n" % (event.id.encode(), event.json_bytes())
