"""What a task wrote, line by line, from Nomad."""

from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import aiohttp

from opencode_lifecycle.adapters.nomad.connection import SYSTEM, NomadConnection, Query, path_of, translating
from opencode_lifecycle.adapters.nomad.reading import TASK
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.identifiers import AllocationId

OPERATION: Final = "read log"
LONGEST_LINE: Final = 16 * 1024
_BYTES_PER_LINE: Final = 1024
"""How far back a tail begins, per line asked for; longer lines mean fewer of them."""
_LARGEST_TAIL: Final = 4 * 1024 * 1024


async def read_log(
    connection: NomadConnection,
    allocation_id: AllocationId,
    *,
    kind: str,
    tail: int,
    follow: bool,
    deadline: Deadline,
) -> AsyncIterator[bytes]:
    """
    Yield the last *tail* lines without their ends, and with *follow* all that come after, until the task's log ends.

    *deadline* bounds the whole reading, or with *follow* only the beginning. A line longer than 16 KiB comes in pieces.
    """
    if kind not in {"stdout", "stderr"}:
        raise UpstreamRejected(SYSTEM, OPERATION, "there is no such log")
    path = path_of("client", "fs", "logs", allocation_id)
    origin: dict[str, str | int] = {
        "task": TASK,
        "type": kind,
        "plain": "true",
        "origin": "end",
        "offset": min(_LARGEST_TAIL, max(tail, 1) * _BYTES_PER_LINE),
    }
    kept: deque[bytes] = deque(maxlen=tail)
    now: Query = {**origin, "follow": False}
    async with connection.stream(OPERATION, path, now, deadline=deadline) as response, deadline.enforce():
        async for line in _lines(response):
            kept.append(line)
    for line in kept:
        yield line
    if not follow:
        return
    later: dict[str, str | int] = {**origin, "offset": 0, "follow": "true"}
    async with connection.stream(OPERATION, path, later, deadline=deadline) as response:
        async for line in _lines(response):
            yield line


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    left = b""
    while True:
        with translating(OPERATION):
            piece = await response.content.readany()
        if not piece:
            break
        *whole, left = (left + piece).split(b"\n")
        for line in whole:
            yield line
        while len(left) > LONGEST_LINE:
            yield left[:LONGEST_LINE]
            left = left[LONGEST_LINE:]
    if left:
        yield left
