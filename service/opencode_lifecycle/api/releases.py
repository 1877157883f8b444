"""Calls on releases, and on the pins that hold a stack on one."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from opencode_lifecycle.api import cursors
from opencode_lifecycle.api import parameters as query
from opencode_lifecycle.api.bodies import BodyReader
from opencode_lifecycle.api.calls import arguments_of, principal_of, stack_of
from opencode_lifecycle.api.conditional_requests import Idempotency, if_match
from opencode_lifecycle.api.identifiers import release_id_in, release_id_of
from opencode_lifecycle.api.release_use_cases import Releasing
from opencode_lifecycle.api.responses import accepted, respond
from opencode_lifecycle.api.routes import RELEASES
from opencode_lifecycle.api.schemas import (
    MadeReleaseShape,
    NothingBody,
    PinBody,
    ReleaseBody,
    ReleaseShape,
    WholeReleaseShape,
)
from opencode_lifecycle.api.use_cases import Provisioning
from opencode_lifecycle.model.errors import InvalidRequest, OperationNotFound
from opencode_lifecycle.model.operation import Operation
from opencode_lifecycle.model.release import MadeRelease
from opencode_lifecycle.ports.stores import IdempotentAnswer


class ReleaseHandlers:
    """*texts* reads the bodies of new releases, which are larger than any other."""

    def __init__(
        self, *, releasing: Releasing, idempotency: Idempotency, bodies: BodyReader, texts: BodyReader
    ) -> None:
        self._releasing = releasing
        self._idempotency = idempotency
        self._bodies = bodies
        self._texts = texts

    async def create_release(self, request: web.Request) -> web.Response:
        wish = (await self._texts.read(request, ReleaseBody)).to_domain()

        async def first() -> web.Response:
            made = await self._releasing.create(wish, by=principal_of(request))
            return _made(made, HTTPStatus.CREATED if made.is_new else HTTPStatus.OK)

        async def again(earlier: IdempotentAnswer) -> web.Response:
            entry = await self._releasing.show(release_id_in((earlier.location or "").rpartition("/")[2]))
            return _made(MadeRelease(entry=entry, is_new=False, checks={}), earlier.status)

        return await self._idempotency.once(request, first, again)

    async def list_releases(self, request: web.Request) -> web.Response:
        arguments = arguments_of(request)
        cursor = arguments[query.CURSOR]
        before = cursors.unseal("releases", None, cursor) if cursor is not None else None
        if before is not None and not before.isdecimal():
            raise InvalidRequest("The cursor is not one that this list gave out.")
        page = await self._releasing.find(int(before) if before is not None else None, arguments[query.LIMIT])
        return respond(
            RELEASES.from_domain(
                page, ReleaseShape.from_domain, lambda last: cursors.seal("releases", None, last)
            )
        )

    async def release(self, request: web.Request) -> web.Response:
        return respond(WholeReleaseShape.from_domain(await self._releasing.show(release_id_of(request))))

    async def use_release(self, request: web.Request) -> web.Response:
        await self._bodies.read(request, NothingBody)
        release_id = release_id_of(request)

        async def use() -> web.Response:
            entry = await self._releasing.use(release_id, by=principal_of(request))
            return respond(WholeReleaseShape.from_domain(entry))

        async def again(_: IdempotentAnswer) -> web.Response:
            return respond(WholeReleaseShape.from_domain(await self._releasing.show(release_id)))

        return await self._idempotency.once(request, use, again)


class PinHandlers:
    def __init__(self, *, provisioning: Provisioning, idempotency: Idempotency, bodies: BodyReader) -> None:
        self._provisioning = provisioning
        self._idempotency = idempotency
        self._bodies = bodies

    async def pin(self, request: web.Request) -> web.Response:
        release_id, expected = (await self._bodies.read(request, PinBody)).to_domain(), if_match(request)
        return await self._once(
            request,
            lambda: self._provisioning.pin(
                stack_of(request), release_id, by=principal_of(request), if_match=expected
            ),
        )

    async def unpin(self, request: web.Request) -> web.Response:
        expected = if_match(request)
        return await self._once(
            request,
            lambda: self._provisioning.unpin(stack_of(request), by=principal_of(request), if_match=expected),
        )

    async def _once(self, request: web.Request, act: Callable[[], Awaitable[Operation]]) -> web.Response:
        async def first() -> web.Response:
            return accepted(await act())

        async def again(earlier: IdempotentAnswer) -> web.Response:
            if earlier.operation_id is None:
                raise OperationNotFound
            return accepted(await self._provisioning.operation(earlier.operation_id))

        return await self._idempotency.once(request, first, again)


def _made(made: MadeRelease, status: int) -> web.Response:
    location = f"/v1/releases/{made.entry.release.id}"
    return respond(MadeReleaseShape.made(made), status=status, location=location)
