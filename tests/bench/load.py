"""
Keep-alive HTTP load from one process, for machines without wrk: fixed bytes out, answers counted by their length.

    python -m bench.load ADDRESS PATH TOKEN SECONDS CONNECTIONS
"""

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the answer before it is whole."""

    def __init__(self, request: bytes, count: list[int]) -> None:
        self._request = request
        self._count = count
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        fields = head.lower().partition(b"content-length:")[2]
        if len(body) < int(fields.partition(b"\r\n")[0]):
            return
        self._count[0 if head.startswith(b"HTTP/1.1 200") else 1] += 1
        self._received = b""
        assert self._transport is not None
        self._transport.write(self._request)


async def load(address: str, path: str, token: str, seconds: float, connections: int) -> tuple[float, int]:
    """Return answers with 200 per second, and how many others there were."""
    split = urlsplit(address)
    assert split.hostname is not None
    request = (
        f"PUT {path} HTTP/1.1\r\nHost: {split.netloc}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()
    count = [0, 0]
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Connection(request, count), split.hostname, split.port)
        for _ in range(connections)
    ]
    begun = time.perf_counter()
    before = count[0]
    await asyncio.sleep(seconds)
    rate = (count[0] - before) / (time.perf_counter() - begun)
    for transport, _ in made:
        transport.abort()
    return rate, count[1]


if __name__ == "__main__":
    rate, others = asyncio.run(load(*sys.argv[1:4], float(sys.argv[4]), int(sys.argv[5])))
    print(json.dumps({"rate": rate, "others": others}))  # noqa: T201 - how the bench learns of it
