"""Calls that are accepted and answered with an operation, and the operations themselves."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from opencode_lifecycle.api import parameters as query
from opencode_lifecycle.api.bodies import BodyReader
from opencode_lifecycle.api.calls import arguments_of, principal_of, route_of, stack_of
from opencode_lifecycle.api.conditional_requests import Idempotency, if_match
from opencode_lifecycle.api.identifiers import operation_id_of
from opencode_lifecycle.api.responses import accepted, respond
from opencode_lifecycle.api.schemas import DataBody, NothingBody, OperationShape
from opencode_lifecycle.api.use_cases import Provisioning
from opencode_lifecycle.model.errors import Forbidden, OperationNotFound
from opencode_lifecycle.model.migration import DataPolicy
from opencode_lifecycle.model.operation import Operation
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.ports.stores import IdempotentAnswer


class OperationHandlers:
    def __init__(self, *, provisioning: Provisioning, idempotency: Idempotency, bodies: BodyReader) -> None:
        self._provisioning = provisioning
        self._idempotency = idempotency
        self._bodies = bodies

    async def start(self, request: web.Request) -> web.Response:
        return await self._accept(
            request,
            lambda expected: self._provisioning.start(
                stack_of(request), by=principal_of(request), if_match=expected
            ),
        )

    async def stop(self, request: web.Request) -> web.Response:
        hold = arguments_of(request)[query.HOLD]
        if hold and principal_of(request).role is not Role.OPERATOR:
            raise Forbidden("Only an operator may hold a stack.")
        return await self._accept(
            request,
            lambda expected: self._provisioning.stop(
                stack_of(request), by=principal_of(request), hold=hold, if_match=expected
            ),
        )

    async def recreate(self, request: web.Request) -> web.Response:
        return await self._accept(
            request,
            lambda expected: self._provisioning.recreate(
                stack_of(request), by=principal_of(request), if_match=expected
            ),
        )

    async def rotate_password(self, request: web.Request) -> web.Response:
        return await self._accept(
            request,
            lambda expected: self._provisioning.rotate_password(
                stack_of(request), by=principal_of(request), if_match=expected
            ),
        )

    async def recover(self, request: web.Request) -> web.Response:
        data = (await self._bodies.read(request, DataBody)).data
        if data is DataPolicy.RESTORE and principal_of(request).role is not Role.OPERATOR:
            raise Forbidden("Only an operator may give up what was written since.")
        return await self._accept(
            request,
            lambda expected: self._provisioning.recover(
                stack_of(request), by=principal_of(request), if_match=expected, data=data
            ),
        )

    async def delete(self, request: web.Request) -> web.Response:
        return await self._accept(
            request,
            lambda expected: self._provisioning.delete(
                stack_of(request),
                by=principal_of(request),
                delete_workspace=arguments_of(request)[query.WORKSPACE] == "delete",
                if_match=expected,
            ),
        )

    async def operation(self, request: web.Request) -> web.Response:
        operation = await self._provisioning.operation(operation_id_of(request))
        principal = principal_of(request)
        if principal.role is Role.USER and operation.user_id != principal.subject:
            raise OperationNotFound
        return respond(OperationShape.from_domain(operation))

    async def _accept(
        self, request: web.Request, act: Callable[[int | None], Awaitable[Operation]]
    ) -> web.Response:
        """Do *act* once per Idempotency-Key; repeated, it answers with how its operation stands now."""
        if route_of(request).takes is NothingBody:
            await self._bodies.read(request, NothingBody)
        expected = if_match(request)

        async def first() -> web.Response:
            return accepted(await act(expected))

        async def again(earlier: IdempotentAnswer) -> web.Response:
            if earlier.operation_id is None:
                raise OperationNotFound
            return accepted(await self._provisioning.operation(earlier.operation_id))

        return await self._idempotency.once(request, first, again)
