"""Calls on stacks."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from opencode_lifecycle.api import cursors
from opencode_lifecycle.api import parameters as query
from opencode_lifecycle.api.bodies import BodyReader
from opencode_lifecycle.api.calls import CALL, arguments_of, principal_of, stack_of
from opencode_lifecycle.api.conditional_requests import Idempotency, entity_tag, idempotency_key, if_match
from opencode_lifecycle.api.responses import JSON, location_of_operation, respond
from opencode_lifecycle.api.routes import FILTERS, STACKS
from opencode_lifecycle.api.schemas import (
    AddressShape,
    EnsureBody,
    NothingBody,
    StackShape,
    credentials_from_domain,
)
from opencode_lifecycle.api.use_cases import Provisioning
from opencode_lifecycle.model.errors import InvalidRequest, InvalidUserId, PreconditionFailed
from opencode_lifecycle.model.identifiers import UserId, parse_user_id
from opencode_lifecycle.model.view import UNCHANGED, EnsureRequest, StackView
from opencode_lifecycle.ports.stores import IdempotentAnswer, StackQuery

_REMEMBERED_VIEWS: Final = 4096


@dataclass(frozen=True, slots=True)
class Rendered:
    """The bytes of *view*, and the headers that go with them."""

    view: StackView
    body: bytes
    headers: tuple[tuple[str, str], ...]


class Presenter:
    """
    Renders stacks, remembering the bytes of the latest ones by the identity of their view.

    A view never changes, so as long as the same object comes back its bytes are the same.
    """

    def __init__(self) -> None:
        self._known: dict[str, Rendered] = {}

    def present(
        self, view: StackView, *, status: int = HTTPStatus.OK, location: str | None = None
    ) -> web.Response:
        known = self._known.get(view.stack.user_id)
        if known is None or known.view is not view:
            known = self._remember(view)
        response = web.Response(status=status, body=known.body, headers=known.headers)
        if location is not None:
            response.headers[hdrs.LOCATION] = location
        return response

    def _remember(self, view: StackView) -> Rendered:
        tag = entity_tag(view.stack.intent.generation)
        headers = ((hdrs.CONTENT_TYPE, JSON), (hdrs.ETAG, tag))
        known = Rendered(view, StackShape.from_domain(view).json_bytes(), headers)
        self._known.pop(view.stack.user_id, None)
        if len(self._known) >= _REMEMBERED_VIEWS:
            del self._known[next(iter(self._known))]
        self._known[view.stack.user_id] = known
        return known


class StackHandlers:
    def __init__(
        self,
        *,
        provisioning: Provisioning,
        idempotency: Idempotency,
        bodies: BodyReader,
        allowed_environment: Collection[str],
    ) -> None:
        self._provisioning = provisioning
        self._idempotency = idempotency
        self._bodies = bodies
        self._allowed_environment = frozenset(allowed_environment)
        self._presenter = Presenter()

    async def ensure(self, request: web.Request) -> web.Response:
        """
        Answer from memory when the stack is as it should be: that is no mutation, so no key is kept for it. Everything
        else is done once per Idempotency-Key.
        """
        user_id, expected = stack_of(request), if_match(request)
        wanted = await self._wanted(request) if request.body_exists else UNCHANGED
        view = self._provisioning.hot(user_id, wanted)
        if view is None:
            return await self._idempotency.once(
                request,
                lambda: self._ensure(request, wanted, expected),
                lambda earlier: self._show_again(request, earlier),
            )
        idempotency_key(request)
        if expected is not None and expected != view.stack.intent.generation:
            raise PreconditionFailed
        request[CALL].is_quiet = True
        return self._presenter.present(view)

    async def _wanted(self, request: web.Request) -> EnsureRequest:
        body = await self._bodies.read(request, EnsureBody)
        return body.to_domain(self._allowed_environment)

    async def _ensure(
        self, request: web.Request, wanted: EnsureRequest, expected: int | None
    ) -> web.Response:
        answer = await self._provisioning.ensure(
            stack_of(request),
            wanted,
            by=principal_of(request),
            wait=arguments_of(request)[query.WAIT],
            if_match=expected,
        )
        if answer.ready:
            return self._presenter.present(answer.view)
        location = location_of_operation(answer.operation) if answer.operation is not None else None
        return self._presenter.present(answer.view, status=HTTPStatus.ACCEPTED, location=location)

    async def _show_again(self, request: web.Request, earlier: IdempotentAnswer) -> web.Response:
        view = await self._provisioning.inspect(stack_of(request))
        return self._presenter.present(view, status=earlier.status, location=earlier.location)

    async def inspect(self, request: web.Request) -> web.Response:
        return self._presenter.present(await self._provisioning.inspect(stack_of(request)))

    async def list_stacks(self, request: web.Request) -> web.Response:
        arguments = arguments_of(request)
        label = arguments[query.LABEL]
        filters = {parameter.name: arguments[parameter] for parameter in FILTERS}
        page = await self._provisioning.find(
            StackQuery(
                phase=arguments[query.PHASE],
                health=arguments[query.HEALTH],
                migration_state=arguments[query.MIGRATION_STATE],
                release=arguments[query.RELEASE],
                reason=arguments[query.REASON],
                stale=arguments[query.STALE],
                group=arguments[query.GROUP],
                labels=label or {},
                limit=arguments[query.LIMIT],
                after=_after(filters, arguments[query.CURSOR]),
            )
        )
        return respond(
            STACKS.from_domain(
                page, StackShape.from_domain, lambda after: cursors.seal("stacks", filters, after)
            )
        )

    async def address(self, request: web.Request) -> web.Response:
        audience = arguments_of(request)[query.AUDIENCE]
        address = await self._provisioning.address(stack_of(request), audience)
        return respond(AddressShape.from_domain(address))

    async def credentials(self, request: web.Request) -> web.Response:
        await self._bodies.read(request, NothingBody)
        credentials = await self._provisioning.credentials(
            stack_of(request), by=principal_of(request), wrap_seconds=arguments_of(request)[query.WRAP]
        )
        return respond(credentials_from_domain(credentials), no_store=True)


def _after(filters: Mapping[str, object], cursor: str | None) -> UserId | None:
    if cursor is None:
        return None
    try:
        return parse_user_id(cursors.unseal("stacks", filters, cursor))
    except InvalidUserId:
        raise InvalidRequest("The cursor is not one that this list gave out.") from None
