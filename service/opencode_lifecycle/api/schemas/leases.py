"""Work leases."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from opencode_lifecycle.api.parameters import duration
from opencode_lifecycle.api.schemas.shapes import Incoming, Outgoing

SHORTEST_LEASE_SECONDS: Final = 1
LONGEST_LEASE_SECONDS: Final = 600
"""Longer than a backend is away for its own restart, and short enough for one that died at work to be in nobody's way."""

_seconds_of: Final = duration(SHORTEST_LEASE_SECONDS, LONGEST_LEASE_SECONDS)


def _lease(text: str) -> str:
    try:
        _seconds_of(text)
    except ValueError as error:
        raise PydanticCustomError("duration", "must be {expected}", {"expected": str(error)}) from None
    return text


_SCHEMA: Final[dict[str, Any]] = {"pattern": "^[0-9]+(s|m)$"}


class LeaseBody(Incoming):
    """How long the caller is at work, from now on."""

    ttl: Annotated[str, AfterValidator(_lease), Field(examples=["60s"], json_schema_extra=_SCHEMA)]

    def to_domain(self) -> timedelta:
        return timedelta(seconds=_seconds_of(self.ttl))


class LeaseShape(Outgoing):
    busy_until: datetime
