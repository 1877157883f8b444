"""One call, from the moment it comes in: what the gate found out about it, for the handlers."""

import random
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from opencode_lifecycle.api.parameters import NO_ARGUMENTS, Arguments
from opencode_lifecycle.api.routes import Route
from opencode_lifecycle.lifecycle.requests.rate_limits import Verdict
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.principal import Principal


@dataclass(slots=True)
class Call:
    """
    Filled in step by step while the request is admitted; a handler sees it whole.

    `is_quiet` is set for a call that changed nothing and showed nothing new: it is counted, but unless it fails it is in
    the access log at level debug only.
    """

    id: str
    route: Route | None
    principal: Principal | None = None
    user_id: UserId | None = None
    arguments: Arguments = NO_ARGUMENTS
    verdict: Verdict | None = None
    is_quiet: bool = False


CALL: Final = web.RequestKey("call", Call)


def new_call_id() -> str:
    """Make a version 4 UUID. It names lines in a log and guards nothing, so it need not be unguessable."""
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def route_of(request: web.Request) -> Route:
    route = request[CALL].route
    assert route is not None, "only a call of the table reaches a handler"
    return route


def principal_of(request: web.Request) -> Principal:
    principal = request[CALL].principal
    assert principal is not None, "a call that needs a token has been authenticated"
    return principal


def stack_of(request: web.Request) -> UserId:
    """Return the user id in the path of *request*."""
    user_id = request[CALL].user_id
    assert user_id is not None, "the path of this call names a stack"
    return user_id


def arguments_of(request: web.Request) -> Arguments:
    return request[CALL].arguments
