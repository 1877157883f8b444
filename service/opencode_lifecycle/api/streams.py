"""Answers that go on for as long as somebody listens."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

import structlog
from aiohttp import web

from opencode_lifecycle.api.authentication import authenticate
from opencode_lifecycle.api.use_cases import Access
from opencode_lifecycle.model.errors import Unauthenticated

_LOOK_SECONDS: Final = 1.0

log = structlog.get_logger("opencode_lifecycle.api")


class Streams:
    """
    Sends streams, and ends them all when the service stops.

    No handler is cancelled because its client went away, so a stream looks for itself, once a second, whether the client
    is there and its token still good.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._stopping = False

    async def stop(self, app: web.Application) -> None:
        """End all streams, whole; hooked into the shutdown of *app*."""
        del app
        self._stopping = True

    async def send(
        self, request: web.Request, headers: Mapping[str, str], chunks: AsyncIterator[bytes]
    ) -> web.StreamResponse:
        """
        Send *chunks*. What they refuse at once is raised, so that it is still answered as a problem.

        After that the status is out: of a failure the client sees a body without its end, and knows it is not whole.
        """
        taking = _take(chunks)
        try:
            await asyncio.wait({taking}, timeout=_LOOK_SECONDS)
            if taking.done():
                taking.result()
            response = web.StreamResponse(headers={**headers, "X-Content-Type-Options": "nosniff"})
            await response.prepare(request)
            try:
                while (chunk := await self._next(request, taking)) is not None:
                    await response.write(chunk)
                    taking = _take(chunks)
                await response.write_eof()
            except ConnectionError:
                pass
            except Exception as error:  # noqa: BLE001 - too late for a problem: the status is out
                log.warning("stream broke", error=type(error).__name__)
                if request.transport is not None:
                    request.transport.abort()
        finally:
            if not taking.done():
                taking.cancel()
                await asyncio.wait({taking})
        return response

    async def _next(self, request: web.Request, taking: "asyncio.Task[bytes | None]") -> bytes | None:
        """Return the chunk, or None at the end, when nobody may listen any more, and when the service stops."""
        while True:
            if self._stopping or not self._may_listen(request):
                return None
            await asyncio.wait({taking}, timeout=_LOOK_SECONDS)
            if taking.done():
                return taking.result()

    def _may_listen(self, request: web.Request) -> bool:
        if request.transport is None or request.transport.is_closing():
            return False
        try:
            authenticate(request, self._access)
        except Unauthenticated:
            return False
        return True


def _take(chunks: AsyncIterator[bytes]) -> "asyncio.Task[bytes | None]":
    async def take() -> bytes | None:
        return await anext(chunks, None)

    return asyncio.create_task(take(), name="next chunk of a stream")
