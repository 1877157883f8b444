"""py-consul's calls over a transport of our own: bounded, without redirects, the token in a header only."""

import ssl
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
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
        url = URL(self.uri(path, params), encoded=True)
        return callback(await self.exchange("GET", url, headers))

    async def exchange(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str] | None,
        *,
        body: Any = None,
        largest: int = LARGEST_ANSWER,
        whole: bool = True,
    ) -> base.Response:
        """Make one request; unless *whole*, what our token may not see may be missing in the answer."""
        async with self._open().request(
            method, url, headers=headers, json=body, allow_redirects=False
        ) as answer:
            if answer.status != HTTPStatus.OK:
                raise Refused(answer.status)
            if whole and answer.headers.get(_FILTERED) == "true":
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
        self,
        path: str,
        *,
        token: str,
        params: Mapping[str, str] | None = None,
        largest: int = LARGEST_ANSWER,
        whole: bool = True,
    ) -> tuple[int, Any]:
        """
        Make a read that py-consul has no call for, or none with a bound, and return index and JSON of the answer.

        *path* is quoted already. See `_Transport.exchange` for *whole*.
        """
        url = self._url(path).with_query(params or {})
        answer = await self._transport.exchange("GET", url, _with(token), largest=largest, whole=whole)
        return int(answer.headers.get("X-Consul-Index", "0")), orjson.loads(answer.body)

    async def write(self, path: str, body: Any, *, token: str) -> None:
        """Make a write that py-consul has no call for. Consul says nothing of one that was done, or `true`."""
        answer = await self._transport.exchange("PUT", self._url(path), _with(token), body=body)
        if answer.body.strip() not in {"", "true"}:
            raise ValueError("not an answer to a write")

    async def rights(self, wanted: Sequence[Mapping[str, str]], *, token: str) -> Any:
        """Ask which of the *wanted* rights our token has, as Consul's own web interface does."""
        url = self._url("/v1/internal/acl/authorize")
        answer = await self._transport.exchange("POST", url, _with(token), body=list(wanted))
        return orjson.loads(answer.body)

    def _url(self, path: str) -> URL:
        return URL(self._transport.base_uri + path, encoded=True)

    async def close(self) -> None:
        await self._transport.close()


def _with(token: str) -> Mapping[str, str]:
    return {"X-Consul-Token": token}
