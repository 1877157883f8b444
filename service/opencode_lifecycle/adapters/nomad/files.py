"""
Files in the directory of an allocation, from the client that has them.

Nomad's call that reads a file answers trouble of any kind with 200 and a sentence in place of the file: a missing one, a
missing allocation, a client that fails in the middle. So it is asked for the size first, which it refuses properly, and
nothing of another size is taken for the file.
"""

from typing import Final

from opencode_lifecycle.adapters.nomad.connection import SYSTEM, NomadConnection, Query, path_of, translating
from opencode_lifecycle.adapters.nomad.reading import mapping, number
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamNonsense, UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import AllocationId

OPERATION: Final = "read file"
_CHUNK: Final = 65536


async def read_file(
    connection: NomadConnection, allocation_id: AllocationId, path: str, *, limit: int, deadline: Deadline
) -> bytes | None:
    """Return what the file holds now, or None when there is provably none."""
    size = await _size_of(connection, allocation_id, path, deadline)
    if size is None:
        return None
    if size > limit:
        raise UpstreamNonsense(SYSTEM, OPERATION, "the file is too large")
    query: Query = {"path": path, "offset": 0, "limit": size + 1}
    address = path_of("client", "fs", "readat", allocation_id)
    body = bytearray()
    async with (
        connection.stream(OPERATION, address, query, deadline=deadline) as response,
        deadline.enforce(),
    ):
        with translating(OPERATION):
            async for piece in response.content.iter_chunked(_CHUNK):
                body += piece
                if len(body) > size:
                    break
    if len(body) != size:
        raise UpstreamUnavailable(SYSTEM, OPERATION, "the file changed, or what came is not the file")
    return bytes(body)


async def _size_of(
    connection: NomadConnection, allocation_id: AllocationId, path: str, deadline: Deadline
) -> int | None:
    address = path_of("client", "fs", "stat", allocation_id)
    answer = await connection.get(OPERATION, address, {"path": path}, deadline=deadline)
    if not answer.found:
        return None
    status = mapping(OPERATION, answer.body)
    if status.get("IsDir") is not False:
        raise UpstreamRejected(SYSTEM, OPERATION, "it is no file")
    return number(OPERATION, status, "Size")
