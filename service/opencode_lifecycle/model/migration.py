"""
Migrations: moving one stack from what runs to what it should be.

By whose order that is done, how far a running agent is waited for, and what the stack goes back to when it fails.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.states import Reason


class MigrationClass(StrEnum):
    """How much a migration disturbs, the lightest first. The lightest that suffices is used."""

    LIVE = "live"
    """Instruction files: in effect at the next turn of the same process."""
    RELOAD = "reload"
    """Managed configuration and prompts of agents: the same process reads them anew when it is idle."""
    RESTART = "restart"
    """Everything else: stopped at idle, and started as it should be."""


class AtDeadline(StrEnum):
    """What becomes of a runtime that is at work still when its migration is due to have ended."""

    SKIP = "skip"
    """It is left as it is, and the rollout goes on without it."""
    HOLD = "hold"
    """It is left as it is until an operator says otherwise."""
    FORCE = "force"
    """Its running turns are aborted, so that its history stays true, and it is moved."""


class DataPolicy(StrEnum):
    """What becomes of what a user has written since the snapshot with which an older version would go back."""

    KEEP = "keep"
    """It is kept: where there is any, the stack stays on the newer version."""
    RESTORE = "restore"
    """It is set aside as a snapshot, and the older version gets the data that it had."""


class OrderOutcome(StrEnum):
    """What came of an order."""

    DONE = "done"
    SKIPPED = "skipped"
    HELD = "held"
    FAILED = "failed"


class OrderState(StrEnum):
    """How an order stands: it does until it was seen to the end, or is called off."""

    STANDING = "standing"
    DONE = "done"
    """The stack is as it was ordered to be."""
    SKIPPED = "skipped"
    """It was left as it was, since its agent was at work until the deadline."""
    HELD = "held"
    """The same, and it waits for an operator; or its node is drained, and it becomes what it was to be at its next start."""
    FAILED = "failed"
    """It could not be moved, and runs what it ran before if anything."""


ORDER_MOVES: Final[Mapping[OrderState, frozenset[OrderState]]] = {
    OrderState.STANDING: frozenset(set(OrderState) - {OrderState.STANDING}),
    OrderState.DONE: frozenset(),
    OrderState.SKIPPED: frozenset(),
    OrderState.HELD: frozenset(),
    OrderState.FAILED: frozenset(),
}
"""
From each state of an order, where it may go. What came of one is final: whoever gave it reads it, and may give another.

One that is called off, by a pause of its rollout or by somebody who asks for another thing, leaves the row of its stack.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationOrder:
    """
    That a stack is to be migrated, by the rollout or operation *id*. It stands until `Status.order_done` names it.

    *deadline* is until when an agent at work is waited for, None for ever. *rotate* asks for a new password as well,
    whose version is made before anything is stopped; *fresh* for a new allocation also where nothing else needs one. With
    *restore*, the version gets the data that it had, and what was written since is set aside.
    """

    id: str
    deadline: datetime | None = None
    at_deadline: AtDeadline = AtDeadline.SKIP
    rotate: bool = False
    fresh: bool = False
    restore: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why what was asked for was tried and taken back, or is left alone."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Footing:
    """
    What a job was built of: all that is needed to build the same one again. No secret.

    *restore* is the snapshot of its data that its start was to bring back, empty for none. *used* is whether its address
    was ever handed out: what its data holds since then is its user's. *moved_data* is whether a start may have taken a
    snapshot, or had one restored, of which nobody has read yet. Of one that was found, and is not as it is wanted, only the
    facets are certain.
    """

    release: ReleaseId
    resources: str
    environment: Mapping[str, str]
    facets: Facets
    restore: str = ""
    used: bool = False
    moved_data: bool = False

    def is_as(self, other: "Footing") -> bool:
        """Whether both are of the same things, whatever became of the data of either."""
        return (self.release, self.resources, self.facets, self.environment) == (
            other.release,
            other.resources,
            other.facets,
            other.environment,
        )

    def after(self, before: "Footing | None") -> "Footing":
        """
        Return this, whose job takes the place of the one that was built of *before*, on the same data.

        1. A new version is handed out, and its user works with it. Its job is stopped outside and registered again.
        2. It does not get healthy any more, and is taken back. What it has written is its user's still.

        The very same job names the snapshot that it named.
        """
        is_restored = bool(self.restore) and (before is None or self.restore != before.restore)
        if before is None:
            return replace(self, moved_data=self.moved_data or is_restored)
        if before.facets.opencode_version != self.facets.opencode_version:
            return replace(self, moved_data=True)
        is_same = before.facets.revision == self.facets.revision
        restore = before.restore if is_same and not self.restore else self.restore
        moved_data = self.moved_data or before.moved_data or is_restored
        return replace(self, used=self.used or before.used, restore=restore, moved_data=moved_data)
