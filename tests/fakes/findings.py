"""Conditions, orphans and the mark of the cluster in memory: what `FakeStore` keeps of them. It passes the contract suite of the real store."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from fakes.store_rows import AT_ONCE, Row, page_of
from opencode_lifecycle.model.condition import Condition
from opencode_lifecycle.model.errors import ClaimLost, OrphanNotFound
from opencode_lifecycle.model.identifiers import ConditionId, OrphanId, UserId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.orphan import Orphan
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.stores import ClaimedOrphan


class FakeFindings:
    """The part of a store in memory that is about what was found amiss."""

    rows: dict[UserId, Row]
    events: list[Event]
    _call: Callable[[str], contextlib.AbstractAsyncContextManager[None]]
    _claims: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        self.conditions: dict[ConditionId, Condition] = {}
        self.orphans: dict[OrphanId, Orphan] = {}
        self.orphan_claims: dict[OrphanId, tuple[str, datetime]] = {}
        self.marks: dict[str, str] = {}

    async def prune_conditions(self, cleared_before: datetime) -> int:
        async with self._call("prune_conditions"):
            ended = [
                each.id
                for each in self.conditions.values()
                if each.cleared_at is not None and each.cleared_at < cleared_before
            ]
            for condition_id in ended:
                del self.conditions[condition_id]
            return len(ended)

    async def put_condition(self, condition: Condition, event: Event | None = None) -> None:
        async with self._call("put_condition"):
            self.conditions[condition.id] = condition
            self.events += [event] if event is not None else []

    async def change_condition(
        self,
        condition_id: ConditionId,
        change: Callable[[Condition], Condition],
        event: Event | None = None,
    ) -> Condition | None:
        async with self._call("change_condition"):
            there = self.conditions.get(condition_id)
            if there is None or (changed := change(there)) == there:
                return there
            self.conditions[condition_id] = changed
            self.events += [event] if event is not None else []
            return changed

    async def get_condition(self, condition_id: ConditionId) -> Condition | None:
        async with self._call("get_condition"):
            return self.conditions.get(condition_id)

    async def find_conditions(
        self, *, standing: bool, after: ConditionId | None = None, limit: int = 500
    ) -> Page[Condition]:
        async with self._call("find_conditions"):
            matching = [
                each
                for _, each in sorted(self.conditions.items())
                if (not standing or each.cleared_at is None) and (after is None or each.id > after)
            ]
        return page_of(matching, limit)

    async def put_orphans(
        self, orphans: Sequence[Orphan], *, earlier: Mapping[OrphanId, Orphan], now: datetime
    ) -> Sequence[Orphan]:
        found = {orphan.id: orphan for orphan in orphans}
        if found == earlier:
            return orphans
        async with self._call("put_orphans"):
            for each in found.keys() | earlier.keys():
                is_unmoved = self.orphans.get(each) == earlier.get(each)
                if not is_unmoved or self._is_claimed(each, now):
                    continue
                if each in found:
                    self.orphans[each] = found[each]
                else:
                    del self.orphans[each]
            return [self.orphans[each] for each in found if each in self.orphans]

    async def get_orphan(self, orphan_id: OrphanId) -> Orphan | None:
        async with self._call("get_orphan"):
            return self.orphans.get(orphan_id)

    async def find_orphans(self, *, after: OrphanId | None = None, limit: int | None = 500) -> Page[Orphan]:
        async with self._call("find_orphans"):
            matching = [each for _, each in sorted(self.orphans.items()) if after is None or each.id > after]
        return page_of(matching, limit)

    async def claim_orphan(self, orphan_id: OrphanId, *, now: datetime, lapses_at: datetime) -> ClaimedOrphan:
        async with self._call("claim_orphan"):
            orphan = self.orphans.get(orphan_id)
            name = orphan.find.job_id if orphan is not None else None
            if orphan is None or any(row.stack.job_id == name for row in self.rows.values()):
                self.orphans.pop(orphan_id, None)
                raise OrphanNotFound
            if any(
                self._is_claimed(each.id, now) for each in self.orphans.values() if each.find.job_id == name
            ):
                raise ClaimLost
            token = f"claim-{next(self._claims):016}"
            self.orphan_claims[orphan_id] = (token, lapses_at)
            return ClaimedOrphan(orphan=orphan, token=token)

    async def release_orphan(self, claimed: ClaimedOrphan, *, gone: bool) -> None:
        async with self._call("release_orphan"):
            orphan_id = claimed.orphan.id
            if self.orphan_claims.get(orphan_id, ("",))[0] == claimed.token:
                del self.orphan_claims[orphan_id]
                if gone:
                    self.orphans.pop(orphan_id, None)
            for row in self.rows.values():
                if row.claim_token == claimed.token:
                    row.claim_token, row.claim_lapses_at, row.next_attempt_at = None, None, AT_ONCE

    def _is_claimed(self, orphan_id: OrphanId, now: datetime) -> bool:
        claim = self.orphan_claims.get(orphan_id)
        return claim is not None and claim[1] > now

    async def cluster_mark(self, installation: str) -> str | None:
        async with self._call("cluster_mark"):
            return self.marks.get(installation)

    async def put_cluster_mark(self, installation: str, mark: str) -> None:
        async with self._call("put_cluster_mark"):
            self.marks[installation] = mark
