"""Reading the ids in paths that are not user ids: a prefix and a ULID, spelled exactly as they were given out."""

import re
from typing import Final

from aiohttp import web

from opencode_lifecycle.model.errors import InvalidRequest
from opencode_lifecycle.model.identifiers import OperationId, TokenId

ULID_PATTERN: Final = r"[0-7][0-9A-HJKMNP-TV-Z]{25}"
_SEGMENT: Final = re.compile(rf"([a-z]+)_{ULID_PATTERN}\Z", re.ASCII)


def operation_id_of(request: web.Request) -> OperationId:
    return OperationId(_last_segment(request, "op"))


def token_id_of(request: web.Request) -> TokenId:
    return TokenId(_last_segment(request, "tok"))


def is_event_id(text: str) -> bool:
    match = _SEGMENT.match(text)
    return match is not None and match[1] == "evt"


def is_token_id(text: str) -> bool:
    match = _SEGMENT.match(text)
    return match is not None and match[1] == "tok"


def _last_segment(request: web.Request, prefix: str) -> str:
    segment = request.rel_url.raw_path.rpartition("/")[2]
    match = _SEGMENT.match(segment)
    if match is None or match[1] != prefix:
        raise InvalidRequest(f"An id here is {prefix}_ and a ULID.")
    return segment
