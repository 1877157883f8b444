"""Snapshots of what a runtime keeps."""

from aiohttp import web

from opencode_lifecycle.api.calls import stack_of
from opencode_lifecycle.api.responses import respond
from opencode_lifecycle.api.schemas import SnapshotsShape
from opencode_lifecycle.api.use_cases import Snapshots


class SnapshotHandlers:
    def __init__(self, *, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    async def snapshots(self, request: web.Request) -> web.Response:
        return respond(SnapshotsShape.from_domain(await self._snapshots.of(stack_of(request))))
