"""Calls for those who keep the service running. No token is needed, so nothing private is told."""

from collections.abc import Sequence
from http import HTTPStatus

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from opencode_lifecycle.api.responses import JSON, respond
from opencode_lifecycle.api.schemas import DependencyShape, LivenessShape, Outgoing, WatchShape
from opencode_lifecycle.api.use_cases import Readiness


class HealthHandlers:
    def __init__(self, *, readiness: Readiness, registry: CollectorRegistry) -> None:
        self._readiness = readiness
        self._registry = registry

    async def live(self, request: web.Request) -> web.Response:
        del request
        return respond(LivenessShape())

    async def ready(self, request: web.Request) -> web.Response:
        """Answer 200 when every dependency is well, else 503; JSON, laid out with one dependency or watch to a line."""
        del request
        reports = await self._readiness.report()
        lines = [
            DependencyShape(
                name=report.name, ok=report.ok, detail=report.detail, age_seconds=report.age_seconds
            )
            for report in reports
        ]
        is_ready = all(report.ok for report in reports)
        watches = [WatchShape.from_domain(watch) for watch in self._readiness.watches()]
        body = b'{"status":"%s","dependencies":[\n%s\n],"watches":[\n%s\n]}\n' % (
            b"ready" if is_ready else b"not ready",
            _rows(lines),
            _rows(watches),
        )
        return web.Response(
            status=HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE,
            body=body,
            headers={"Content-Type": JSON},
        )

    async def metrics(self, request: web.Request) -> web.Response:
        del request
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


def _rows(shapes: Sequence[Outgoing]) -> bytes:
    return b",\n".join(b"  " + shape.json_bytes() for shape in shapes)
