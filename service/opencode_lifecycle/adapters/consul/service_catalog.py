"""Where runtimes are registered: Consul's health endpoint, read by py-consul."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from consul import ConsulException

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
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.service_catalog import ServiceInstance

SYSTEM: Final = "consul"
_ALLOCATION: Final = re.compile(
    r"_nomad-(?:task|group)-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?:-|\Z)"
)
_ALLOCATION_IN_META: Final = "allocation_id"
_HIGHEST_PORT: Final = 65535
_PREFIX: Final = "oc-"
_OURS: Final = 'Service matches "^oc-"'
_OURS_IN_CHECKS: Final = 'ServiceName matches "^oc-"'
_LARGEST_LIST: Final = 64 * 1024 * 1024
"""Bytes of all services of one node: about a kilobyte each."""
_WAIT_SECONDS: Final = 300
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


class ConsulServiceCatalog:
    """The `ServiceCatalog` over Consul's HTTP API. `close` it in the loop that used it."""

    def __init__(self, *, address: str, token_file: Path, ca_file: Path | None = None) -> None:
        self._consul = ConsulConnection(address=address, ca_file=ca_file)
        self._token = TokenFile(token_file)

    async def instances(self, job_id: JobId, deadline: Deadline) -> Sequence[ServiceInstance]:
        answer = await self._call(
            "instances", deadline, lambda token: self._consul.health.service(job_id, token=token)
        )
        try:
            _, entries = answer
            found = [_instance(job_id, entry) for entry in entries]
        except (TypeError, KeyError, ValueError, AttributeError):
            found = None
        if found is None:
            raise UpstreamNonsense(SYSTEM, "instances", "the list is not one of instances", job_id=job_id)
        return tuple(instance for instance in found if instance is not None)

    async def list_all(self, deadline: Deadline) -> Mapping[JobId, Sequence[ServiceInstance]]:
        operation = "list all"
        found: dict[JobId, list[ServiceInstance]] = {}
        nodes = await self._read(operation, "/v1/catalog/nodes", deadline)
        for node in _list(operation, nodes):
            name = _text(operation, node, "Node")
            path = f"/v1/catalog/node-services/{quote(name, safe='')}"
            answer = await self._read(operation, path, deadline, [("filter", _OURS)])
            services = answer.get("Services") if isinstance(answer, Mapping) else None
            for service in _list(operation, services or []):
                job_id = JobId(_text(operation, service, "Service"))
                instance = _catalogued(operation, service, node=node)
                if instance is not None and job_id.startswith(_PREFIX):
                    found.setdefault(job_id, []).append(instance)
        return found

    async def follow_critical(self) -> AsyncIterator[frozenset[tuple[JobId, AllocationId]]]:
        """
        Ask again and again for a change of what is critical.

        An index that goes back begins anew, as Consul asks of its clients; and between two answers there is a pause, so
        that an index that moves all the time, for checks that are not ours, cannot keep us busy.
        """
        operation, index = "follow critical", 0
        while True:
            params = [("filter", _OURS_IN_CHECKS), ("wait", f"{_WAIT_SECONDS}s")]
            if index > 0:
                params.append(("index", str(index)))
            deadline = Deadline.after(_WAIT_SECONDS + _WAIT_GRACE_SECONDS, "follow the critical checks")
            seen, checks = await self._exchange(operation, "/v1/health/state/critical", deadline, params)
            yield frozenset(
                claim for check in _list(operation, checks) if (claim := _claim(operation, check)) is not None
            )
            index = seen if seen >= index else 0
            await asyncio.sleep(_PAUSE_SECONDS)

    async def deregister(self, instance: ServiceInstance, deadline: Deadline) -> None:
        """
        Take the instance out of the catalogue.

        Where its node has an agent that still knows it, that agent puts it back: Nomad's client, or an operator on that
        node, has to take it away there.
        """
        body = {"Node": instance.node, "ServiceID": instance.service_id}
        await self._call(
            "deregister",
            deadline,
            lambda token: self._consul.write("/v1/catalog/deregister", body, token=token),
        )

    async def _read(
        self, operation: str, path: str, deadline: Deadline, params: Sequence[tuple[str, Any]] = ()
    ) -> Any:
        return (await self._exchange(operation, path, deadline, params))[1]

    async def _exchange(
        self, operation: str, path: str, deadline: Deadline, params: Sequence[tuple[str, Any]]
    ) -> tuple[int, Any]:
        answer: tuple[int, Any] = await self._call(
            operation,
            deadline,
            lambda token: self._consul.read(path, token=token, largest=_LARGEST_LIST, params=params),
        )
        return answer

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
            # 401 is how a Consul that runs without ACLs answers: there any token is as good as none.
            if refused.status != HTTPStatus.UNAUTHORIZED:
                raise

    async def _call(self, operation: str, deadline: Deadline, request: Request) -> Any:
        """
        Make one request, once more with a new token if the file holds one after a refusal.

        Nothing of aiohttp or py-consul gets out, not even as the cause of an error: their messages quote answers.
        """
        async with deadline.enforce():
            token = await asyncio.to_thread(self._token.current)
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


def _instance(job_id: JobId, entry: Mapping[str, Any]) -> ServiceInstance | None:
    """
    Read one entry, or raise one of Python's own errors for what it is not.

    None for an instance that belongs to no allocation: whoever registered it by hand, it is no runtime of ours.
    """
    service = entry["Service"]
    if service["Service"] != job_id:
        raise ValueError("an instance of another service")
    match = _ALLOCATION.match(service["ID"])
    allocation = match[1] if match else (service.get("Meta") or {}).get(_ALLOCATION_IN_META)
    if not allocation:
        return None
    host, port = service["Address"] or entry["Node"]["Address"], service["Port"]
    if not all(isinstance(text, str) for text in (allocation, host)):
        raise TypeError("an allocation or address that is no text")
    if type(port) is not int or not 0 < port <= _HIGHEST_PORT:
        raise ValueError("a port that is none")
    return ServiceInstance(
        allocation_id=AllocationId(allocation),
        address=Address(host=host, port=port),
        passing=all(check["Status"] == "passing" for check in entry["Checks"]),
        service_id=service["ID"],
        node=str(entry["Node"].get("Node", "")),
        installation=_installation(service),
    )


def _catalogued(
    operation: str, service: Mapping[str, Any], *, node: Mapping[str, Any]
) -> ServiceInstance | None:
    """Read an entry of a node's list; None for one that belongs to no allocation."""
    service_id = _text(operation, service, "ID")
    match = _ALLOCATION.match(service_id)
    port = service.get("Port")
    if match is None or type(port) is not int or not 0 < port <= _HIGHEST_PORT:
        return None
    return ServiceInstance(
        allocation_id=AllocationId(match[1]),
        address=Address(
            host=_text(operation, service, "Address") or _text(operation, node, "Address"), port=port
        ),
        passing=True,
        service_id=service_id,
        node=_text(operation, node, "Node"),
        installation=_installation(service),
    )


def _claim(operation: str, check: Mapping[str, Any]) -> tuple[JobId, AllocationId] | None:
    name = _text(operation, check, "ServiceName")
    match = _ALLOCATION.match(_text(operation, check, "ServiceID"))
    if match is None or not name.startswith(_PREFIX):
        return None
    return JobId(name), AllocationId(match[1])


def _installation(service: Mapping[str, Any]) -> str | None:
    meta = service.get("Meta")
    value = meta.get("installation") if isinstance(meta, Mapping) else None
    return value if isinstance(value, str) and value else None


def _list(operation: str, value: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise UpstreamNonsense(SYSTEM, operation, "the list is not one of objects")
    return value


def _text(operation: str, source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    if not isinstance(value, str):
        raise UpstreamNonsense(SYSTEM, operation, f"{name} is no text")
    return value
