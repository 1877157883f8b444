"""Work leases."""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from opencode_lifecycle.api.schemas.shapes import Incoming, Outgoing

SHORTEST_LEASE_SECONDS: Final = 1
LONGEST_LEASE_SECONDS: Final = 600
"""Longer than a backend is away for its own restart, and short enough for one that died at work to be in nobody's way."""

_DURATION: Final = re.compile(r"([0-9]{1,5})(s|m)\Z", re.ASCII)


def _seconds_of(text: str) -> int:
    match = _DURATION.match(text)
    return int(match[1]) * (60 if match[2] == "m" else 1) if match is not None else -1


def _lease(text: str) -> str:
    if not SHORTEST_LEASE_SECONDS <= _seconds_of(text) <= LONGEST_LEASE_SECONDS:
        raise PydanticCustomError("duration", "must be a duration from 1s to 10m, such as 60s or 2m")
    return text


_SCHEMA: Final[dict[str, Any]] = {"pattern": "^[0-9]+(s|m)$"}


class LeaseBody(Incoming):
    """How long the caller is at work, from now on."""

    ttl: Annotated[str, AfterValidator(_lease), Field(examples=["60s"], json_schema_extra=_SCHEMA)]

    def to_domain(self) -> timedelta:
        return timedelta(seconds=_seconds_of(self.ttl))


class LeaseShape(Outgoing):
    busy_until: datetime
