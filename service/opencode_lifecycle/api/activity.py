"""Work leases: a backend says that it is at work with a runtime."""

from aiohttp import web

from opencode_lifecycle.api.bodies import BodyReader
from opencode_lifecycle.api.calls import CALL, stack_of
from opencode_lifecycle.api.responses import respond
from opencode_lifecycle.api.schemas import LeaseBody, LeaseShape
from opencode_lifecycle.api.use_cases import Leases


class ActivityHandlers:
    def __init__(self, *, leases: Leases, bodies: BodyReader) -> None:
        self._leases = leases
        self._bodies = bodies

    async def lease(self, request: web.Request) -> web.Response:
        """
        Renew the lease. Saying so twice is saying so once, so that it needs no key.

        Everybody at work renews twice a minute: that is counted, and in the access log at level debug only.
        """
        body = await self._bodies.read(request, LeaseBody)
        busy_until = await self._leases.extend(stack_of(request), body.to_domain())
        request[CALL].is_quiet = True
        return respond(LeaseShape(busy_until=busy_until))
