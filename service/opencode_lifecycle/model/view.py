"""What callers are shown: the row, joined with what is seen now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

from opencode_lifecycle.model.condition import Condition
from opencode_lifecycle.model.identifiers import AllocationId, JobId, OperationId, UserId
from opencode_lifecycle.model.node import ClosedNode
from opencode_lifecycle.model.orphan import Orphan
from opencode_lifecycle.model.password import Password, WrappedPassword
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.staleness import Staleness
from opencode_lifecycle.model.states import Phase, Reason

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    """One page of a list. `next_cursor` is None on the last one."""

    items: Sequence[Item]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackView:
    """
    A stack as it is shown. `observed_at` is None when nothing was ever seen of it; `closed_node` is its node where that is
    known to take nothing new.
    """

    stack: Stack
    staleness: Sequence[Staleness]
    observed_at: datetime | None
    public_url: str | None = None
    closed_node: ClosedNode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPlan:
    """What a reconcile would do for one stack now, step by step, and why it is not as it should be."""

    user_id: UserId
    job_id: JobId
    phase: Phase
    reason: Reason | None
    steps: Sequence[str]
    """
    In order, in words such as `stop the job`. Never empty: a stack with nothing to do has no plan, and one that could not
    be planned in time says that.
    """
    message: str
    staleness: Sequence[Staleness]


@dataclass(frozen=True, slots=True, kw_only=True)
class NextLook:
    """
    When a stack is taken up next though nothing new is seen of it, and what is done then if all is as it is now.

    *due_at* is None for a stack that waits until something is seen to change or somebody asks; *at_work* says that a worker is
    at it now. *steps* are in words, as in `StackPlan`; none where nothing is to be done.
    """

    user_id: UserId
    due_at: datetime | None
    at_work: bool
    steps: Sequence[str]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanPlan:
    """What becomes of an orphan: `adopt`, `delete`, or `report` for one that is left alone, and why."""

    orphan: Orphan
    action: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileReport:
    """
    What a full pass found and does (or with *dry_run* would do).

    `compared` stacks were held against a listing of Nomad at `index`; all that need something are in `stacks`. Where Vault or
    Consul did not answer, `orphans_unseen` says so: orphans were not looked for, and `orphans` is empty.
    """

    dry_run: bool
    at: datetime
    index: int
    compared: int
    frozen: bool
    """Whether a standing condition holds back what rests on absence."""
    conditions: Sequence[Condition]
    stacks: Sequence[StackPlan]
    orphans: Sequence[OrphanPlan]
    orphans_unseen: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureRequest:
    """What an ensure asks for. None means unchanged, or the default on a new stack."""

    group: str | None = None
    resources: str | None = None
    labels: Mapping[str, str] | None = None
    environment: Mapping[str, str] | None = None


UNCHANGED: Final = EnsureRequest()
"""An ensure that asks for nothing but a running stack: most of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureAnswer:
    """`ready` says that the stack runs, is proven, and nothing had to change; else `operation` tells the progress."""

    view: StackView
    ready: bool
    operation: OperationId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressView:
    url: str
    host: str
    port: int
    audience: str
    allocation_id: AllocationId
    generation: int
    proven_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """For the running allocation. Exactly one of `password` and `wrapped` is set."""

    username: str
    secret_version: int
    allocation_id: AllocationId
    password: Password | None = None
    wrapped: WrappedPassword | None = None
