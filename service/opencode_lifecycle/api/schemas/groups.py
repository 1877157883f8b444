"""Groups: what is otherwise for one than for the fleet."""

from datetime import datetime, timedelta
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from opencode_lifecycle.api.schemas.releases import RELEASE_ID_PATTERN
from opencode_lifecycle.api.schemas.rollout_specification import DurationText, duration_text, read_duration
from opencode_lifecycle.api.schemas.shapes import Incoming, Outgoing, no_default
from opencode_lifecycle.model.group import Group, GroupWish
from opencode_lifecycle.model.identifiers import ReleaseId

SHORTEST_IDLE: Final = timedelta(minutes=1)
LONGEST_IDLE: Final = timedelta(days=365)


def _within(text: str) -> str:
    if not SHORTEST_IDLE <= read_duration(text) <= LONGEST_IDLE:
        raise PydanticCustomError("span", "must be from 1m to 8760h")
    return text


class GroupBody(Incoming):
    """A field that is absent stays as it is; null takes it away."""

    pin: Annotated[
        Annotated[str, Field(pattern=RELEASE_ID_PATTERN)] | None, Field(json_schema_extra=no_default)
    ] = None
    idle_stop_after: Annotated[
        Annotated[DurationText, AfterValidator(_within)] | None, Field(json_schema_extra=no_default)
    ] = None

    def to_domain(self) -> GroupWish:
        span = self.idle_stop_after
        return GroupWish(
            names=frozenset(self.model_fields_set),
            pin=ReleaseId(self.pin) if self.pin is not None else None,
            idle_stop_after=read_duration(span) if span is not None else None,
        )


class GroupShape(Outgoing):
    """`changed_at` is null for a group of which nothing was ever said."""

    group: str
    pin: str | None
    idle_stop_after: str | None
    changed_at: datetime | None
    changed_by: str | None

    @classmethod
    def from_domain(cls, group: Group) -> Self:
        span = group.idle_stop_after
        return cls(
            group=group.name,
            pin=group.pin,
            idle_stop_after=duration_text(span) if span is not None else None,
            changed_at=group.changed_at,
            changed_by=group.changed_by or None,
        )
