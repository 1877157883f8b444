"""
Nomad's HTTP API over aiohttp: bounded answers, no redirects, our errors and nobody else's.

Nothing that Nomad or aiohttp says leaves this module except Nomad's own sentence about a request it refuses, cut to a
length that fits a message.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from opencode_lifecycle.adapters.token_file import TokenFile
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    IndexConflict,
    NoCapacity,
    UpstreamDenied,
    UpstreamError,
    UpstreamNonsense,
    UpstreamRejected,
    UpstreamUnavailable,
    VersionConflict,
)

SYSTEM: Final = "nomad"
LARGEST_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of one answer. A page of 500 allocations with their task events, or of 2500 stubs without, stays below 4 MiB."""
LONGEST_SENTENCE: Final = 512
_CHUNK: Final = 65536
_CONNECTIONS: Final = 64
"""Below the 100 that a Nomad agent allows one address."""
_LARGEST_EVENT: Final = 4 * 1024 * 1024
_CONNECT_SECONDS: Final = 5

_INDEX_CONFLICT: Final = "Enforcing job modify index"
_REFUSED_WITH_500: Final = re.compile(
    r"\A\d+ errors? occurred:"  # how Nomad lists what its validation found
    r"|in use|no such volume|volume .* (?:is|has)|can't update"
)
"""Nomad answers 500 for what it will never accept, too. Anything else with 500 is trouble that passes."""
_NO_ROOM: Final = re.compile(r"could not place volume|no node meets constraints")
"""And for a volume that no node can take now, in words that hold some of the former by chance."""
_NOMADS_NOT_FOUND: Final = re.compile(
    r"\A[^<]{0,300}?(?:not found|no such|unknown|does not exist)", re.IGNORECASE
)
_MAINTENANCE: Final = "job registration disabled"
_MEANINGS: Final[Mapping[int, tuple[type[UpstreamError], str]]] = {
    HTTPStatus.UNAUTHORIZED: (UpstreamDenied, "our token lacks the right"),
    HTTPStatus.FORBIDDEN: (UpstreamDenied, "our token lacks the right"),
    HTTPStatus.TOO_MANY_REQUESTS: (UpstreamUnavailable, "it asks us to slow down"),
    HTTPStatus.CONFLICT: (VersionConflict, "somebody wrote before us"),
}

Query = Mapping[str, str | int | bool | tuple[str, ...]]
"""A tuple is a parameter that comes several times."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is JSON, or None for 404 and for an answer without content. `index` is `X-Nomad-Index`."""

    body: Any
    index: int
    next_token: str
    found: bool


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    operation: str
    path: str
    query: Query = field(default_factory=dict)
    body: Any = None


def path_of(*segments: str) -> str:
    """Join *segments* to a path below `/v1`, each percent-encoded, so that none can reach another endpoint."""
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)


def sentence_of(text: str) -> str:
    """Make one line of what Nomad says, of at most 512 characters."""
    line = " ".join(text.replace("\t* ", " ").split())
    return line if len(line) <= LONGEST_SENTENCE else line[: LONGEST_SENTENCE - 1] + "…"


def meaning_of(status: int, text: str) -> tuple[type[UpstreamError], str]:
    """Say what an answer with *status* and *text* is to us. Nomad has no codes beyond the status."""
    if status == HTTPStatus.FORBIDDEN and _MAINTENANCE in text:
        return UpstreamUnavailable, "an operator has disabled job registration"
    if status in _MEANINGS:
        return _MEANINGS[status]
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return UpstreamRejected, sentence_of(text) or f"it answered {status}"
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and text.startswith(_INDEX_CONFLICT):
        return IndexConflict, sentence_of(text)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and _NO_ROOM.search(text):
        return NoCapacity, sentence_of(text)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and _REFUSED_WITH_500.search(text):
        return UpstreamRejected, sentence_of(text)
    if status < HTTPStatus.BAD_REQUEST:
        return UpstreamNonsense, f"it answered {status}"
    return UpstreamUnavailable, f"it answered {status}"


class NomadConnection:
    """One client for one namespace. Its first call opens it; it is closed in the same event loop."""

    def __init__(
        self, *, address: str, token_file: Path, namespace: str, region: str, ca_file: Path | None
    ) -> None:
        self.namespace = namespace
        self._address = address.rstrip("/")
        self._scope = {"namespace": namespace, "region": region}
        self._token = TokenFile(token_file)
        self._trust = ssl.create_default_context(cafile=ca_file) if address.startswith("https://") else True
        self._session: aiohttp.ClientSession | None = None

    async def get(
        self, operation: str, path: str, query: Query | None = None, *, deadline: Deadline
    ) -> Answer:
        return await self._call(_Request("GET", operation, path, query or {}), deadline)

    async def put(
        self, operation: str, path: str, body: Any, query: Query | None = None, *, deadline: Deadline
    ) -> Answer:
        return await self._call(_Request("PUT", operation, path, query or {}, body), deadline)

    async def delete(self, operation: str, path: str, *, deadline: Deadline) -> Answer:
        return await self._call(_Request("DELETE", operation, path), deadline)

    async def pages(
        self, operation: str, path: str, query: Query, *, page_size: int, deadline: Deadline
    ) -> tuple[list[Any], int]:
        """Return all items of a paged listing, and the smallest index of its pages. A page that fails fails it all."""
        items: list[Any] = []
        indexes: list[int] = []
        async for page in self.each_page(operation, path, query, page_size=page_size, deadline=deadline):
            items += page.body
            indexes.append(page.index)
        return items, min(indexes)

    async def each_page(
        self, operation: str, path: str, query: Query, *, page_size: int, deadline: Deadline
    ) -> AsyncIterator[Answer]:
        """
        Yield the pages of a listing, at least one, each with a list as its body.

        For listings that are large: a page can be forgotten before the next one is read.
        """
        token = ""
        while True:
            page_query: dict[str, str | int | bool | tuple[str, ...]] = {**query, "per_page": page_size}
            if token:
                page_query["next_token"] = token
            answer = await self.get(operation, path, page_query, deadline=deadline)
            if not isinstance(answer.body, list):
                raise UpstreamNonsense(SYSTEM, operation, "the page is no list")
            yield answer
            if not answer.next_token:
                return
            if answer.next_token == token:
                raise UpstreamNonsense(SYSTEM, operation, "the same page comes again")
            token = answer.next_token

    @asynccontextmanager
    async def stream(
        self, operation: str, path: str, query: Query, *, deadline: Deadline
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """
        Open an answer that goes on. *deadline* bounds the opening alone.

        Whoever reads from it translates trouble with `translating`.
        """
        async with deadline.enforce():
            token = await self._current_token(operation)
            response = await self._open(_Request("GET", operation, path, query), token)
        try:
            if response.status != HTTPStatus.OK:
                async with deadline.enforce():
                    text = await self._text(operation, response)
                kind, detail = meaning_of(response.status, text)
                raise kind(SYSTEM, operation, detail)
            yield response
        finally:
            response.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _call(self, request: _Request, deadline: Deadline) -> Answer:
        """Make one request; once more if the token was refused and its file holds another by now."""
        async with deadline.enforce():
            token = await self._current_token(request.operation)
            try:
                return await self._exchange(request, token)
            except UpstreamDenied:
                other = await asyncio.to_thread(self._token.after_refusal, token)
                if not other:
                    raise
            return await self._exchange(request, other)

    async def _exchange(self, request: _Request, token: str) -> Answer:
        operation = request.operation
        response = await self._open(request, token)
        async with response:
            text = await self._text(operation, response)
        if response.status == HTTPStatus.NOT_FOUND:
            if not _NOMADS_NOT_FOUND.match(text):
                # Of a proxy in between, or a wrong address: nobody has said that the thing does not exist.
                raise UpstreamNonsense(SYSTEM, operation, "404, and not in Nomad's words")
            return Answer(None, _index_of(response), "", found=False)
        if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            kind, detail = meaning_of(response.status, text)
            raise kind(SYSTEM, operation, detail)
        return Answer(
            _json_of(operation, response, text),
            _index_of(response),
            response.headers.get("X-Nomad-NextToken", ""),
            found=True,
        )

    async def _open(self, request: _Request, token: str) -> aiohttp.ClientResponse:
        parameters = [pair for item in {**self._scope, **request.query}.items() for pair in _pairs_of(*item)]
        url = URL(f"{self._address}{request.path}?{urlencode(parameters)}", encoded=True)
        with translating(request.operation):
            return await self._opened().request(
                request.method,
                url,
                json=request.body,
                headers={"X-Nomad-Token": token},
                allow_redirects=False,
            )

    async def _text(self, operation: str, response: aiohttp.ClientResponse) -> str:
        body = bytearray()
        with translating(operation):
            async for piece in response.content.iter_chunked(_CHUNK):
                body += piece
                if len(body) > LARGEST_ANSWER:
                    raise UpstreamNonsense(SYSTEM, operation, "the answer is too large")
            return body.decode()

    async def _current_token(self, operation: str) -> str:
        token = await self._token.get()
        if not token:
            raise UpstreamDenied(SYSTEM, operation, "the token file cannot be read or is empty")
        return token

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=self._trust),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                read_bufsize=_LARGEST_EVENT,
                json_serialize_bytes=orjson.dumps,
                trust_env=False,
            )
        return self._session


class translating:  # noqa: N801 - reads as a statement: `with translating("register"):`
    """Turn what aiohttp raises into our errors. Nothing of it goes along, since its messages quote answers."""

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: object
    ) -> None:
        match error:
            case UpstreamError():
                return
            case aiohttp.ClientSSLError():
                raise UpstreamUnavailable(
                    SYSTEM, self._operation, "its certificate is not accepted"
                ) from None
            case aiohttp.ClientPayloadError():
                raise UpstreamUnavailable(SYSTEM, self._operation, "the answer broke off") from None
            case aiohttp.ClientConnectionError() | aiohttp.ServerTimeoutError():
                raise UpstreamUnavailable(SYSTEM, self._operation, "the connection failed") from None
            case aiohttp.ClientError() | ValueError():
                raise UpstreamNonsense(SYSTEM, self._operation, "the answer cannot be read") from None
            case OSError() if not isinstance(error, TimeoutError):
                raise UpstreamUnavailable(SYSTEM, self._operation, "the connection failed") from None
            case _:
                return


def _json_of(operation: str, response: aiohttp.ClientResponse, text: str) -> Any:
    if not text.strip():
        return None
    if response.content_type != "application/json":
        raise UpstreamNonsense(SYSTEM, operation, "the answer is not JSON")
    try:
        return orjson.loads(text)
    except (ValueError, RecursionError):
        raise UpstreamNonsense(SYSTEM, operation, "the answer is not JSON") from None


def _index_of(response: aiohttp.ClientResponse) -> int:
    text = response.headers.get("X-Nomad-Index", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _pairs_of(name: str, value: str | int | bool | tuple[str, ...]) -> list[tuple[str, str]]:  # noqa: FBT001 - a value
    if isinstance(value, tuple):
        return [(name, each) for each in value]
    return [(name, str(value).lower() if isinstance(value, bool) else str(value))]
