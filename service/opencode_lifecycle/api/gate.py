"""
What every request passes, in this order: the token, the rate, the role, the path, the query, and then the handler.

This is the one place that renders errors, counts requests and writes the access log. It runs for every hot ensure, so it
does nothing twice and little once.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from time import monotonic, perf_counter
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

import structlog
from aiohttp import hdrs, web
from multidict import istr

from opencode_lifecycle.api import problems
from opencode_lifecycle.api.authentication import authenticate, check_owner, check_role, rate_key
from opencode_lifecycle.api.calls import CALL, Call, new_call_id
from opencode_lifecycle.api.metrics import UNMATCHED, RequestMetrics
from opencode_lifecycle.api.parameters import read_query
from opencode_lifecycle.api.routes import Route
from opencode_lifecycle.api.use_cases import Access
from opencode_lifecycle.lifecycle.requests.rate_limits import RateClass, RateLimiter
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    InvalidRequest,
    InvalidUserId,
    LifecycleError,
    RateLimited,
    Refusal,
    UpstreamError,
)
from opencode_lifecycle.model.identifiers import UserId, parse_user_id

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID: Final = istr("X-Request-Id")
RATE_LIMIT: Final = istr("RateLimit")
RATE_LIMIT_POLICY: Final = istr("RateLimit-Policy")

_API: Final = "/v1/"
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+|~=-]{0,127}\Z", re.ASCII)
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def user_id_of(path: str) -> UserId:
    """
    Read the user id in the raw *path* of a call on a stack: decoded exactly once, compared exactly, never normalised.

    What an escape hides (a slash, NUL, another percent sign) is refused with everything else that is in no user id.
    """
    segment = path.split("/", 4)[3]
    if _PLAIN_ID.match(segment) is not None:
        return UserId(segment)
    raw = segment.encode("utf-8", "surrogateescape")
    if _BROKEN_ESCAPE.search(raw) is not None:
        raise InvalidUserId
    try:
        return parse_user_id(unquote_to_bytes(raw).decode())
    except UnicodeDecodeError:
        raise InvalidUserId from None


class Gate:
    def __init__(
        self,
        *,
        access: Access,
        metrics: RequestMetrics,
        limiters: Mapping[RateClass, RateLimiter],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._access = access
        self._metrics = metrics
        self._limiters = limiters
        self._policies = {
            name: f'"{name}";q={limiter.policy.burst};w={limiter.policy.window_seconds}'
            for name, limiter in limiters.items()
        }
        self._clock = clock
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger(
            "opencode_lifecycle.api"
        ).bind()
        self._logs_quiet_calls = self._log.is_enabled_for(logging.DEBUG)

    def guard(self, route: Route | None, handler: Handler) -> Handler:
        """Return *handler* behind the gate, on the terms of *route*; None is for what no row of the table matches."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            started = perf_counter()
            call = request[CALL] = Call(new_call_id(), route)
            try:
                if route is None:
                    self._admit_unmatched(request, call)
                elif route.rate is None:
                    call.arguments = read_query(request.rel_url.raw_query_string, route.query)
                else:
                    self._admit(request, call, route, route.rate)
                response = await handler(request)
            except Exception as error:  # noqa: BLE001 - the one place where every error becomes an answer
                response = problems.render(error, call.id)
                self._log_failure(error, call.id)
            if not response.prepared:
                self._add_headers(call, response)
            self._record(request, call, response.status, perf_counter() - started)
            return response

        return guarded

    def _admit(self, request: web.Request, call: Call, route: Route, rate: RateClass) -> None:
        """Raise unless this caller may make this call now."""
        principal = call.principal = authenticate(request, self._access)
        verdict = call.verdict = self._limiters[rate].take(rate_key(principal), self._clock())
        if verdict.retry_after:
            raise RateLimited(retry_after=verdict.retry_after)
        check_role(principal, route)
        if "#" in request.raw_path:
            raise InvalidRequest("A request target has no fragment.")
        if route.names_stack:
            call.user_id = user_id_of(request.rel_url.raw_path)
            check_owner(principal, call.user_id)
        if (expectation := request.headers.get(hdrs.EXPECT)) and expectation.lower() != "100-continue":
            raise web.HTTPExpectationFailed
        if query := request.rel_url.raw_query_string:
            call.arguments = read_query(query, route.query)

    def _admit_unmatched(self, request: web.Request, call: Call) -> None:
        """Tell only those who hold a token what is not there."""
        if request.rel_url.raw_path.startswith(_API):
            call.principal = authenticate(request, self._access)

    def _add_headers(self, call: Call, response: web.StreamResponse) -> None:
        headers = response.headers
        headers[REQUEST_ID] = call.id
        headers[hdrs.SERVER] = "opencode-lifecycle"
        if call.verdict is not None and call.route is not None and (rate := call.route.rate) is not None:
            remaining, reset_seconds, _ = call.verdict
            headers[RATE_LIMIT_POLICY] = self._policies[rate]
            headers[RATE_LIMIT] = f'"{rate.value}";r={remaining};t={reset_seconds}'

    def _record(self, request: web.Request, call: Call, status: int, seconds: float) -> None:
        template = call.route.path if call.route is not None else UNMATCHED
        self._metrics.observe(template, request.method, status, seconds)
        is_quiet = call.is_quiet and status < HTTPStatus.BAD_REQUEST
        if is_quiet and not self._logs_quiet_calls:
            return
        write = self._log.debug if is_quiet else self._log.info
        write(
            "request answered",
            request_id=call.id,
            principal=call.principal.name if call.principal is not None else None,
            method=request.method,
            route=template,
            status=status,
            seconds=round(seconds, 6),
        )

    def _log_failure(self, error: Exception, call_id: str) -> None:
        """Log, once, what people must know of a failure; what a caller did wrong is in the access log already."""
        if isinstance(error, Refusal | web.HTTPException):
            return
        if isinstance(error, UpstreamError | DeadlineExceeded):
            self._log.warning("request failed", request_id=call_id, code=error.code, detail=error.message)
        elif isinstance(error, LifecycleError) and problems.answer_for(error) is not problems.DEFECT:
            self._log.warning("request failed", request_id=call_id, code=error.code)
        else:
            self._log.error("request broke", request_id=call_id, exc_info=error)


async def expect_nothing_yet(request: web.Request) -> None:
    """Leave `Expect: 100-continue` to whoever reads the body, so that a refusal comes before the body does."""
    del request
