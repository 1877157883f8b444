"""Work leases: a backend says that it is at work with a runtime."""

from datetime import datetime

from aiohttp import web

from opencode_lifecycle.api.bodies import BodyReader
from opencode_lifecycle.api.calls import CALL, stack_of
from opencode_lifecycle.api.conditional_requests import PLACE, Idempotency
from opencode_lifecycle.api.responses import respond
from opencode_lifecycle.api.schemas import LeaseBody, LeaseShape
from opencode_lifecycle.api.use_cases import Leases
from opencode_lifecycle.ports.stores import IdempotentAnswer


class ActivityHandlers:
    def __init__(self, *, leases: Leases, idempotency: Idempotency, bodies: BodyReader) -> None:
        self._leases = leases
        self._idempotency = idempotency
        self._bodies = bodies

    async def lease(self, request: web.Request) -> web.Response:
        """
        Renew the lease. Saying so twice is saying so once, so that it needs no key; one that is given is kept all the same.

        Everybody at work renews twice a minute: that is counted, and in the access log at level debug only.
        """
        body = await self._bodies.read(request, LeaseBody)

        async def extend() -> web.Response:
            busy_until = await self._leases.extend(stack_of(request), body.to_domain())
            response = respond(LeaseShape(busy_until=busy_until))
            response[PLACE] = busy_until.isoformat()
            return response

        async def again(earlier: IdempotentAnswer) -> web.Response:
            return respond(LeaseShape(busy_until=datetime.fromisoformat(earlier.location or "")))

        response = await self._idempotency.once(request, extend, again)
        request[CALL].is_quiet = True
        return response
