"""Calls on service tokens."""

from http import HTTPStatus

from aiohttp import web

from opencode_lifecycle.api import cursors
from opencode_lifecycle.api import parameters as query
from opencode_lifecycle.api.bodies import BodyReader
from opencode_lifecycle.api.calls import arguments_of, principal_of
from opencode_lifecycle.api.conditional_requests import Idempotency
from opencode_lifecycle.api.identifiers import is_token_id, token_id_of
from opencode_lifecycle.api.responses import respond
from opencode_lifecycle.api.routes import TOKENS
from opencode_lifecycle.api.schemas import IssuedTokenShape, TokenBody, TokenShape
from opencode_lifecycle.api.use_cases import Access
from opencode_lifecycle.model.errors import InvalidRequest, TokenNotFound
from opencode_lifecycle.model.identifiers import TokenId
from opencode_lifecycle.model.principal import ServiceToken
from opencode_lifecycle.ports.stores import IdempotentAnswer


class TokenHandlers:
    def __init__(self, *, access: Access, idempotency: Idempotency, bodies: BodyReader) -> None:
        self._access = access
        self._idempotency = idempotency
        self._bodies = bodies

    async def list_tokens(self, request: web.Request) -> web.Response:
        arguments = arguments_of(request)
        page = await self._access.find(_after(arguments[query.CURSOR]), arguments[query.LIMIT])
        return respond(
            TOKENS.from_domain(
                page, TokenShape.from_domain, lambda after: cursors.seal("tokens", None, after)
            )
        )

    async def issue_token(self, request: web.Request) -> web.Response:
        """Show the secret this once. A repeated request shows the token without it, since it was kept nowhere."""
        body = await self._bodies.read(request, TokenBody)

        async def first() -> web.Response:
            token, secret = await self._access.issue(
                body.name, body.role, body.subject_id(), by=principal_of(request)
            )
            return _issued(token, secret)

        async def again(earlier: IdempotentAnswer) -> web.Response:
            token_id = (earlier.location or "").rpartition("/")[2]
            return _issued(await self._find(TokenId(token_id)), None)

        return await self._idempotency.once(request, first, again)

    async def revoke_token(self, request: web.Request) -> web.Response:
        token_id = token_id_of(request)

        async def first() -> web.Response:
            await self._access.revoke(token_id, by=principal_of(request))
            return web.Response(status=HTTPStatus.NO_CONTENT)

        async def again(earlier: IdempotentAnswer) -> web.Response:
            return web.Response(status=earlier.status)

        return await self._idempotency.once(request, first, again)

    async def _find(self, token_id: TokenId) -> ServiceToken:
        after: TokenId | None = None
        while True:
            page = await self._access.find(after, query.MAX_LIMIT)
            for token in page.items:
                if token.id == token_id:
                    return token
            if page.next_cursor is None:
                raise TokenNotFound
            after = TokenId(page.next_cursor)


def _issued(token: ServiceToken, secret: str | None) -> web.Response:
    return respond(
        IssuedTokenShape.issued(token, secret),
        status=HTTPStatus.CREATED,
        location=f"/v1/tokens/{token.id}",
        no_store=True,
    )


def _after(cursor: str | None) -> TokenId | None:
    if cursor is None:
        return None
    after = cursors.unseal("tokens", None, cursor)
    if not is_token_id(after):
        raise InvalidRequest("The cursor is not one that this list gave out.")
    return TokenId(after)
