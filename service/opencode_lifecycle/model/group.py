"""A group of stacks, and what is otherwise for it than for the fleet."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from opencode_lifecycle.model.identifiers import ReleaseId


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """
    With a *pin*, its stacks want that release when they begin or start, and not the fleet's target.

    A stack of it that was proven idle for *idle_stop_after* is stopped; None: never.
    """

    name: str
    pin: ReleaseId | None = None
    idle_stop_after: timedelta | None = None
    changed_at: datetime | None = None
    """None for a group of which nothing was ever said: any name is a group's."""
    changed_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWish:
    """What is to be otherwise for a group: of *pin* and *idle_stop_after*, those that it *names*."""

    names: frozenset[str]
    pin: ReleaseId | None = None
    idle_stop_after: timedelta | None = None

    def applied_to(self, group: Group) -> Group:
        return replace(
            group,
            pin=self.pin if "pin" in self.names else group.pin,
            idle_stop_after=self.idle_stop_after
            if "idle_stop_after" in self.names
            else group.idle_stop_after,
        )
