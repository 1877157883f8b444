"""Files in the directory of an allocation, from the client that has them."""

import re
from typing import Final

from opencode_lifecycle.adapters.nomad.connection import SYSTEM, NomadConnection, Query, path_of, translating
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamNonsense, UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import AllocationId

OPERATION: Final = "read file"
_CHUNK: Final = 65536
_ABSENT: Final = re.compile(
    r'[^<]*(?:no such file or directory|Unknown allocation "[^"]*"|state for allocation \S+ not found on client)'
)
"""In Nomad's words; a missing file comes as 400. Of 404 it makes use for a client that is away as well."""
_UNREACHABLE: Final = re.compile(r"[^<]*(?:No path to node|Unknown node)")


async def read_file(
    connection: NomadConnection, allocation_id: AllocationId, path: str, *, limit: int, deadline: Deadline
) -> bytes | None:
    """
    Return what the file holds now, or None when there is provably none.

    When the client fails in the middle, Nomad ends the answer as if the file ended there: hold it against a digest.
    """
    query: Query = {"path": path, "offset": 0, "limit": limit + 1}
    address = path_of("client", "fs", "readat", allocation_id)
    body = bytearray()
    try:
        async with (
            connection.stream(OPERATION, address, query, deadline=deadline) as response,
            deadline.enforce(),
        ):
            with translating(OPERATION):
                async for piece in response.content.iter_chunked(_CHUNK):
                    body += piece
                    if len(body) > limit:
                        raise UpstreamNonsense(SYSTEM, OPERATION, "the file is too large")
    except UpstreamRejected as error:
        if _ABSENT.fullmatch(error.detail):
            return None
        if _UNREACHABLE.match(error.detail):
            raise UpstreamUnavailable(
                SYSTEM, OPERATION, "the client of the allocation cannot be reached"
            ) from None
        raise
    return bytes(body)
