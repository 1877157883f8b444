"""Who is asking, and whether they may. Bearer tokens only."""

from typing import Final

from aiohttp import hdrs, web

from opencode_lifecycle.api.routes import Route
from opencode_lifecycle.api.use_cases import Access
from opencode_lifecycle.model.errors import Forbidden, StackNotFound, Unauthenticated
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.principal import Principal, Role

_LONGEST_TOKEN: Final = 512
_BEARER: Final = "Bearer "


def authenticate(request: web.Request, access: Access) -> Principal:
    """
    Return the holder of the request's one bearer token.

    Everything else is refused alike: no token, two, another scheme (whose name is compared exactly), one that is too
    long or not ASCII, and one that nobody holds. A token in the query is not looked at.
    """
    values = request.headers.getall(hdrs.AUTHORIZATION, ())
    if len(values) != 1:
        raise Unauthenticated
    value = values[0]
    secret = value[len(_BEARER) :]
    if not value.startswith(_BEARER) or len(secret) > _LONGEST_TOKEN or not secret.isascii():
        raise Unauthenticated
    principal = access.authenticate(secret)
    if principal is None:
        raise Unauthenticated
    return principal


def rate_key(principal: Principal) -> str:
    """Name whom a limit or an idempotency key counts for: two tokens of the same holder share it."""
    return principal.role + ":" + (principal.name if principal.subject is None else principal.subject)


def check_role(principal: Principal, route: Route) -> None:
    if principal.role not in route.roles:
        allowed = " or ".join(role for role in Role if role in route.roles)
        raise Forbidden(
            f"The role of this token, {principal.role}, does not allow this call, which is for {allowed}."
        )


def check_owner(principal: Principal, user_id: UserId) -> None:
    """Refuse a `user` another's stack, as if it were not there."""
    if principal.role is Role.USER and user_id != principal.subject:
        raise StackNotFound
