"""
What is remembered, and how work on it is claimed. SQLite or PostgreSQL in production.

Every write is one transaction. A write that returned survives a power cut. No call of another system is ever awaited
inside a transaction.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from opencode_lifecycle.model.condition import Condition
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.group import Group
from opencode_lifecycle.model.identifiers import (
    ConditionId,
    OperationId,
    OrphanId,
    ReleaseId,
    TokenId,
    UserId,
)
from opencode_lifecycle.model.operation import Event, Operation, OperationState, PhaseEntered
from opencode_lifecycle.model.orphan import Orphan
from opencode_lifecycle.model.principal import ServiceToken
from opencode_lifecycle.model.release import Release, ReleaseInUse
from opencode_lifecycle.model.snapshot import Snapshot, SnapshotsSeen
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


class SnapshotStore(Protocol):
    async def put_snapshots(
        self, user_id: UserId, found: Sequence[Snapshot], *, observed_at: datetime
    ) -> None:
        """
        Remember *found*, with different ids, in place of what is known; not where that was seen later.

        They are forgotten with the workspace. Of a stack that is gone nothing is remembered.
        """
        ...

    async def snapshots_of(self, user_id: UserId) -> SnapshotsSeen:
        """Return what is remembered, oldest first."""
        ...


class OperationStore(Protocol):
    async def get_operation(self, operation_id: OperationId) -> Operation | None: ...

    async def prune_operations(self, finished_before: datetime) -> int: ...


class EventStore(Protocol):
    async def append(self, events: Sequence[Event]) -> None: ...

    async def find_events(self, *, user_id: UserId | None, after: str | None, limit: int) -> Page[Event]:
        """Return events in the order they happened; *after* and `next_cursor` are event ids."""
        ...

    async def latest_events(self, user_id: UserId, kind: str, *, limit: int) -> Sequence[Event]:
        """Return the latest events of that kind that the user has, the latest first."""
        ...

    async def prune_events(self, before: datetime) -> int:
        """Forget events that happened before that, a part at a time, and return how many there were."""
        ...


class ConditionStore(Protocol):
    async def put_condition(self, condition: Condition, event: Event | None = None) -> None:
        """Insert or replace the condition of that id, with what is to be remembered of it."""
        ...

    async def change_condition(
        self,
        condition_id: ConditionId,
        change: Callable[[Condition], Condition],
        event: Event | None = None,
    ) -> Condition | None:
        """
        Put what *change* makes of the row of that id in its place, in one transaction, and return what is there then.

        Where *change* leaves it as it is nothing is written, nor is *event*. None when there is no such row.
        """
        ...

    async def get_condition(self, condition_id: ConditionId) -> Condition | None: ...

    async def find_conditions(
        self, *, standing: bool, after: ConditionId | None = None, limit: int = 500
    ) -> Page[Condition]:
        """Return conditions in the order of ids, oldest first: with *standing* only those that are not cleared."""
        ...

    async def prune_conditions(self, cleared_before: datetime) -> int:
        """Forget conditions that ended before that, and return how many there were. What stands is never forgotten."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedOrphan:
    """An orphan that only whoever has the token may see to, and whose name no worker touches, until the claim lapses."""

    orphan: Orphan
    token: str


class OrphanStore(Protocol):
    async def put_orphans(
        self, orphans: Sequence[Orphan], *, earlier: Mapping[OrphanId, Orphan], now: datetime
    ) -> Sequence[Orphan]:
        """
        Take in a full comparison, in one transaction: *orphans* is all it found, *earlier* all that was known before it.

        Only what differs is written, and only where the row is what it was before: what another replica has put, removed
        or claimed meanwhile stands. Returned is what there is now of *orphans*.
        """
        ...

    async def get_orphan(self, orphan_id: OrphanId) -> Orphan | None: ...

    async def find_orphans(self, *, after: OrphanId | None = None, limit: int | None = 500) -> Page[Orphan]:
        """Return one page in the order of ids; with a limit of None, all."""
        ...

    async def claim_orphan(self, orphan_id: OrphanId, *, now: datetime, lapses_at: datetime) -> ClaimedOrphan:
        """
        Take exclusive charge of everything that bears the orphan's name.

        A stack that is made meanwhile is under the same claim: nobody works on it before that is released or lapses.
        Raises `OrphanNotFound` when there is no such orphan, or a row explains it by now, which also forgets it;
        `ClaimLost` while another is at something of that name.
        """
        ...

    async def release_orphan(self, claimed: ClaimedOrphan, *, gone: bool) -> None:
        """
        End the claim, also on a stack that was made meanwhile, which is due at once. With *gone* the orphan is forgotten.

        A claim that is lost already is no error.
        """
        ...


class InstallationStore(Protocol):
    async def cluster_mark(self, installation: str) -> str | None:
        """Return the mark by which *installation* knows its cluster, or None before the first one."""
        ...

    async def put_cluster_mark(self, installation: str, mark: str) -> None: ...


class TokenStore(Protocol):
    async def add_token(self, token: ServiceToken, event: Event | None = None) -> None:
        """Add it, together with what is to be remembered of that."""
        ...

    async def find_tokens(self, *, after: TokenId | None, limit: int) -> Page[ServiceToken]: ...

    async def revoke_token(self, token_id: TokenId, at: datetime, event: Event | None = None) -> bool:
        """
        Return whether there was such a token. Revoking twice keeps the first time, and the event of the second is not
        written.
        """
        ...

    async def active_tokens(self) -> Sequence[ServiceToken]: ...


class ReleaseStore(Protocol):
    async def get_release(self, release_id: ReleaseId) -> Release | None: ...

    async def add_release(self, release: Release, event: Event | None = None) -> Release:
        """
        Store it unless a release of that id exists; return the stored one. Its number is given here.

        *event* is written only when it is new.
        """
        ...

    async def find_releases(self, *, before: int | None, limit: int) -> Page[ReleaseInUse]:
        """Return one page, newest first; *before* and `next_cursor` are numbers of releases."""
        ...

    async def current_release(self) -> Release | None:
        """Return the fleet's target: the release that new stacks want."""
        ...

    async def use_release(
        self,
        release_id: ReleaseId,
        *,
        event: Event | None = None,
        under: ClaimedRollout | None = None,
        of_settings: bool = False,
    ) -> None:
        """
        Make it the fleet's target. One that is it already stays it, and *event* is not written.

        Raises `ReleaseNotFound`, and while a rollout is active `RolloutActive`, unless it is done *under* the claim on
        it: then `ClaimLost`, as `StackStore.decide` does. With *of_settings* it is remembered as the one that the settings describe.
        """
        ...

    async def settings_release(self) -> ReleaseId | None:
        """Return the release that was last used as that of the settings."""
        ...


class GroupStore(Protocol):
    async def find_groups(self) -> Sequence[Group]:
        """Return every group that was ever set to anything, in the order of names."""
        ...

    async def get_group(self, name: str) -> Group | None: ...

    async def put_group(self, group: Group, event: Event | None = None) -> None:
        """Insert or replace it, or raise `ReleaseNotFound` when there is no release that it is pinned to."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotentAnswer:
    """What is kept of an answered request: enough to give the same answer, and no secret."""

    status: int
    location: str | None
    """The `Location` it had; without one, the id of what was made."""
    operation_id: OperationId | None


class IdempotencyStore(Protocol):
    async def begin(
        self, *, principal: str, route: str, key: str, request_hash: str, now: datetime, lapses_at: datetime
    ) -> IdempotentAnswer | None:
        """
        Reserve the key until *lapses_at*, or return the answer that was given to it.

        Raises `IdempotencyMismatch` for another request hash, `IdempotencyInFlight` while the first is being handled.
        """
        ...

    async def finish(
        self, *, principal: str, route: str, key: str, answer: IdempotentAnswer, lapses_at: datetime
    ) -> None:
        """Keep the answer of a reserved key until *lapses_at*."""
        ...

    async def abandon(self, *, principal: str, route: str, key: str) -> None:
        """Free a reserved key whose request failed, so that it may be tried again."""
        ...

    async def prune_keys(self, now: datetime) -> int: ...
