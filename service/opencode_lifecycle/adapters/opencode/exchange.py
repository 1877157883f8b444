"""Short conversations with a program that may be anything: bounded, and over connections of their own."""

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import aiohttp
from yarl import URL

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.stack import Address

LARGEST_ANSWER: Final = 4 * 1024 * 1024
_CHUNK: Final = 65536

Query = dict[str, str]
Credentials = tuple[str, Password]
"""A username and its password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    What came back. The body is empty unless it is JSON of at most `LARGEST_ANSWER` bytes.

    Whatever is quoted of it may end up in a log: the other side knows the password and could send it back.
    """

    status: int
    is_json: bool
    asks_for_basic: bool
    body: bytes


class Silence(Enum):
    """Why there is no answer, in words for people."""

    NOTHING_LISTENS = "nothing listens there"
    TOO_SLOW = "it did not answer in time"
    BROKEN_OFF = "it took the connection and closed it without an answer"
    NOT_HTTP = "it does not speak HTTP"
    TOO_LARGE = "its answer is too large"


class Exchange:
    """Requests to one address. Build it with `exchange_with`."""

    def __init__(self, session: aiohttp.ClientSession, address: Address, deadline: Deadline) -> None:
        self._session = session
        self._address = address
        self._deadline = deadline

    async def get(
        self, path: str, *, query: Query | None = None, credentials: Credentials | None = None
    ) -> Answer | Silence:
        return await self.send("GET", path, query=query, credentials=credentials)

    async def post(
        self,
        path: str,
        *,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        credentials: Credentials,
    ) -> Answer | Silence:
        return await self.send("POST", path, query=query, body=body, credentials=credentials)

    async def delete(
        self, path: str, *, query: Query | None = None, credentials: Credentials
    ) -> Answer | Silence:
        return await self.send("DELETE", path, query=query, credentials=credentials)

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        credentials: Credentials | None = None,
    ) -> Answer | Silence:
        """Ask for *path*; no answer is a result, never an exception."""
        left = self._deadline.left()
        if left <= 0:
            return Silence.TOO_SLOW
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if credentials is not None:
            headers["Authorization"] = _basic(*credentials)
        try:
            async with self._session.request(
                method,
                URL(self._address.url).with_path(path).with_query(query or {}),
                json=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=left),
            ) as response:
                return await _read(response)
        except aiohttp.ClientConnectorError:
            return Silence.NOTHING_LISTENS
        except TimeoutError:
            # Also while connecting: a server that has stopped taking connections still holds its port.
            return Silence.TOO_SLOW
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, OSError):
            return Silence.BROKEN_OFF
        except (aiohttp.ClientError, ValueError):
            return Silence.NOT_HTTP

    @asynccontextmanager
    async def stream(
        self, path: str, *, credentials: Credentials, silence_seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """
        GET *path*, whose answer goes on until the other side ends it, or says nothing for *silence_seconds*.

        It must begin within the deadline, else `DeadlineExceeded`; other than that it raises what aiohttp does.
        """
        async with AsyncExitStack() as stack:
            async with self._deadline.enforce():
                response = await stack.enter_async_context(
                    self._session.get(
                        URL(self._address.url).with_path(path),
                        headers={
                            "Accept": "text/event-stream",
                            "Accept-Encoding": "identity",
                            "Authorization": _basic(*credentials),
                        },
                        allow_redirects=False,
                        timeout=aiohttp.ClientTimeout(total=None, sock_read=silence_seconds),
                    )
                )
            yield response


@asynccontextmanager
async def exchange_with(address: Address, deadline: Deadline) -> AsyncIterator[Exchange]:
    """
    Open a conversation that ends with the body of the `async with`.

    Its connection is used by nobody else and not kept: the next look at this port may find another user's runtime
    there. Within one look it is kept, so that credentials go to the program that has just refused us.
    """
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    ) as session:
        yield Exchange(session, address, deadline)


async def _read(response: aiohttp.ClientResponse) -> Answer | Silence:
    body = bytearray()
    is_json = response.content_type == "application/json"
    if is_json:
        async for piece in response.content.iter_chunked(_CHUNK):
            body += piece
            if len(body) > LARGEST_ANSWER:
                return Silence.TOO_LARGE
    challenge = response.headers.get("WWW-Authenticate", "")
    return Answer(
        status=response.status,
        is_json=is_json,
        asks_for_basic=challenge.lower().startswith("basic "),
        body=bytes(body),
    )


def _basic(username: str, password: Password) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password.reveal()}".encode()).decode()
