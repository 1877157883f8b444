"""The application and the server it runs in, put together."""

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from time import monotonic
from typing import Any, Final
from uuid import uuid4

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage
from prometheus_client import CollectorRegistry
from yarl import URL

from opencode_lifecycle.api import problems
from opencode_lifecycle.api.activity import ActivityHandlers
from opencode_lifecycle.api.bodies import BodyReader
from opencode_lifecycle.api.conditional_requests import Idempotency
from opencode_lifecycle.api.documentation import DocumentationHandlers
from opencode_lifecycle.api.gate import Gate, Handler, expect_nothing_yet
from opencode_lifecycle.api.groups import GroupHandlers
from opencode_lifecycle.api.health import HealthHandlers
from opencode_lifecycle.api.history import HistoryHandlers
from opencode_lifecycle.api.metrics import RequestMetrics
from opencode_lifecycle.api.openapi import describe
from opencode_lifecycle.api.operations import OperationHandlers
from opencode_lifecycle.api.oversight import OversightHandlers
from opencode_lifecycle.api.release_use_cases import Groups, Releasing
from opencode_lifecycle.api.releases import PinHandlers, ReleaseHandlers
from opencode_lifecycle.api.rollout_use_cases import Rollouts
from opencode_lifecycle.api.rollouts import RolloutHandlers
from opencode_lifecycle.api.routes import ROUTES, Route
from opencode_lifecycle.api.schemas.releases import RELEASE_BODY_BYTES
from opencode_lifecycle.api.snapshots import SnapshotHandlers
from opencode_lifecycle.api.stacks import StackHandlers
from opencode_lifecycle.api.streams import Streams
from opencode_lifecycle.api.tokens import TokenHandlers
from opencode_lifecycle.api.use_cases import Access, Leases, Oversight, Provisioning, Readiness, Snapshots
from opencode_lifecycle.lifecycle.requests.rate_limits import (
    DEFAULT_POLICIES,
    RateClass,
    RateLimiter,
    RatePolicy,
)
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.ports.stores import IdempotencyStore

BODY_SECONDS: Final = 10.0
"""A body that is not here by then, once its header is, will not be waited for."""
HEAD_SECONDS: float = 10.0
"""A request whose head is not complete by then, counted from its first byte or from the connection's beginning."""
KEEPALIVE_SECONDS: Final = 75.0
"""Longer than the idle time of the usual proxies, so that they close first and never hit a closing connection."""
LINGERING_SECONDS: Final = 2.0
"""How long what a refused client still sends is read and dropped, so that it can see the refusal."""
MAX_LINE_BYTES: Final = 8190
MAX_HEADERS: Final = 64

log = structlog.get_logger("opencode_lifecycle.api")


def build_app(
    *,
    provisioning: Provisioning,
    leases: Leases,
    oversight: Oversight,
    rollouts: Rollouts,
    access: Access,
    readiness: Readiness,
    releasing: Releasing,
    groups: Groups,
    snapshots: Snapshots,
    idempotency: IdempotencyStore,
    registry: CollectorRegistry,
    allowed_environment: Collection[str] = (),
    max_body_bytes: int = 65536,
    rates: Mapping[RateClass, RatePolicy] = DEFAULT_POLICIES,
    now: Clock = utc_now,
    monotonic_clock: Callable[[], float] = monotonic,
) -> web.Application:
    """Put the whole API together: each route of the table with its handler, behind the one middleware."""
    gate = Gate(
        access=access,
        metrics=RequestMetrics(registry),
        limiters={rate: RateLimiter(policy) for rate, policy in rates.items()},
        clock=monotonic_clock,
    )
    bodies = BodyReader(max_bytes=max_body_bytes, seconds=BODY_SECONDS)
    once = Idempotency(idempotency, now)
    texts = BodyReader(max_bytes=max(max_body_bytes, RELEASE_BODY_BYTES), seconds=BODY_SECONDS)
    streams = Streams(access)
    handlers = (
        StackHandlers(
            provisioning=provisioning,
            idempotency=once,
            bodies=bodies,
            allowed_environment=allowed_environment,
        ),
        ActivityHandlers(leases=leases, idempotency=once, bodies=bodies),
        OperationHandlers(provisioning=provisioning, idempotency=once, bodies=bodies),
        OversightHandlers(oversight=oversight, provisioning=provisioning, idempotency=once, bodies=bodies),
        ReleaseHandlers(releasing=releasing, idempotency=once, bodies=bodies, texts=texts),
        PinHandlers(provisioning=provisioning, idempotency=once, bodies=bodies),
        GroupHandlers(groups=groups, idempotency=once, bodies=bodies),
        SnapshotHandlers(snapshots=snapshots),
        RolloutHandlers(rollouts=rollouts, idempotency=once, bodies=bodies),
        TokenHandlers(access=access, idempotency=once, bodies=bodies),
        HistoryHandlers(provisioning=provisioning, streams=streams),
        HealthHandlers(readiness=readiness, registry=registry),
        _documentation(),
    )
    app = web.Application(client_max_size=max(max_body_bytes, RELEASE_BODY_BYTES))
    app.on_shutdown.append(streams.stop)
    _register(app, gate, handlers)
    return app


@cache
def _documentation() -> DocumentationHandlers:
    """Describe the API once for every application of this process: it takes longer than all the rest of one."""
    return DocumentationHandlers(lambda: describe(ROUTES, version=version("opencode-lifecycle")))


def _register(app: web.Application, gate: Gate, groups: Collection[object]) -> None:
    """Give every row of the table its handler behind the gate, and what no row matches its refusal."""
    for route in ROUTES:
        handler = gate.guard(route, _handler(groups, route.handler))
        for method in methods_of(route):
            app.router.add_route(method, route.path, handler, expect_handler=expect_nothing_yet)
    app.router.add_route("*", "/{anything:.*}", gate.guard(None, refuse), expect_handler=expect_nothing_yet)


def methods_of(route: Route) -> tuple[str, ...]:
    """Every GET answers HEAD too, but for streams, whose length nobody knows."""
    return (route.method, "HEAD") if route.method == "GET" and not route.streams else (route.method,)


async def refuse(request: web.Request) -> web.Response:
    """Refuse what no row of the table matches: 405 with what the path does take, or 404."""
    path = request.rel_url.raw_path
    allowed = {
        method
        for route in ROUTES
        if re.fullmatch(re.sub(r"\\{[a-z_]+\\}", "[^{}/]+", re.escape(route.path)), path)
        for method in methods_of(route)
    }
    if not allowed:
        raise web.HTTPNotFound
    raise web.HTTPMethodNotAllowed(request.method, allowed)


def _handler(groups: Collection[object], name: str) -> Handler:
    (found,) = [getattr(group, name) for group in groups if hasattr(group, name)]
    handler: Handler = found
    return handler


class Connection(web.RequestHandler):
    """
    One connection. What is not even HTTP is refused as a problem too, without repeating or logging its bytes.

    A request whose head does not come to an end in time ends its connection: whoever sends a byte now and then must not
    hold one for ever.
    """

    __slots__ = ("_head_timer",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages or self._current_request is not None:
            self._stop_awaiting()
        else:
            self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_awaiting()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._give_up)

    def _stop_awaiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self._current_request is None and not self._messages:
            log.info("request head too slow")
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        del message
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun and cannot become another")
        request_id = str(uuid4())
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            log.info("request refused", request_id=request_id, status=status, error=type(exc).__name__)
            response = problems.render(web.HTTPBadRequest(), request_id)
        else:
            log.error("request broke", request_id=request_id, exc_info=exc)
            response = problems.render(RuntimeError(), request_id)
        response.headers["X-Request-Id"] = request_id
        response.force_close()
        return response


class Server(web.Server):
    """Accepts connections, each hardened against slow, large and broken requests."""

    def __call__(self) -> Connection:
        return Connection(
            self,
            loop=asyncio.get_running_loop(),
            # Ours is written by the gate, which knows the route and the principal; aiohttp documents None.
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGERING_SECONDS,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            auto_decompress=False,
        )


class Runner(web.AppRunner):
    """Runs an application in a `Server`. What was begun is finished, whether anybody still listens or not."""

    __slots__ = ()

    def __init__(self, app: web.Application, *, shutdown_seconds: float = 10.0) -> None:
        super().__init__(app, shutdown_timeout=shutdown_seconds)

    async def _make_server(self) -> Server:
        """
        Replace the server that aiohttp made, since it has no public place to say what a connection is.

        A test sees whether this still takes effect.
        """
        plain = await super()._make_server()
        make_request = plain.request_factory

        def request_of(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
            return make_request(with_path(message), *rest)

        return Server(plain.request_handler, request_factory=request_of, handler_cancellation=False)


def with_path(message: RawRequestMessage) -> RawRequestMessage:
    """
    Give a request target that has no path (`*`, an authority, an origin alone) the path `/`.

    aiohttp's router matches no route with it, and would refuse it in its own words instead of as a problem.
    """
    if message.path.startswith("/"):
        return message
    target = message.url.relative() if message.url.absolute else message.url
    if target.path.startswith("/"):
        return message
    return message._replace(url=URL("/"))
