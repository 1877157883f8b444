"""What an operator looks after, in memory: conditions, orphans, staleness and whether the service is ready."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from api.in_memory import NOW, a_view
from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.errors import ConditionNotFound, OrphanNotFound, OrphanNotProven, StackNotFound
from opencode_lifecycle.model.identifiers import ConditionId, OrphanId, UserId, job_id_of
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.staleness import StalenessSummary
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.model.view import NextLook, OrphanPlan, Page, ReconcileReport, StackPlan, StackView


def a_condition(**changes: object) -> Condition:
    values = {
        "id": ConditionId("cond_01JABCDEFGHJKMNPQRSTVWXYZ0"),
        "kind": ConditionKind.MASS_DISAPPEARANCE,
        "message": "7 of 9 stacks that should run are not in Nomad's listing.",
        "details": {"missing": 7, "of": 9},
        "since": NOW,
    }
    return Condition(**{**values, **changes})


def an_orphan(user_id: str = "ada", **changes: object) -> Orphan:
    job_id = job_id_of("main", UserId(user_id))
    find = Find(
        kind=OrphanKind.JOB, job_id=job_id, reference=job_id, installation="main", user_id=UserId(user_id)
    )
    values = {"find": find, "proven": True, "first_seen_at": NOW, "last_seen_at": NOW, "confirmations": 3}
    return Orphan(**{**values, **changes})


WAITS_FOR_NOTHING = NextLook(user_id=UserId("ada"), due_at=None, at_work=False, steps=(), message="")


@dataclass
class MemoryOversight:
    """What operators ask of the whole. `calls` counts what reached it."""

    conditions_there: list[Condition] = field(default_factory=list)
    orphans_there: list[Orphan] = field(default_factory=list)
    summary: StalenessSummary = field(default_factory=lambda: StalenessSummary(stacks=0, stale=0, facets=()))
    plans: Sequence[StackPlan] = ()
    looks: dict[UserId, NextLook] = field(default_factory=lambda: {UserId("ada"): WAITS_FOR_NOTHING})
    calls: list[str] = field(default_factory=list)

    async def staleness(self) -> StalenessSummary:
        return self.summary

    async def reconcile(self, *, dry_run: bool, by: Principal) -> ReconcileReport:
        self.calls.append("look" if dry_run else "reconcile")
        return ReconcileReport(
            dry_run=dry_run,
            at=NOW,
            index=42,
            compared=9,
            frozen=any(each.freezes for each in self.conditions_there),
            conditions=self.conditions_there,
            stacks=self.plans,
            orphans=[OrphanPlan(orphan=each, action="adopt", message="") for each in self.orphans_there],
        )

    async def next_look(self, user_id: UserId) -> NextLook:
        if user_id not in self.looks:
            raise StackNotFound(user_id=user_id)
        return self.looks[user_id]

    async def conditions(self, *, standing: bool, after: ConditionId | None, limit: int) -> Page[Condition]:
        found = [
            each
            for each in self.conditions_there
            if (not standing or each.cleared_at is None) and (after is None or each.id > after)
        ]
        return Page(items=found[:limit], next_cursor=found[limit - 1].id if len(found) > limit else None)

    async def confirm_condition(self, condition_id: ConditionId, *, by: Principal) -> Condition:
        self.calls.append(f"confirm {by.name}")
        for place, each in enumerate(self.conditions_there):
            if each.id == condition_id:
                self.conditions_there[place] = replace(each, confirmed_at=NOW, confirmed_by=by.name)
                return self.conditions_there[place]
        raise ConditionNotFound

    async def orphans(self, *, after: OrphanId | None, limit: int) -> Page[Orphan]:
        found = [each for each in self.orphans_there if after is None or each.id > after]
        return Page(items=found[:limit], next_cursor=found[limit - 1].id if len(found) > limit else None)

    async def adopt_orphan(self, orphan_id: OrphanId, *, by: Principal) -> StackView:
        orphan = self._take(orphan_id)
        self.calls.append("adopt")
        return a_view(str(orphan.find.user_id), phase=Phase.PENDING)

    async def delete_orphan(self, orphan_id: OrphanId, *, by: Principal) -> None:
        self._take(orphan_id)
        self.calls.append("delete")

    def _take(self, orphan_id: OrphanId) -> Orphan:
        for each in self.orphans_there:
            if each.id == orphan_id:
                if not each.proven:
                    raise OrphanNotProven
                self.orphans_there.remove(each)
                return each
        raise OrphanNotFound


@dataclass(frozen=True)
class Report:
    name: str
    ok: bool = True
    detail: str = ""
    age_seconds: float | None = 0.5


@dataclass(frozen=True)
class WatchReport:
    name: str
    ok: bool = True
    age_seconds: float | None = 0.5
    limit_seconds: float = 30.0


@dataclass
class MemoryReadiness:
    reports: Sequence[Report] = (Report("nomad"), Report("vault"), Report("consul"), Report("database"))
    watch_reports: Sequence[WatchReport] = (WatchReport("nomad_listing"),)

    async def report(self) -> Sequence[Report]:
        return self.reports

    def watches(self) -> Sequence[WatchReport]:
        return self.watch_reports
