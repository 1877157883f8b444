"""Calls of operators on the whole."""

from http import HTTPStatus
from urllib.parse import quote, unquote

from aiohttp import web

from opencode_lifecycle.api import cursors
from opencode_lifecycle.api import parameters as query
from opencode_lifecycle.api.bodies import BodyReader
from opencode_lifecycle.api.calls import arguments_of, principal_of, stack_of
from opencode_lifecycle.api.conditional_requests import Idempotency
from opencode_lifecycle.api.identifiers import condition_id_of, is_condition_id, is_orphan_id, orphan_id_of
from opencode_lifecycle.api.responses import respond
from opencode_lifecycle.api.routes import CONDITIONS, ORPHANS
from opencode_lifecycle.api.schemas import (
    ConditionShape,
    NextLookShape,
    NothingBody,
    OrphanShape,
    ReconcileShape,
    StackShape,
    StalenessSummaryShape,
)
from opencode_lifecycle.api.use_cases import Oversight, Provisioning
from opencode_lifecycle.model.errors import InvalidRequest
from opencode_lifecycle.model.identifiers import ConditionId, OrphanId, parse_user_id
from opencode_lifecycle.ports.stores import IdempotentAnswer


class OversightHandlers:
    def __init__(
        self,
        *,
        oversight: Oversight,
        provisioning: Provisioning,
        idempotency: Idempotency,
        bodies: BodyReader,
    ) -> None:
        self._oversight = oversight
        self._provisioning = provisioning
        self._idempotency = idempotency
        self._bodies = bodies

    async def staleness(self, request: web.Request) -> web.Response:
        del request
        return respond(StalenessSummaryShape.from_domain(await self._oversight.staleness()))

    async def reconcile(self, request: web.Request) -> web.Response:
        """Repeated with its key, it tells what is left to be done and begins nothing."""
        await self._bodies.read(request, NothingBody)
        dry_run = arguments_of(request)[query.DRY_RUN]

        async def pass_over(*, only_look: bool) -> web.Response:
            report = await self._oversight.reconcile(dry_run=only_look, by=principal_of(request))
            return respond(ReconcileShape.from_domain(report))

        return await self._idempotency.once(
            request, lambda: pass_over(only_look=dry_run), lambda _: pass_over(only_look=True)
        )

    async def next_look(self, request: web.Request) -> web.Response:
        return respond(NextLookShape.from_domain(await self._oversight.next_look(stack_of(request))))

    async def list_conditions(self, request: web.Request) -> web.Response:
        arguments = arguments_of(request)
        standing, cursor = arguments[query.STANDING], arguments[query.CURSOR]
        after = cursors.unseal("conditions", standing, cursor) if cursor is not None else None
        if after is not None and not is_condition_id(after):
            raise InvalidRequest("The cursor is not one that this list gave out.")
        page = await self._oversight.conditions(
            standing=standing,
            after=ConditionId(after) if after is not None else None,
            limit=arguments[query.LIMIT],
        )
        return respond(
            CONDITIONS.from_domain(
                page, ConditionShape.from_domain, lambda last: cursors.seal("conditions", standing, last)
            )
        )

    async def confirm_condition(self, request: web.Request) -> web.Response:
        await self._bodies.read(request, NothingBody)
        condition_id = condition_id_of(request)

        async def confirm(_: IdempotentAnswer | None = None) -> web.Response:
            condition = await self._oversight.confirm_condition(condition_id, by=principal_of(request))
            return respond(ConditionShape.from_domain(condition))

        return await self._idempotency.once(request, confirm, confirm)

    async def list_orphans(self, request: web.Request) -> web.Response:
        arguments = arguments_of(request)
        cursor = arguments[query.CURSOR]
        after = cursors.unseal("orphans", None, cursor) if cursor is not None else None
        if after is not None and not is_orphan_id(after):
            raise InvalidRequest("The cursor is not one that this list gave out.")
        page = await self._oversight.orphans(
            after=OrphanId(after) if after is not None else None, limit=arguments[query.LIMIT]
        )
        return respond(
            ORPHANS.from_domain(
                page, OrphanShape.from_domain, lambda last: cursors.seal("orphans", None, last)
            )
        )

    async def adopt_orphan(self, request: web.Request) -> web.Response:
        await self._bodies.read(request, NothingBody)
        orphan_id = orphan_id_of(request)

        async def first() -> web.Response:
            view = await self._oversight.adopt_orphan(orphan_id, by=principal_of(request))
            location = f"/v1/stacks/{quote(view.stack.user_id, safe='')}"
            return respond(StackShape.from_domain(view), location=location)

        async def again(earlier: IdempotentAnswer) -> web.Response:
            user_id = parse_user_id(unquote((earlier.location or "").rpartition("/")[2]))
            view = await self._provisioning.inspect(user_id)
            return respond(StackShape.from_domain(view), location=earlier.location)

        return await self._idempotency.once(request, first, again)

    async def delete_orphan(self, request: web.Request) -> web.Response:
        await self._bodies.read(request, NothingBody)
        orphan_id = orphan_id_of(request)

        async def first() -> web.Response:
            await self._oversight.delete_orphan(orphan_id, by=principal_of(request))
            return web.Response(status=HTTPStatus.NO_CONTENT)

        async def again(earlier: IdempotentAnswer) -> web.Response:
            return web.Response(status=earlier.status)

        return await self._idempotency.once(request, first, again)
