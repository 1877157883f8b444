"""Rollouts, their members and plans, as rows and back."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.migration import AtDeadline, DataPolicy, MigrationClass
from opencode_lifecycle.model.rollout import (
    BusyState,
    Member,
    MemberReason,
    MemberState,
    Placement,
    PlannedStack,
    PromptVerdict,
    Rollout,
    RolloutPlan,
    RolloutReason,
    RolloutState,
)
from opencode_lifecycle.model.rollout_specification import (
    Amount,
    Gate,
    RolloutSpecification,
    Selector,
    Strategy,
)
from opencode_lifecycle.model.staleness import Severity, Staleness

Row = Mapping[str, Any]


def specification_document(specification: RolloutSpecification) -> dict[str, Any]:
    selector, strategy = specification.selector, specification.strategy
    unavailable = strategy.max_unavailable
    return {
        "release": specification.release,
        "rotate_passwords": specification.rotate_passwords,
        "recreate": specification.recreate,
        "selector": {
            "all_stale": selector.all_stale,
            "reasons": [each.value for each in selector.reasons],
            "releases": list(selector.releases),
            "labels": dict(selector.labels),
            "groups": list(selector.groups),
            "users": list(selector.users),
        },
        "strategy": {
            "canary": str(strategy.canary),
            "waves": [str(each) for each in strategy.waves],
            "max_in_flight": strategy.max_in_flight,
            "max_unavailable": str(unavailable) if unavailable is not None else None,
            "soak": strategy.soak.total_seconds(),
            "deadline": strategy.deadline.total_seconds(),
            "at_deadline": strategy.at_deadline.value,
            "failure_budget": str(strategy.gate.failure_budget),
            "health": strategy.gate.health,
            "prompt": strategy.gate.prompt,
        },
    }


def specification_of(document: Row) -> RolloutSpecification:
    selector, strategy = document["selector"], document["strategy"]
    unavailable = strategy["max_unavailable"]
    return RolloutSpecification(
        release=document["release"],
        rotate_passwords=document["rotate_passwords"],
        recreate=document["recreate"],
        selector=Selector(
            all_stale=selector["all_stale"],
            reasons=tuple(Facet(each) for each in selector["reasons"]),
            releases=tuple(selector["releases"]),
            labels=selector["labels"],
            groups=tuple(selector["groups"]),
            users=tuple(selector["users"]),
        ),
        strategy=Strategy(
            canary=Amount.parse(strategy["canary"]),
            waves=tuple(Amount.parse(each) for each in strategy["waves"]),
            max_in_flight=strategy["max_in_flight"],
            max_unavailable=Amount.parse(unavailable) if unavailable is not None else None,
            soak=timedelta(seconds=strategy["soak"]),
            deadline=timedelta(seconds=strategy["deadline"]),
            at_deadline=AtDeadline(strategy["at_deadline"]),
            gate=Gate(
                failure_budget=Amount.parse(strategy["failure_budget"]),
                health=strategy["health"],
                prompt=strategy["prompt"],
            ),
        ),
    )


def rollout_values(rollout: Rollout) -> dict[str, Any]:
    return {
        "state": rollout.state.value,
        "is_active": rollout.is_active,
        "release": rollout.release,
        "target_before": rollout.target_before,
        "specification": specification_document(rollout.specification),
        "progress": {
            "entered_at": rollout.entered_at.isoformat(),
            "goes_back": rollout.goes_back,
            "turned_for": rollout.turned_for.value if rollout.turned_for is not None else None,
            "turned_because": rollout.turned_because,
            "rollback_data": rollout.rollback_data.value,
            "promoted_at": _text(rollout.promoted_at),
            "wave": rollout.wave,
            "waves": rollout.waves,
            "settled_at": _text(rollout.settled_at),
            "forgiven": rollout.forgiven,
            "counts": {state.value: count for state, count in rollout.counts.items()},
        },
        "reason": rollout.reason.value if rollout.reason is not None else None,
        "message": rollout.message,
        "version": rollout.version,
        "created_by": rollout.created_by,
        "created_at": rollout.created_at,
        "updated_at": rollout.updated_at,
        "finished_at": rollout.finished_at,
    }


def rollout_of(row: Row) -> Rollout:
    progress = row["progress"]
    return Rollout(
        id=row["id"],
        specification=specification_of(row["specification"]),
        state=RolloutState(row["state"]),
        entered_at=datetime.fromisoformat(progress["entered_at"]),
        target_before=row["target_before"],
        reason=RolloutReason(row["reason"]) if row["reason"] is not None else None,
        message=row["message"],
        goes_back=progress["goes_back"],
        # Rollouts of before that was kept have none.
        turned_for=RolloutReason(turned_for) if (turned_for := progress.get("turned_for")) else None,
        turned_because=progress.get("turned_because", ""),
        rollback_data=DataPolicy(progress.get("rollback_data", DataPolicy.KEEP)),
        promoted_at=_instant(progress["promoted_at"]),
        wave=progress["wave"],
        waves=progress["waves"],
        settled_at=_instant(progress["settled_at"]),
        forgiven=progress["forgiven"],
        counts={MemberState(state): count for state, count in progress["counts"].items()},
        created_by=row["created_by"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        finished_at=row["finished_at"],
        version=row["version"],
    )


def member_values(member: Member) -> dict[str, Any]:
    return {
        "rollout_id": member.rollout_id,
        "user_id": member.user_id,
        "stack_created_at": member.stack_created_at,
        "wave": member.wave,
        "state": member.state.value,
        "migration_class": member.migration_class.value if member.migration_class is not None else None,
        "release_before": member.release_before,
        "generation": member.generation,
        "orders": member.orders,
        "goes_back": member.goes_back,
        "first_ordered_at": member.first_ordered_at,
        "ordered_at": member.ordered_at,
        "prompt": member.prompt.value if member.prompt is not None else None,
        "reason": member.reason,
        "message": member.message,
        "changed_at": member.changed_at,
    }


def member_of(row: Row) -> Member:
    known = {
        "state": MemberState(row["state"]),
        "migration_class": None if row["migration_class"] is None else MigrationClass(row["migration_class"]),
        "prompt": None if row["prompt"] is None else PromptVerdict(row["prompt"]),
    }
    return Member(**{**row, **known})


def plan_values(plan: RolloutPlan) -> dict[str, Any]:
    return {
        "id": plan.id,
        "specification": specification_document(plan.specification),
        "stacks": {
            "target_before": plan.target_before,
            "waves": plan.waves,
            "stacks": [_planned_document(each) for each in plan.stacks],
        },
        "created_by": plan.created_by,
        "created_at": plan.created_at,
        "lapses_at": plan.lapses_at,
    }


def plan_of(row: Row) -> RolloutPlan:
    return RolloutPlan(
        id=row["id"],
        specification=specification_of(row["specification"]),
        target_before=row["stacks"]["target_before"],
        waves=row["stacks"]["waves"],
        stacks=tuple(_planned_of(each) for each in row["stacks"]["stacks"]),
        created_by=row["created_by"],
        created_at=row["created_at"],
        lapses_at=row["lapses_at"],
    )


def _planned_document(stack: PlannedStack) -> dict[str, Any]:
    return {
        "user_id": stack.user_id,
        "generation": stack.generation,
        "revision": stack.revision,
        "release": stack.release,
        "why": [[r.facet.value, r.have, r.want, r.severity.value, r.restart] for r in stack.why],
        "class": stack.migration_class.value if stack.migration_class is not None else None,
        "busy": stack.busy.value,
        "placement": stack.placement.value,
        "wave": stack.wave,
        "left_out": stack.left_out.value if stack.left_out is not None else None,
        "message": stack.message,
    }


def _planned_of(document: Row) -> PlannedStack:
    return PlannedStack(
        user_id=document["user_id"],
        generation=document["generation"],
        revision=document["revision"],
        release=document["release"],
        why=tuple(
            Staleness(facet=Facet(facet), have=have, want=want, severity=Severity(severity), restart=restart)
            for facet, have, want, severity, restart in document["why"]
        ),
        migration_class=MigrationClass(document["class"]) if document["class"] is not None else None,
        busy=BusyState(document["busy"]),
        placement=Placement(document["placement"]),
        wave=document["wave"],
        left_out=MemberReason(document["left_out"]) if document["left_out"] is not None else None,
        message=document["message"],
    )


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text is not None else None
