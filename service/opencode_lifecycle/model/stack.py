"""
A stack: everything that belongs to one user. One row of `user_stacks`.

The row has two halves with different writers, so that a request never overwrites what the reconciler found, and the
reconciler never overwrites what was asked meanwhile: *intent* is written by accepted requests, *status* by whoever holds
the claim.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from opencode_lifecycle.model.facets import Facet, Facets
from opencode_lifecycle.model.identifiers import AllocationId, JobId, OperationId, ReleaseId, UserId, VolumeId
from opencode_lifecycle.model.migration import (
    ORDER_MOVES,
    Footing,
    MigrationOrder,
    OrderOutcome,
    OrderState,
    Refusal,
)
from opencode_lifecycle.model.states import Desired, Health, MigrationState, Phase, Reason, check_move
from opencode_lifecycle.model.transitions import check_transition


@dataclass(frozen=True, slots=True, kw_only=True)
class Successor:
    """An ensure that was accepted while the stack was being deleted; it becomes the next life of the stack."""

    group: str
    resources: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    operation: OperationId
    deletion: OperationId | None = None
    """The operation of the deletion that it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What was asked for. `generation` counts accepted changes of it."""

    generation: int
    desired: Desired
    group: str
    resources: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    wanted_release: ReleaseId
    pinned: bool = False
    held: bool = False
    fresh_start: int = 0
    """The last generation that asked for an allocation newer than itself (recreate); 0 when none ever did."""
    rotation: int = 0
    """The last generation that asked for a new password; 0 when none ever did."""
    order: MigrationOrder | None = None
    """By whose order it is to be migrated; it stands until `Status.order_done` names it."""
    recovered: int = 0
    """The last generation in which somebody asked that what was refused be tried again; 0 when none ever did."""
    delete_workspace: bool = False
    successor: Successor | None = None
    last_operation: OperationId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The volume of a stack: its Nomad id, the node that holds it, and where on that node it lies."""

    volume_id: VolumeId
    node_id: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """
    The OpenCode server of a stack as it was last proven.

    `address` is what the right allocation answered on: 401 without credentials, and with them healthy and of the
    expected version. It is withdrawn (`address` None) as soon as that allocation is known to be gone.
    """

    allocation_id: AllocationId
    job_version: int
    node: str
    image: str
    opencode_version: str
    revision: str
    secret_version: int
    release: ReleaseId
    restarts: int
    started_at: datetime | None
    address: Address | None
    proven_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldEdit:
    """One field of a job that somebody else changed: as it is, and as we registered it. Empty where it is absent."""

    field: str
    have: str
    want: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the reconciler made of it. Speaks for `observed_generation`."""

    observed_generation: int = 0
    phase: Phase = Phase.PENDING
    phase_since: datetime
    health: Health = Health.UNKNOWN
    migration_state: MigrationState = MigrationState.CURRENT
    reason: Reason | None = None
    message: str = ""
    facets: Facets | None = None
    """What the job was last registered with, or will be; None before the first registration."""
    release: ReleaseId | None = None
    """The release it was last registered with."""
    secret_version: int | None = None
    workspace: Workspace | None = None
    job_modify_index: int | None = None
    """Nomad's index of our last write to the job. An observation older than it decides nothing."""
    fresh_start_done: int = 0
    """The last `fresh_start` generation whose old allocation is gone."""
    rotation_done: int = 0
    """The last `rotation` generation whose new password is written."""
    runtime: Runtime | None = None
    attempts: int = 0
    """Failed tries in a row; sets the backoff."""
    edits: tuple[FieldEdit, ...] = ()
    """What somebody else changed in the job since we registered it."""
    edits_restart: bool = False
    """Whether taking the edits back restarts the runtime, as Nomad's own plan says."""
    recycled_at: datetime | None = None
    """When its runtime was last replaced for its own good: wedged, too old or too large."""
    built: Footing | None = None
    """What its job was last built of; None for one that was registered before that was written down."""
    footing: Footing | None = None
    """What ran before the change that is under way or was refused: what the stack goes back to when the change fails."""
    refused: str | None = None
    """The aim (`Facets.aim`) that was tried and taken back, None for none. See `is_on_footing`."""
    refused_in: int = 0
    """The generation in which it was refused."""
    refusal: Refusal | None = None
    """Why it was."""
    migrating_since: datetime | None = None
    """When the change that is under way began; None when there is none."""
    order_done: str | None = None
    """The last order that was seen to the end, and what came of it."""
    order_outcome: OrderOutcome | None = None
    stale: frozenset[Facet] = frozenset()
    """The facets in which it was stale when this was saved: for counting a fleet. What is shown is worked out anew."""

    def changed(self, **values: Any) -> "Status":
        """Return it with *values*, or itself where it has them: most looks at a stack find nothing new."""
        if all(getattr(self, name) == value for name, value in values.items()):
            return self
        return replace(self, **values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    user_id: UserId
    job_id: JobId
    namespace: str
    region: str
    intent: Intent
    status: Status
    busy_until: datetime | None = None
    """Until when a backend has said that it is at work: it is not interrupted before that, unless by force."""
    created_at: datetime
    updated_at: datetime
    change_seq: int = field(default=0, compare=False)
    """Position in the sequence of all changes of all stacks; later is larger."""

    def moved_to(self, status: Status) -> "Stack":
        """
        Return the stack with *status*: the one way in which the status of a stack changes.

        A phase, a health, a migration state or what came of an order that its table does not let the stack reach is a
        defect of ours: `IllegalTransition`.
        """
        before = self.status
        check_move(self.job_id, before.phase, status.phase)
        check_move(self.job_id, before.health, status.health)
        check_move(self.job_id, before.migration_state, status.migration_state)
        after = replace(self, status=status)
        of_order = self.order_state, after.order_state
        if of_order[0] is not None and of_order[1] is not None:
            check_transition(self.job_id, "order", ORDER_MOVES, of_order[0], of_order[1])
        return after

    @property
    def order_state(self) -> OrderState | None:
        """Return how its order stands, None where there is none."""
        order, status = self.intent.order, self.status
        if order is None:
            return None
        is_seen_to = order.id == status.order_done and status.order_outcome is not None
        return OrderState(str(status.order_outcome)) if is_seen_to else OrderState.STANDING

    @property
    def is_settled(self) -> bool:
        """Whether the status speaks for the latest accepted change."""
        return self.status.observed_generation == self.intent.generation

    @property
    def standing_order(self) -> MigrationOrder | None:
        """Return the order by which the stack is to be migrated, until it was seen to the end."""
        order = self.intent.order
        return order if order is not None and order.id != self.status.order_done else None

    def order_beside(self, intent: Intent) -> MigrationOrder | None:
        """
        Return which order stands when somebody asks for *intent*: people come before a rollout.

        1. A rollout orders the stack to be moved, at its deadline by force. Somebody stops it before that, or pins it.
        2. Started again weeks later, it would still be under that order, whose deadline has long passed: the next change of
           it would cut its agent off at once, and no other rollout could take it up.

        So an order ends with a request about the same: whether the stack runs, on which release, or that it be replaced
        or deleted. One that was seen to the end stays, since what came of it is still to be read. An order that the
        request gives itself takes the place of any other.
        """
        order = self.intent.order
        if intent.order != order:
            return intent.order
        if self.standing_order is None or _subject(intent) == _subject(self.intent):
            return order
        return None

    def beside_order(self, intent: Intent) -> Intent:
        """Return *intent*, which somebody asks for, with the order that stands or, where that ends with it, without."""
        order = self.order_beside(intent)
        return replace(intent, order=order) if order is not None else self.calling_off(intent)

    def calling_off(self, intent: Intent) -> Intent:
        """
        Return *intent* without the order that stands, and without what that asked for as long as nothing came of it.

        1. A rollout of fresh starts orders a stack whose agent is at work, and gives its place to another meanwhile.
        2. That a fresh start is due would stay in the row, and without an order no agent is waited for.
        3. A new password that stays due is never made without one either, and keeps every other from being noticed.

        What *intent* itself asks for stays.
        """
        order, before, status = self.standing_order, self.intent, self.status
        if order is not None and order.fresh and intent.fresh_start == before.fresh_start:
            intent = replace(intent, fresh_start=min(intent.fresh_start, status.fresh_start_done))
        if order is not None and order.rotate and intent.rotation == before.rotation:
            intent = replace(intent, rotation=min(intent.rotation, status.rotation_done))
        return replace(intent, order=None)

    def is_on_footing(self, aim: str) -> bool:
        """
        Whether the stack stays on what ran before, since *aim*, which is what is asked for, was tried and taken back.

        Until something else is asked for, or somebody asks that it be tried again.
        """
        status = self.status
        return (
            status.footing is not None
            and status.refused == aim
            and self.intent.recovered <= status.refused_in
        )

    @property
    def waits_for_a_person(self) -> bool:
        """Whether its migration was refused or is held, and nothing is done about it before somebody asks."""
        is_stuck = self.status.migration_state in {MigrationState.FAILED, MigrationState.HELD}
        return is_stuck and not self.is_held_by_node

    @property
    def is_held_by_node(self) -> bool:
        """Whether nothing of it runs since its node takes nothing new. It starts by itself when the node does."""
        return self.status.phase is Phase.STOPPED and self.status.reason is Reason.NODE_DRAINING

    @property
    def is_refused(self) -> bool:
        """Whether the change of a runtime was refused or failed; it is left alone until somebody asks again."""
        return self.status.migration_state is MigrationState.FAILED


def _subject(intent: Intent) -> tuple[object, ...]:
    """Return what an order is about, as *intent* has it."""
    return intent.desired, intent.wanted_release, intent.pinned, intent.fresh_start, intent.rotation


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWorkspace:
    """A volume that outlived its stack because the deletion kept it. The next stack of the user takes it up."""

    user_id: UserId
    job_id: JobId
    workspace: Workspace
    kept_at: datetime
