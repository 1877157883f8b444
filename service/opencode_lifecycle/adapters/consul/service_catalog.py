"""Where runtimes are registered: Consul's catalogue and checks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from math import ceil
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
from consul import ConsulException

from opencode_lifecycle.adapters.consul import reading
from opencode_lifecycle.adapters.consul.connection import (
    AnswerTooLarge,
    ConsulConnection,
    Refused,
    ResultsWithheld,
)
from opencode_lifecycle.adapters.token_file import TokenFile
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamNonsense,
    UpstreamRejected,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.ports.service_catalog import ServiceInstance

SYSTEM: Final = "consul"
WAIT: Final = timedelta(minutes=5)
"""For a change of the critical checks; the longest that nothing is heard of them."""
_OURS: Final = f'Service matches "^{reading.PREFIX}"'
_OURS_IN_CHECKS: Final = f'ServiceName matches "^{reading.PREFIX}"'
_SIGHT: Final = {"Resource": "service", "Segment": reading.PREFIX, "Access": "read"}
_NO_ACCESS_CONTROL: Final = HTTPStatus.UNAUTHORIZED
"""How a Consul that runs without ACLs answers what is about them: there any token is as good as none."""
_LARGEST_LIST: Final = 64 * 1024 * 1024
"""Bytes of all services of one node: about a kilobyte each."""
_WAIT_GRACE_SECONDS: Final = 60
"""Consul spreads the end of a wait over a sixteenth more."""
_PAUSE_SECONDS: Final = 0.5
_TROUBLE: Final[tuple[tuple[tuple[type[Exception], ...], type[UpstreamError], str], ...]] = (
    ((ResultsWithheld,), UpstreamDenied, "our token may not see all instances"),
    ((AnswerTooLarge,), UpstreamNonsense, "the answer is too large"),
    ((aiohttp.ClientSSLError,), UpstreamUnavailable, "its certificate is not accepted"),
    ((aiohttp.ClientError, OSError), UpstreamUnavailable, "the connection failed"),
    ((ConsulException, ValueError, RecursionError), UpstreamNonsense, "the answer cannot be read"),
)
"""What aiohttp and py-consul raise, the narrow before the wide, and what we say instead."""
_EXPECTED_TROUBLE: Final = tuple(kind for kinds, _, _ in _TROUBLE for kind in kinds)

Request = Callable[[str], Awaitable[Any]]
T = TypeVar("T")


class ConsulServiceCatalog:
    """The `ServiceCatalog` over Consul's HTTP API. `close` it in the loop that used it."""

    def __init__(
        self,
        *,
        address: str,
        token_file: Path,
        ca_file: Path | None = None,
        wait: timedelta = WAIT,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._consul = ConsulConnection(address=address, ca_file=ca_file)
        self._token = TokenFile(token_file)
        self._wait = wait.total_seconds()
        self._pause = pause

    async def instances(self, job_id: JobId, deadline: Deadline) -> Sequence[ServiceInstance]:
        operation = "instances"
        _, entries = await self._call(
            operation, deadline, lambda token: self._consul.health.service(job_id, token=token)
        )
        return _read(operation, lambda: reading.health_entries(job_id, entries))

    async def list_all(self, deadline: Deadline) -> Mapping[JobId, Sequence[ServiceInstance]]:
        """
        Read node after node, so that only the services of one are held at a time.

        Consul's own mark of results that were withheld is of no use for these: with a filter, too, it counts services
        that are not ours. Our token is asked for its rights instead.
        """
        operation = "list all"
        _, nodes = await self._get(operation, deadline, "/v1/catalog/nodes")
        await self._expect_sight(operation, deadline)
        found: dict[JobId, list[ServiceInstance]] = {}
        for name in _read(operation, lambda: reading.node_names(nodes)):
            path = f"/v1/catalog/node-services/{quote(name, safe='')}"
            _, answer = await self._get(operation, deadline, path, filter=_OURS, whole=False)
            for job_id, instance in _read(operation, partial(reading.node_services, answer)):
                found.setdefault(job_id, []).append(instance)
        return found

    async def follow_critical(self) -> AsyncIterator[frozenset[tuple[JobId, AllocationId]]]:
        """
        Ask again and again for a change of what is critical.

        An index that goes back begins anew, as Consul asks of its clients; and between two answers there is a pause, so
        that an index that moves all the time, for checks that are not ours, cannot keep us busy.
        """
        operation, clock = "follow critical", asyncio.get_running_loop().time
        index, told, told_at = 0, None, clock()
        while True:
            wait = max(1, ceil(told_at + self._wait - clock()))
            waiting = {"wait": f"{wait}s"} | ({"index": str(index)} if index else {})
            deadline = Deadline.after(wait + _WAIT_GRACE_SECONDS, "follow the critical checks")
            seen, checks = await self._get(
                operation,
                deadline,
                "/v1/health/state/critical",
                filter=_OURS_IN_CHECKS,
                whole=False,
                **waiting,
            )
            await self._expect_sight(operation, deadline)
            critical = _read(operation, partial(reading.critical_claims, checks))
            if critical != told or clock() - told_at >= self._wait:
                told, told_at = critical, clock()
                yield critical
            # An index of 0 would not wait at all.
            index = max(seen, 1) if seen >= index else 0
            await self._pause(_PAUSE_SECONDS)

    async def deregister(self, instance: ServiceInstance, deadline: Deadline) -> None:
        """
        Take the instance away from our agent if that is the one that has it, else out of the catalogue.

        An agent puts back what it has. So where another one still has it, it comes back within minutes: Nomad's client,
        or an operator on that node, has to take it away there.
        """
        operation = "deregister"
        if not instance.service_id or not instance.node:
            # Without a service Consul would take this for the whole node.
            raise UpstreamRejected(SYSTEM, operation, "the instance has no name")
        _, agent = await self._get(operation, deadline, "/v1/agent/self")
        if instance.node == _read(operation, lambda: reading.name_of_agent_node(agent)):
            path = f"/v1/agent/service/deregister/{quote(instance.service_id, safe='')}"
            if await self._call(operation, deadline, lambda token: self._take_away(path, token)):
                return
        body = {"Node": instance.node, "ServiceID": instance.service_id}
        try:
            await self._call(
                operation,
                deadline,
                lambda token: self._consul.write("/v1/catalog/deregister", body, token=token),
            )
        except UpstreamUnavailable:
            # It answers 500 for a service that it does not know, as for trouble of its own.
            if await self._is_listed(instance, deadline):
                raise

    async def ping(self, deadline: Deadline) -> None:
        leader = await self._call("ping", deadline, lambda _: self._consul.status.leader())
        if not isinstance(leader, str):
            raise UpstreamNonsense(SYSTEM, "ping", "the leader is no address")
        if not leader:
            raise UpstreamUnavailable(SYSTEM, "ping", "it has no leader")
        await self._call("ping", deadline, self._read_own_token)

    async def close(self) -> None:
        await self._consul.close()

    async def _read_own_token(self, token: str) -> None:
        try:
            await self._consul.acl.token.read_self(token=token)
        except Refused as refused:
            if refused.status != _NO_ACCESS_CONTROL:
                raise

    async def _take_away(self, path: str, token: str) -> bool:
        """Return whether our agent had it."""
        try:
            await self._consul.write(path, None, token=token)
        except Refused as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    async def _is_listed(self, instance: ServiceInstance, deadline: Deadline) -> bool:
        operation = "deregister"
        path = f"/v1/catalog/node-services/{quote(instance.node, safe='')}"
        _, answer = await self._get(operation, deadline, path, filter=_OURS, whole=False)
        services = _read(operation, lambda: reading.node_services(answer))
        return any(each.service_id == instance.service_id for _, each in services)

    async def _expect_sight(self, operation: str, deadline: Deadline) -> None:
        """Raise `UpstreamDenied` unless our token may see every service with our prefix."""
        answers = await self._call(operation, deadline, self._ask_for_sight)
        if answers is not None and not _read(operation, lambda: reading.all_allowed(answers)):
            raise UpstreamDenied(SYSTEM, operation, "our token may not see all instances")

    async def _ask_for_sight(self, token: str) -> Any:
        try:
            return await self._consul.rights([_SIGHT], token=token)
        except Refused as refused:
            if refused.status != _NO_ACCESS_CONTROL:
                raise
            return None

    async def _get(
        self, operation: str, deadline: Deadline, path: str, *, whole: bool = True, **params: str
    ) -> tuple[int, Any]:
        answer: tuple[int, Any] = await self._call(
            operation,
            deadline,
            lambda token: self._consul.read(
                path, token=token, params=params, largest=_LARGEST_LIST, whole=whole
            ),
        )
        return answer

    async def _call(self, operation: str, deadline: Deadline, request: Request) -> Any:
        """
        Make one request, once more with a new token if the file holds one after a refusal.

        Nothing of aiohttp or py-consul gets out, not even as the cause of an error: their messages quote answers.
        """
        async with deadline.enforce():
            token = await self._token.get()
            if token is None:
                raise UpstreamDenied(SYSTEM, operation, "the token file holds no token")
            outcome = await _attempt(operation, request, token)
            if isinstance(outcome, UpstreamDenied):
                other = await asyncio.to_thread(self._token.after_refusal, token)
                outcome = await _attempt(operation, request, other) if other else outcome
        if isinstance(outcome, UpstreamError):
            raise outcome
        return outcome


async def _attempt(operation: str, request: Request, token: str) -> Any:
    """Return the answer, or the error instead of it: one that is raised later carries no vendor's context."""
    try:
        return await request(token)
    except Refused as refused:
        kind, detail = _meaning(refused.status)
        return kind(SYSTEM, operation, detail)
    except _EXPECTED_TROUBLE as error:
        kind, detail = next((kind, detail) for kinds, kind, detail in _TROUBLE if isinstance(error, kinds))
        return kind(SYSTEM, operation, detail)


def _meaning(status: int) -> tuple[type[UpstreamError], str]:
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return UpstreamDenied, "our token lacks the right"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return UpstreamUnavailable, "it asks us to slow down"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return UpstreamUnavailable, f"it answered {status}"
    if status < HTTPStatus.BAD_REQUEST:
        return UpstreamNonsense, f"it answered {status}"
    return UpstreamRejected, f"it answered {status}"


def _read(operation: str, read: Callable[[], T]) -> T:
    """Return what *read* makes of an answer. What it raises for one of another shape may quote it, and stays here."""
    try:
        return read()
    except reading.NOT_AS_IT_SHOULD_BE:
        pass
    raise UpstreamNonsense(SYSTEM, operation, "the answer is not what it should be")
