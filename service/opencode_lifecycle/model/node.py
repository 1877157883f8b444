"""The machines that runtimes run on, as far as they take nothing new at the moment."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

DRAIN_MARGIN: Final = timedelta(minutes=2)
"""How long before the deadline of a drain nobody is waited for any more: what is left then is ended by us, and not cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """A node is being emptied. At *deadline* its orchestrator ends whatever is left on it; None for never."""

    deadline: datetime | None

    @property
    def forced_at(self) -> datetime | None:
        """Return from when on an agent at work is not waited for; None for never."""
        return self.deadline - DRAIN_MARGIN if self.deadline is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedNode:
    """A node on which nothing is placed. What runs there runs on, unless the node is drained as well."""

    id: str
    name: str
    drain: Drain | None
