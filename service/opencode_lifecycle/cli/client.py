"""The HTTP API as the command line uses it: a method per call, and one exception for all that can go wrong."""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

import aiohttp
from ulid import ULID
from yarl import URL

from opencode_lifecycle.cli.advice import SERVICE_UNREACHABLE, UNEXPECTED_ANSWER

JsonObject = Mapping[str, Any]
Query = Sequence[tuple[str, str]]

ANSWER_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""A full page of 500 stacks with the longest labels is a sixth of it."""
ANSWER_SECONDS: Final = 30.0
WHOLE_SECONDS: Final = 120.0
"""For a call that has the service read everything in every neighbour; each of those has a deadline of its own."""
CONNECT_SECONDS: Final = 5.0
LARGEST_PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing the service found wrong in a body, and where."""

    pointer: str
    detail: str


class CallFailed(Exception):
    """The service refused, failed, or gave no answer (`status` None). Holds nothing secret and no body."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        faults: Sequence[Fault] = (),
        retry_after: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status = status
        self.faults = tuple(faults)
        self.retry_after = retry_after

    @property
    def may_pass(self) -> bool:
        """Whether the same question may well be answered a moment later."""
        return self.status is None or self.status in {429, 502, 503, 504}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: JsonObject
    location: str | None = None
    date: str | None = None

    @property
    def operation_id(self) -> str | None:
        """The operation that `Location` names, if it names one."""
        head, _, last = (self.location or "").rpartition("/")
        return unquote(last) if last and head.endswith("/operations") else None


class Client:
    """
    Speaks to one service with one token. Follows no redirect and reads no answer beyond a bound.

    A read, and a write that carries an idempotency key, is repeated once when its connection was cut.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str, token: str | None) -> AsyncIterator["Client"]:
        """Open a client. The token goes into the header alone; proxies and .netrc of the environment are not used."""
        headers = {"Accept": "application/json, application/problem+json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with aiohttp.ClientSession(headers=headers, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield cls(session, url)

    # One stack

    async def ensure(self, user_id: str, body: JsonObject) -> Answer:
        return await self._call("PUT", _path("v1", "stacks", user_id), body=body, keyed=True)

    async def stack(self, user_id: str) -> JsonObject:
        return (await self._call("GET", _path("v1", "stacks", user_id))).body

    async def address(self, user_id: str, audience: str) -> JsonObject:
        return (
            await self._call("GET", _path("v1", "stacks", user_id, "address"), [("audience", audience)])
        ).body

    async def credentials(self, user_id: str, wrap_seconds: int | None) -> JsonObject:
        query = [("wrap", f"{wrap_seconds}s")] if wrap_seconds is not None else []
        return (await self._call("POST", _path("v1", "stacks", user_id, "credentials"), query)).body

    async def command(
        self, user_id: str, verb: str, query: Query = (), body: JsonObject | None = None
    ) -> Answer:
        """Ask for `start`, `stop`, `recreate`, `recover` or `rotate-password`."""
        return await self._call("POST", _path("v1", "stacks", user_id, verb), query, body=body, keyed=True)

    async def delete(self, user_id: str, workspace: str) -> Answer:
        return await self._call(
            "DELETE", _path("v1", "stacks", user_id), [("workspace", workspace)], keyed=True
        )

    async def log(self, user_id: str, *, kind: str, tail: int, follow: bool) -> AsyncGenerator[bytes, None]:
        """Yield the log in the pieces it arrives in; with *follow* until the service ends it."""
        query = [("type", kind), ("tail", str(tail)), ("follow", str(follow).lower())]
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=None if follow else ANSWER_SECONDS
        )
        url = self._target(_path("v1", "stacks", user_id, "logs"), query)
        try:
            async with self._session.get(
                url, allow_redirects=False, timeout=timeout, headers={"Accept": "text/plain, */*"}
            ) as response:
                if response.status != 200:  # noqa: PLR2004 - HTTP's OK
                    raise _problem(response.status, await _read(response), response.headers)
                async for piece in response.content.iter_any():
                    yield piece
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from None

    # Lists

    def stacks(
        self, query: Query, limit: int | None, *, cursor: str | None = None
    ) -> AsyncIterator[JsonObject]:
        """Yield pages of stacks; with *cursor* from where an earlier list with the same query ended."""
        return self._pages(_path("v1", "stacks"), query, limit, cursor=cursor)

    def events(self, user_id: str | None) -> AsyncIterator[JsonObject]:
        path = _path("v1", "events") if user_id is None else _path("v1", "stacks", user_id, "events")
        return self._pages(path, (), None)

    def tokens(self) -> AsyncIterator[JsonObject]:
        return self._pages(_path("v1", "tokens"), (), None)

    # The rest

    async def operation(self, operation_id: str) -> JsonObject:
        return (await self._call("GET", _path("v1", "operations", operation_id))).body

    async def create_token(self, body: JsonObject) -> JsonObject:
        """Create a token. Not repeated when the connection is cut: its secret is shown once only."""
        return (await self._call("POST", _path("v1", "tokens"), body=body)).body

    async def revoke_token(self, token_id: str) -> JsonObject:
        return (await self._call("DELETE", _path("v1", "tokens", token_id), keyed=True)).body

    async def next_look(self, user_id: str) -> JsonObject:
        return (await self._call("GET", _path("v1", "stacks", user_id, "next"))).body

    async def snapshots(self, user_id: str) -> JsonObject:
        return (await self._call("GET", _path("v1", "stacks", user_id, "snapshots"))).body

    async def staleness(self) -> JsonObject:
        return (await self._call("GET", "/v1/staleness")).body

    async def reconcile(self, *, dry_run: bool) -> JsonObject:
        query = [("dry_run", str(dry_run).lower())]
        return (await self._call("POST", "/v1/reconcile", query, keyed=True, seconds=WHOLE_SECONDS)).body

    def orphans(self) -> AsyncIterator[JsonObject]:
        return self._pages(_path("v1", "orphans"), (), None)

    async def adopt_orphan(self, orphan_id: str) -> JsonObject:
        return (await self._call("POST", _path("v1", "orphans", orphan_id, "adopt"), keyed=True)).body

    async def delete_orphan(self, orphan_id: str) -> JsonObject:
        return (await self._call("POST", _path("v1", "orphans", orphan_id, "delete"), keyed=True)).body

    def conditions(self, *, standing: bool) -> AsyncIterator[JsonObject]:
        return self._pages(_path("v1", "conditions"), [("standing", str(standing).lower())], None)

    async def confirm_condition(self, condition_id: str) -> JsonObject:
        return (await self._call("POST", _path("v1", "conditions", condition_id, "confirm"), keyed=True)).body

    async def rollout(self, rollout_id: str, query: Query = ()) -> JsonObject:
        return (await self._call("GET", _path("v1", "rollouts", rollout_id), query)).body

    def rollouts(self, *, most: int | None = None) -> AsyncIterator[JsonObject]:
        """Yield pages of rollouts, the newest first; of all, or of so many."""
        return self._pages(_path("v1", "rollouts"), (), most)

    async def members(self, rollout_id: str, query: Query) -> list[JsonObject]:
        """Return the members of a rollout that *query* names, from all pages."""
        items: list[JsonObject] = []
        cursor: str | None = None
        while True:
            asked = [*query, ("limit", str(LARGEST_PAGE)), *([("cursor", cursor)] if cursor else [])]
            page = (await self.rollout(rollout_id, asked)).get("members")
            if not isinstance(page, dict) or not isinstance(page.get("items"), list):
                raise CallFailed(UNEXPECTED_ANSWER, "the answer has no members")
            items += page["items"]
            following = page.get("next_cursor")
            if not following or following == cursor:
                return items
            cursor = str(following)

    async def plan_rollout(self, body: JsonObject) -> JsonObject:
        """Plan; the service asks Nomad for each stack, so this may take long."""
        path = _path("v1", "rollouts", "plan")
        return (await self._call("POST", path, body=body, keyed=True, seconds=WHOLE_SECONDS)).body

    async def start_rollout(self, body: JsonObject) -> JsonObject:
        path = _path("v1", "rollouts")
        return (await self._call("POST", path, body=body, keyed=True, seconds=WHOLE_SECONDS)).body

    async def change_rollout(self, rollout_id: str, verb: str, body: JsonObject | None = None) -> JsonObject:
        """Ask to `pause`, `resume`, `abort` or `rollback`."""
        return (
            await self._call("POST", _path("v1", "rollouts", rollout_id, verb), body=body, keyed=True)
        ).body

    async def create_release(self, body: JsonObject) -> Answer:
        """Make a release; the service has Nomad and OpenCode look at it first, which takes seconds."""
        return await self._call("POST", "/v1/releases", body=body, keyed=True, seconds=WHOLE_SECONDS)

    def releases(self) -> AsyncIterator[JsonObject]:
        """Yield pages of releases, the newest first."""
        return self._pages("/v1/releases", (), None)

    async def release(self, release_id: str) -> JsonObject:
        return (await self._call("GET", _path("v1", "releases", release_id))).body

    async def use_release(self, release_id: str) -> JsonObject:
        return (await self._call("POST", _path("v1", "releases", release_id, "use"), keyed=True)).body

    async def pin(self, user_id: str, release_id: str) -> Answer:
        path = _path("v1", "stacks", user_id, "pin")
        return await self._call("PUT", path, body={"release": release_id}, keyed=True)

    async def unpin(self, user_id: str) -> Answer:
        return await self._call("DELETE", _path("v1", "stacks", user_id, "pin"), keyed=True)

    async def group(self, name: str) -> JsonObject:
        return (await self._call("GET", _path("v1", "groups", name))).body

    async def put_group(self, name: str, body: JsonObject) -> JsonObject:
        return (await self._call("PUT", _path("v1", "groups", name), body=body, keyed=True)).body

    async def openapi(self) -> JsonObject:
        return (await self._call("GET", "/openapi.json")).body

    async def readiness(self) -> Answer:
        """Return what the service says of its dependencies, whether it is ready (200) or not (503)."""
        return await self._call("GET", "/readyz", accepted=frozenset({503}))

    async def status_of(self, *path: str, query: Query = ()) -> tuple[int, str]:
        """Return the status and problem code that a read gets, as a way to see what a token may do."""
        try:
            return (await self._call("GET", _path(*path), query)).status, ""
        except CallFailed as failure:
            if failure.status is None:
                raise
            return failure.status, failure.code

    async def _pages(
        self, path: str, query: Query, limit: int | None, *, cursor: str | None = None
    ) -> AsyncIterator[JsonObject]:
        left = limit
        while True:
            size = LARGEST_PAGE if left is None else min(LARGEST_PAGE, left)
            asked = [*query, ("limit", str(size)), *([("cursor", cursor)] if cursor else [])]
            page = (await self._call("GET", path, asked)).body
            if not isinstance(page.get("items"), list):
                raise CallFailed(UNEXPECTED_ANSWER, f"{path}: the answer is not a list")
            yield page
            left = None if left is None else left - len(page["items"])
            following = page.get("next_cursor")
            if not following or following == cursor or (left is not None and left <= 0):
                return
            cursor = following

    async def _call(
        self,
        method: str,
        path: str,
        query: Query = (),
        *,
        body: JsonObject | None = None,
        keyed: bool = False,
        accepted: frozenset[int] = frozenset(),
        seconds: float | None = None,
    ) -> Answer:
        url = self._target(path, query)
        headers = {"Idempotency-Key": str(ULID())} if keyed else {}
        timeout = aiohttp.ClientTimeout(total=seconds or ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
        for may_repeat in (keyed or method == "GET", False):
            try:
                async with self._session.request(
                    method, url, json=body, headers=headers, allow_redirects=False, timeout=timeout
                ) as response:
                    return _answer(response, await _read(response), accepted)
            except (aiohttp.ClientConnectorError, TimeoutError) as error:
                raise self._unreachable(error) from None
            except aiohttp.ClientError as error:
                if not may_repeat:
                    raise self._unreachable(error) from None
        raise AssertionError("the second try returns or raises")

    def _target(self, path: str, query: Query) -> URL:
        text = f"{self._url}{path}"
        return URL(f"{text}?{urlencode(query, quote_via=quote)}" if query else text, encoded=True)

    def _unreachable(self, error: Exception) -> CallFailed:
        if isinstance(error, aiohttp.ClientSSLError):
            why = "no TLS connection; its certificate may not be trusted here (SSL_CERT_FILE names a CA)"
        elif isinstance(error, aiohttp.ClientConnectorDNSError):
            why = "the host name is not known"
        elif isinstance(error, aiohttp.ClientConnectorError):
            why = os.strerror(error.os_error.errno) if error.os_error.errno else "no connection"
        elif isinstance(error, aiohttp.ConnectionTimeoutError):
            why = "no connection in time"
        elif isinstance(error, TimeoutError):
            why = "no answer in time; the request may have been accepted"
        else:
            why = "the connection was cut; the request may have been accepted"
        return CallFailed(SERVICE_UNREACHABLE, f"{self._url}: {why}")


def _path(*parts: str) -> str:
    return "/" + "/".join(quote(part, safe="") for part in parts)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > ANSWER_LIMIT_BYTES:
            raise CallFailed(UNEXPECTED_ANSWER, "the answer is larger than any of the service")
    return bytes(body)


def _answer(response: aiohttp.ClientResponse, body: bytes, accepted: frozenset[int]) -> Answer:
    if response.status not in accepted and not 200 <= response.status < 300:  # noqa: PLR2004 - HTTP's classes
        raise _problem(response.status, body, response.headers)
    parsed = _json_object(body) if body else {}
    if parsed is None:
        raise CallFailed(UNEXPECTED_ANSWER, f"status {response.status} with a body that is no JSON object")
    return Answer(
        status=response.status,
        body=parsed,
        location=response.headers.get("Location"),
        date=response.headers.get("Date"),
    )


def _problem(status: int, body: bytes, headers: Mapping[str, str]) -> CallFailed:
    problem = _json_object(body)
    if problem is None or not isinstance(problem.get("code"), str):
        return CallFailed(UNEXPECTED_ANSWER, f"status {status} without a problem document of the service")
    faults = problem.get("errors")
    return CallFailed(
        problem["code"],
        str(problem.get("detail") or problem.get("title") or problem["code"]),
        status=status,
        faults=[
            Fault(pointer=str(fault.get("pointer", "")), detail=str(fault.get("detail", "")))
            for fault in (faults if isinstance(faults, list) else [])
            if isinstance(fault, dict)
        ],
        retry_after=headers.get("Retry-After"),
    )


def _json_object(body: bytes) -> JsonObject | None:
    try:
        parsed = json.loads(body)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None
