"""Reading the ids in paths that are not user ids: a prefix and a ULID, spelled exactly as they were given out."""

import re
from typing import Final

from aiohttp import web

from opencode_lifecycle.model.errors import InvalidRequest
from opencode_lifecycle.model.identifiers import (
    GROUP_PATTERN,
    ConditionId,
    OperationId,
    OrphanId,
    ReleaseId,
    RolloutId,
    TokenId,
)

ULID_PATTERN: Final = r"[0-7][0-9A-HJKMNP-TV-Z]{25}"
ORPHAN_ID_PATTERN: Final = r"orp_[0-9a-f]{24}"
_ORPHAN: Final = re.compile(rf"{ORPHAN_ID_PATTERN}\Z", re.ASCII)
_RELEASE: Final = re.compile(r"rel_[A-Za-z0-9]{16,26}\Z", re.ASCII)
_GROUP: Final = re.compile(GROUP_PATTERN.removesuffix("$") + r"\Z", re.ASCII)
_SEGMENT: Final = re.compile(rf"([a-z]+)_{ULID_PATTERN}\Z", re.ASCII)


def operation_id_of(request: web.Request) -> OperationId:
    return OperationId(_last_segment(request, "op"))


def token_id_of(request: web.Request) -> TokenId:
    return TokenId(_last_segment(request, "tok"))


def release_id_of(request: web.Request) -> ReleaseId:
    """Read the id of `/v1/releases/{id}`, with or without a verb behind it."""
    return release_id_in(request.rel_url.raw_path.split("/")[3])


def release_id_in(text: str) -> ReleaseId:
    if _RELEASE.match(text) is None:
        raise InvalidRequest("An id here is rel_ and what a release was given.")
    return ReleaseId(text)


def group_of(request: web.Request) -> str:
    """Read the name of `/v1/groups/{name}`."""
    segment = request.rel_url.raw_path.rpartition("/")[2]
    if _GROUP.match(segment) is None:
        raise InvalidRequest("The name of a group is 1 to 63 of a-z, 0-9 and inner hyphens.")
    return segment


def condition_id_of(request: web.Request) -> ConditionId:
    """Read the id of `/v1/conditions/{id}/confirm`."""
    segment = request.rel_url.raw_path.split("/")[-2]
    if not is_condition_id(segment):
        raise InvalidRequest("An id here is cond_ and a ULID.")
    return ConditionId(segment)


def orphan_id_of(request: web.Request) -> OrphanId:
    """Read the id of `/v1/orphans/{id}/adopt` and `/delete`."""
    segment = request.rel_url.raw_path.split("/")[-2]
    if not is_orphan_id(segment):
        raise InvalidRequest("An id here is orp_ and 24 hexadecimal digits.")
    return OrphanId(segment)


def rollout_id_of(request: web.Request) -> RolloutId:
    """Read the id of `/v1/rollouts/{id}`, with or without a verb behind it."""
    segment = request.rel_url.raw_path.split("/")[3]
    if not is_rollout_id(segment):
        raise InvalidRequest("An id here is ro_ and a ULID.")
    return RolloutId(segment)


def is_rollout_id(text: str) -> bool:
    match = _SEGMENT.match(text)
    return match is not None and match[1] == "ro"


def is_condition_id(text: str) -> bool:
    match = _SEGMENT.match(text)
    return match is not None and match[1] == "cond"


def is_orphan_id(text: str) -> bool:
    return _ORPHAN.match(text) is not None


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
