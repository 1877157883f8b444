"""Where runtimes are registered: Consul's health endpoint, read by py-consul."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

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
    )
