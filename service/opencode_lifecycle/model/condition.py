"""
Standing conditions: what is wrong with the whole, not with one stack. Operators see them and, where that is asked of
them, confirm them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from opencode_lifecycle.model.identifiers import ConditionId
from opencode_lifecycle.model.transitions import check_transition


class ConditionKind(StrEnum):
    MASS_DISAPPEARANCE = "mass_disappearance"
    """A large share of the stacks that should be there is not in Nomad's listing."""
    OTHER_CLUSTER = "other_cluster"
    """Nomad does not bear the mark that this installation left in it: it is another cluster, or was set up anew."""
    OLDER_SNAPSHOT = "older_snapshot"
    """Nomad went back in time: it was restored from a snapshot that is older than what we wrote to it."""
    MASS_SILENCE = "mass_silence"
    """A large share of all runtimes answers no probe: more likely our own network than they."""
    SECRETS_MISSING = "secrets_missing"
    """A large share of the secrets is not in Vault: it is another Vault, or one that was set up anew."""


class ConditionStatus(StrEnum):
    STANDING = "standing"
    """Nobody has said that what is seen is true: what rests on it is held back."""
    CONFIRMED = "confirmed"
    """An operator has, and it is acted on; what is seen is so still."""
    CLEARED = "cleared"
    """What was seen is not so any more."""


CONDITION_MOVES: Final[Mapping[ConditionStatus, frozenset[ConditionStatus]]] = {
    ConditionStatus.STANDING: frozenset({ConditionStatus.CONFIRMED, ConditionStatus.CLEARED}),
    ConditionStatus.CONFIRMED: frozenset({ConditionStatus.STANDING, ConditionStatus.CLEARED}),
    ConditionStatus.CLEARED: frozenset(),
}
"""
From each status of a condition, where it may go. Staying is always legal. One that grew far beyond what was confirmed stands
again; what is seen again after it was cleared is another condition.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """
    One condition from *since* until *cleared_at*, None while it stands.

    While one stands unconfirmed, nothing is concluded from absence: what a listing lacks is neither recreated nor
    destroyed. Confirming it says: what Nomad shows is the truth.
    """

    id: ConditionId
    kind: ConditionKind
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    since: datetime
    confirmed_at: datetime | None = None
    confirmed_by: str | None = None
    confirmed_extent: int | None = None
    """How many stacks it was about when it was confirmed. What grows far beyond that is not confirmed any more."""
    cleared_at: datetime | None = None
    reported_by: str | None = None
    """The replica that answers for it and clears it; None where anyone may."""
    reported_until: datetime | None = None
    """Until when that replica has answered for it. Not renewed, it is anyone's to clear."""

    @property
    def freezes(self) -> bool:
        """Whether destructive work is frozen by it now."""
        return self.cleared_at is None and self.confirmed_at is None

    @property
    def status(self) -> ConditionStatus:
        if self.cleared_at is not None:
            return ConditionStatus.CLEARED
        return ConditionStatus.STANDING if self.confirmed_at is None else ConditionStatus.CONFIRMED

    def changed(self, **values: Any) -> Self:
        """Return it with *values*, or raise `IllegalTransition`: the one way in which a condition changes."""
        after = replace(self, **values)
        check_transition(self.id, "status", CONDITION_MOVES, self.status, after.status)
        return after
