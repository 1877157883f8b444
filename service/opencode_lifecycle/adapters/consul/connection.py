"""py-consul's calls over a transport of our own: bounded, without redirects, the token in a header only."""

import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
from consul import base
from yarl import URL

LARGEST_ANSWER: Final = 4 * 1024 * 1024
"""Bytes of one answer: thousands of instances, and there is one per stack."""
_CHUNK: Final = 65536
_CONNECTIONS: Final = 32
_FILTERED: Final = "X-Consul-Results-Filtered-By-ACLs"


class Refused(Exception):
    """Consul answered with something else than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class AnswerTooLarge(Exception):
    """The server sent more than we read."""


class ResultsWithheld(Exception):
    """Consul left out what our token may not see: the list it gave is not the whole one."""


class _Transport(base.HTTPClient):  # type: ignore[misc]  # py-consul comes without types
    """
    What py-consul sends its reads through.

    Its own transport for asyncio uses arguments that aiohttp is about to drop, follows redirects and reads answers of
    any length.
    """

    def __init__(self, *, url: URL, ca_file: Path | None) -> None:
        super().__init__(url.host, url.port, url.scheme)
        self.base_uri = str(url.origin())
        self._trust = ssl.create_default_context(cafile=ca_file) if url.scheme == "https" else True
        self._session: aiohttp.ClientSession | None = None

    async def get(
        self,
        callback: Callable[[base.Response], Any],
        path: str,
        params: Sequence[tuple[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        **_: Any,
    ) -> Any:
        """Make one request. There is no timeout here: the deadline of the call is around it."""
        return callback(await self._exchange("GET", path, params, headers, LARGEST_ANSWER, withholds=False))

    async def read(
        self, path: str, params: Sequence[tuple[str, Any]], headers: Mapping[str, str], *, largest: int
    ) -> tuple[int, Any]:
        """
        Return the index and the JSON of an answer of up to *largest* bytes.

        That other services are withheld from our token is as it should be: only those of ours are asked for.
        """
        answer = await self._exchange("GET", path, params, headers, largest, withholds=True)
        index = answer.headers.get("X-Consul-Index", "0")
        return int(index) if index.isdigit() else 0, json.loads(answer.body)

    async def write(self, path: str, body: Any, headers: Mapping[str, str]) -> None:
        """Send *body*; the answer says nothing but that it was done."""
        await self._exchange("PUT", path, (), headers, LARGEST_ANSWER, withholds=True, body=body)

    async def _exchange(
        self,
        method: str,
        path: str,
        params: Sequence[tuple[str, Any]] | None,
        headers: Mapping[str, str] | None,
        largest: int,
        *,
        withholds: bool,
        body: Any = None,
    ) -> base.Response:
        session = self._open()
        url = URL(self.uri(path, params), encoded=True)
        async with session.request(method, url, headers=headers, json=body, allow_redirects=False) as answer:
            if answer.status != HTTPStatus.OK:
                raise Refused(answer.status)
            if not withholds and answer.headers.get(_FILTERED) == "true":
                raise ResultsWithheld
            content = bytearray()
            async for piece in answer.content.iter_chunked(_CHUNK):
                content += piece
                if len(content) > largest:
                    raise AnswerTooLarge
            return base.Response(answer.status, answer.headers, content.decode("utf-8"))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=self._trust),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                trust_env=False,
            )
        return self._session

    async def put(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("the catalogue is only read")

    post = put
    delete = put

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class ConsulConnection(base.Consul):  # type: ignore[misc]  # py-consul comes without types
    """
    py-consul's client. Host, port, scheme and verification are given in full, or it would look into the environment;
    for the same reason every call is given its token.
    """

    def __init__(self, *, address: str, ca_file: Path | None) -> None:
        url = URL(address)
        self._transport = _Transport(url=url, ca_file=ca_file)
        super().__init__(host=url.host, port=url.port, scheme=url.scheme, verify=True)

    def http_connect(self, *_: Any, **__: Any) -> _Transport:
        return self._transport

    async def read(
        self, path: str, *, token: str, largest: int, params: Sequence[tuple[str, Any]] = ()
    ) -> tuple[int, Any]:
        """Make a read that py-consul has no call for; see `_Transport.read`."""
        return await self._transport.read(path, params, {"X-Consul-Token": token}, largest=largest)

    async def write(self, path: str, body: Any, *, token: str) -> None:
        """Make a write that py-consul has no call for."""
        await self._transport.write(path, body, {"X-Consul-Token": token})

    async def close(self) -> None:
        await self._transport.close()
