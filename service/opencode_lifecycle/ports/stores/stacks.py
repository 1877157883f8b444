"""Stacks: what is asked of them, who is at work on each, and what came of it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import (
    ReleaseId,
    UserId,
)
from opencode_lifecycle.model.operation import Event, Operation, OperationState, PhaseEntered
from opencode_lifecycle.model.stack import KeptWorkspace, Stack, Status
from opencode_lifecycle.model.staleness import StalenessSummary
from opencode_lifecycle.model.states import Health, MigrationState, Phase, Reason
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.rollouts import ClaimedRollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a decision about one user may look at, read in the transaction that will write it."""

    stack: Stack | None
    last_operation: Operation | None
    kept_workspace: KeptWorkspace | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    What a request changes. With *stack* None the stack stays as it is.

    A stack that was not there is inserted whole. Of one that was, only the intent is written; the status stays with
    whoever holds the claim. *operation* is inserted, and with *supersede* every other unfinished operation of the stack
    becomes superseded. *wake* makes the stack due at once and forgets its failed tries.
    """

    stack: Stack | None = None
    operation: Operation | None = None
    supersede: bool = True
    events: Sequence[Event] = ()
    wake: bool = False
    forget_kept_workspace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A stack, and the token under which alone its status may be saved until the claim lapses."""

    stack: Stack
    token: str
    lapses_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationOutcome:
    state: OperationState
    reason: Reason | None = None
    message: str = ""
    receipt: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """
    When a stack is taken up next without being woken, None for never, and until when whoever is at it holds it.

    One that was woken is due since before every clock.
    """

    at: datetime | None
    claimed_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """
    What a worker found out and did.

    *next_attempt_at* is when the stack is due again without being woken; None leaves that to hints alone. When a newer
    generation was accepted meanwhile the stack is due at once, whatever is said here. *entered* is appended to the
    phases of the stack's last operation while that is unfinished, *outcome* finishes it unless it was asked for after
    the stack was claimed. The claim ends with the save unless *keep_claim*.

    *unless_busy_at* is for what would interrupt a runtime: nothing is saved when a lease holds at that moment.
    """

    status: Status
    next_attempt_at: datetime | None
    events: Sequence[Event] = ()
    entered: PhaseEntered | None = None
    outcome: OperationOutcome | None = None
    keep_claim: bool = False
    unless_busy_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackQuery:
    """Filters are joined by and; None means any. Pages are keyset pages in the order of user ids."""

    phase: Phase | None = None
    health: Health | None = None
    migration_state: MigrationState | None = None
    release: ReleaseId | None = None
    reason: Reason | None = None
    stale: bool | Facet | None = None
    """Whether it is stale, or in which facet."""
    group: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    limit: int = 50
    after: UserId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackChange:
    """One change in the sequence of all changes. `stack` is None when the stack was removed."""

    seq: int
    user_id: UserId
    stack: Stack | None


class StackStore(Protocol):
    async def get(self, user_id: UserId) -> Stack | None: ...

    async def find(self, query: StackQuery) -> Page[Stack]:
        """Return one page; `next_cursor` is the last user id of it, to be given back as `after`."""
        ...

    async def decide(
        self,
        user_id: UserId,
        decision: Callable[[Situation], Decision],
        *,
        under: ClaimedRollout | None = None,
    ) -> tuple[Situation, Decision]:
        """
        Read the situation, call *decision* (pure, possibly more than once) and write what it says, in one transaction.

        What *decision* raises is passed on and nothing is written. Returned are the situation and the decision as
        written, with the stack's new `change_seq`.

        What is decided for a rollout is so *under* the claim on it: where that is another's by then, or somebody has
        changed the rollout, it raises `ClaimLost`. So a driver that was overtaken or overruled without knowing it does
        nothing more.
        """
        ...

    async def due(self, user_id: UserId) -> Due | None:
        """Return when the turn of the stack is, or None where there is no such stack."""
        ...

    async def claim(
        self, *, limit: int, now: datetime, lapses_at: datetime, hinted: Collection[UserId] = ()
    ) -> Sequence[Claimed]:
        """
        Take exclusive charge of up to *limit* stacks: those *hinted* first, whether due or not, then those that are due
        at *now*, most neglected first. Stacks under a claim that has not lapsed at *now* are left out.
        """
        ...

    async def save(self, claimed: Claimed, progress: Progress) -> Stack:
        """
        Save under the claim, or write nothing and raise `ClaimLost`, or `Busy` where a lease is in the way.

        Returns the stack as it is now. After `Busy` the claim is held as before.
        """
        ...

    async def release_claim(self, claimed: Claimed, *, next_attempt_at: datetime | None) -> None:
        """End the claim and change nothing else. A claim that is lost already is no error."""
        ...

    async def renew_claim(self, claimed: Claimed, *, lapses_at: datetime) -> Claimed:
        """Hold on to the claim until *lapses_at*, or raise `ClaimLost` when somebody else has taken it."""
        ...

    async def void_claims(self) -> None:
        """End every claim there is: for a process that knows itself to be the only one, when it starts."""
        ...

    async def finish_deletion(
        self,
        claimed: Claimed,
        *,
        outcome: OperationOutcome,
        events: Sequence[Event],
        kept: KeptWorkspace | None,
        successor: Stack | None,
    ) -> None:
        """
        End a deletion: record *kept*, or forget the snapshots in a workspace that is not kept, and replace the row by
        *successor* or remove it.

        The outcome finishes the unfinished operations of kind delete. The successor's own goes on; any other that is
        unfinished becomes superseded.

        Raises `ClaimLost` when the claim is gone or a newer generation than the claimed one was accepted.
        """
        ...

    async def kept_workspaces(self) -> Sequence[KeptWorkspace]: ...

    async def staleness_summary(self) -> StalenessSummary:
        """Count the fleet by the facets in which stacks were stale when they were saved, by one set-based query."""
        ...

    async def deleted_at(self, user_id: UserId) -> datetime | None:
        """Return when the last stack of the user was deleted, or None when that is not known."""
        ...

    async def removed_users(self) -> Collection[UserId]:
        """Return every user of whom it is known when their last stack was deleted."""
        ...

    async def changes_since(self, seq: int, *, limit: int) -> Sequence[StackChange]:
        """Return changes after *seq* in order, only the latest of each stack."""
        ...

    async def latest_change(self) -> int: ...


class LeaseStore(Protocol):
    async def extend_lease(self, user_id: UserId, until: datetime) -> Stack:
        """
        Have the row say that a backend is at work until *until*, and return the stack as it is then. Never shortens.

        A renewal is a change in the sequence of changes and nothing else: no generation, no operation, no event. Raises
        `StackNotFound`, and `StackDraining` once a stop is committed; `model.lease` tells how the two races end.
        """
        ...
