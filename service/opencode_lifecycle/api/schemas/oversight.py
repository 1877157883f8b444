"""The whole: what is stale, what stands in the way, what has no row, and what a reconcile does about it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from opencode_lifecycle.api.schemas.shapes import Mirror, Outgoing
from opencode_lifecycle.api.schemas.stacks import StalenessShape
from opencode_lifecycle.model.condition import ConditionKind, ConditionStatus
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.orphan import Orphan, OrphanKind
from opencode_lifecycle.model.staleness import Severity, StalenessSummary, severity_of
from opencode_lifecycle.model.states import Phase, Reason
from opencode_lifecycle.model.view import OrphanPlan, ReconcileReport


class StaleCountShape(Outgoing):
    """`restart` says that putting at least one of these stacks right restarts its runtime."""

    facet: Facet
    stacks: int
    severity: Severity
    restart: bool


class StalenessSummaryShape(Outgoing):
    """The fleet by reason, the most frequent first: of `stacks` in all, `stale` have at least one."""

    stacks: int
    stale: int
    items: Sequence[StaleCountShape]
    next_cursor: None = None

    @classmethod
    def from_domain(cls, summary: StalenessSummary) -> Self:
        return cls(
            stacks=summary.stacks,
            stale=summary.stale,
            items=[
                StaleCountShape(
                    facet=count.facet,
                    stacks=count.stacks,
                    severity=severity_of(count.facet),
                    restart=count.restart,
                )
                for count in summary.facets
            ],
        )


class NextLookShape(Mirror):
    """
    When the stack is taken up next, null for not before something is seen to change or somebody asks, and what is done then.

    `at_work` says that it is just being seen to. `steps` are what would be done if all is as it is now; none for nothing.
    """

    user_id: str
    due_at: datetime | None
    at_work: bool
    steps: Sequence[str]
    message: str


class ConditionShape(Mirror):
    """`freezes` says whether work that rests on absence is held back by it now."""

    id: str
    kind: ConditionKind
    status: ConditionStatus
    freezes: bool
    message: str
    details: Mapping[str, Any]
    since: datetime
    confirmed_at: datetime | None
    confirmed_by: str | None
    cleared_at: datetime | None


class OrphanShape(Outgoing):
    """What bears our names and has no row. What is not `proven` ours is never touched."""

    id: str
    kind: OrphanKind
    job_id: str
    reference: str
    installation: str | None
    user_id: str | None
    proven: bool
    confirmations: int
    first_seen_at: datetime
    last_seen_at: datetime
    details: Mapping[str, Any]

    @classmethod
    def from_domain(cls, orphan: Orphan) -> Self:
        find = orphan.find
        return cls(
            id=orphan.id,
            kind=find.kind,
            job_id=find.job_id,
            reference=find.reference,
            installation=find.installation,
            user_id=find.user_id,
            proven=orphan.proven,
            confirmations=orphan.confirmations,
            first_seen_at=orphan.first_seen_at,
            last_seen_at=orphan.last_seen_at,
            details=find.details,
        )


class StackPlanShape(Mirror):
    user_id: str
    job_id: str
    phase: Phase
    reason: Reason | None
    steps: Sequence[str]
    message: str
    staleness: Sequence[StalenessShape]


class OrphanPlanShape(Outgoing):
    orphan: OrphanShape
    action: str
    message: str

    @classmethod
    def from_domain(cls, plan: OrphanPlan) -> Self:
        return cls(orphan=OrphanShape.from_domain(plan.orphan), action=plan.action, message=plan.message)


class ReconcileShape(Outgoing):
    """
    `compared` stacks were held against Nomad at `index`. `stacks` and `orphans` are those that need something; orphans
    could not be looked for where `orphans_unseen` says why.
    """

    dry_run: bool
    at: datetime
    index: int
    compared: int
    frozen: bool
    conditions: Sequence[ConditionShape]
    stacks: Sequence[StackPlanShape]
    orphans: Sequence[OrphanPlanShape]
    orphans_unseen: str | None

    @classmethod
    def from_domain(cls, report: ReconcileReport) -> Self:
        return cls(
            dry_run=report.dry_run,
            at=report.at,
            index=report.index,
            compared=report.compared,
            frozen=report.frozen,
            conditions=[ConditionShape.from_domain(condition) for condition in report.conditions],
            stacks=[StackPlanShape.from_domain(plan) for plan in report.stacks],
            orphans=[OrphanPlanShape.from_domain(plan) for plan in report.orphans],
            orphans_unseen=report.orphans_unseen,
        )
