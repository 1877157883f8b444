"""The two headers that make a write conditional: `If-Match` and `Idempotency-Key`."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import structlog
from aiohttp import hdrs, web
from multidict import istr

from opencode_lifecycle.api.authentication import rate_key
from opencode_lifecycle.api.calls import principal_of, route_of
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.errors import InvalidRequest, LifecycleError, PreconditionFailed
from opencode_lifecycle.model.identifiers import OperationId
from opencode_lifecycle.ports.stores import IdempotencyStore, IdempotentAnswer

KEPT: Final = timedelta(hours=24)
IN_FLIGHT: Final = timedelta(minutes=2)
"""Longer than any request takes. A key whose process died while handling it is free again after that."""
IDEMPOTENCY_KEY: Final = istr("Idempotency-Key")
REPLAYED: Final = "Idempotent-Replayed"

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")
_GENERATION: Final = re.compile(r'"([1-9][0-9]{0,17})"\Z', re.ASCII)
_ENTITY_TAGS: Final = re.compile(r'(?:\*|(?:W/)?"[\x21\x23-\x7e]*"(?:\s*,\s*(?:W/)?"[\x21\x23-\x7e]*")*)\Z')
_OPERATION: Final = re.compile(r"/(op_[0-9A-Z]{26})\Z", re.ASCII)

log = structlog.get_logger("opencode_lifecycle.api")


def entity_tag(generation: int) -> str:
    return f'"{generation}"'


def if_match(request: web.Request) -> int | None:
    """
    Return the generation that the caller says it has seen, or None when it does not say.

    One strong entity tag is compared. A weak one, a list or `*` says nothing certain about the generation, so it fails as
    one that does not match; what is no entity tag at all is a malformed request.
    """
    values = request.headers.getall(hdrs.IF_MATCH, ())
    if not values:
        return None
    value = ", ".join(values).strip()
    match = _GENERATION.match(value)
    if match is not None:
        return int(match[1])
    if _ENTITY_TAGS.match(value) is None:
        raise InvalidRequest("If-Match is not an entity tag.")
    raise PreconditionFailed(
        "If-Match must be the one strong entity tag that the stack was last answered with."
    )


def idempotency_key(request: web.Request) -> str | None:
    values = request.headers.getall(IDEMPOTENCY_KEY, ())
    if not values:
        return None
    if len(values) != 1 or _KEY.match(values[0]) is None:
        raise InvalidRequest("An Idempotency-Key is one value of 1 to 255 visible ASCII characters.")
    return values[0]


PLACE: Final = web.ResponseKey("place", str)
"""On a response without a Location: what an answer that is given again has to find."""

Act = Callable[[], Awaitable[web.Response]]
Replay = Callable[[IdempotentAnswer], Awaitable[web.Response]]


class Idempotency:
    """Does a request once per key. What is kept is a status, a place and an operation: never a body, so no secret."""

    def __init__(self, store: IdempotencyStore, now: Clock) -> None:
        self._store = store
        self._now = now

    async def once(self, request: web.Request, act: Act, replay: Replay) -> web.Response:
        """
        Do *act*, unless a request with the same key was answered before: then *replay* that answer.

        A request that was refused or failed changed nothing that repeating it would double, so its key is free again.
        """
        key = idempotency_key(request)
        if key is None:
            return await act()
        principal = rate_key(principal_of(request))
        route = f"{route_of(request).method} {route_of(request).path}"
        now = self._now()
        earlier = await self._store.begin(
            principal=principal,
            route=route,
            key=key,
            request_hash=await _hash(request),
            now=now,
            lapses_at=now + IN_FLIGHT,
        )
        if earlier is not None:
            response = await replay(earlier)
            response.headers[REPLAYED] = "true"
            return response
        try:
            response = await act()
        except BaseException:
            await self._store.abandon(principal=principal, route=route, key=key)
            raise
        try:
            await self._store.finish(
                principal=principal, route=route, key=key, answer=_kept(response), lapses_at=now + KEPT
            )
        except LifecycleError as error:  # it was done, and whoever asked must hear so
            log.warning("idempotency key not kept", code=error.code, detail=error.message)
        return response


async def _hash(request: web.Request) -> str:
    """Digest what was asked: target and body. The body was read before and is remembered by the request."""
    body = await request.read() if route_of(request).takes is not None else b""
    return hashlib.sha256(b"\0".join((request.raw_path.encode(), body))).hexdigest()


def _kept(response: web.Response) -> IdempotentAnswer:
    location = response.headers.get("Location") or response.get(PLACE)
    match = _OPERATION.search(location) if location is not None else None
    return IdempotentAnswer(
        status=response.status,
        location=location,
        operation_id=OperationId(match[1]) if match is not None else None,
    )
