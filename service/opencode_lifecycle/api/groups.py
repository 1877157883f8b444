"""Calls on groups."""

from aiohttp import web

from opencode_lifecycle.api.bodies import BodyReader
from opencode_lifecycle.api.calls import principal_of
from opencode_lifecycle.api.conditional_requests import Idempotency
from opencode_lifecycle.api.identifiers import group_of
from opencode_lifecycle.api.release_use_cases import Groups
from opencode_lifecycle.api.responses import respond
from opencode_lifecycle.api.schemas import GroupBody, GroupShape
from opencode_lifecycle.ports.stores import IdempotentAnswer


class GroupHandlers:
    def __init__(self, *, groups: Groups, idempotency: Idempotency, bodies: BodyReader) -> None:
        self._groups = groups
        self._idempotency = idempotency
        self._bodies = bodies

    async def group(self, request: web.Request) -> web.Response:
        return respond(GroupShape.from_domain(await self._groups.show(group_of(request))))

    async def put_group(self, request: web.Request) -> web.Response:
        name, wish = group_of(request), (await self._bodies.read(request, GroupBody)).to_domain()

        async def put() -> web.Response:
            return respond(
                GroupShape.from_domain(await self._groups.put(name, wish, by=principal_of(request)))
            )

        async def again(_: IdempotentAnswer) -> web.Response:
            return respond(GroupShape.from_domain(await self._groups.show(name)))

        return await self._idempotency.once(request, put, again)
