"""
The database in memory: every port of `ports.stores`, without threads, files or a clock of its own.

It passes the same contract as the real ones. Each write is one step in which nothing else can happen; before it and after
it others run, as they would while a statement travels.

    store = FakeStore()
    store.faults.fail_next("save", UpstreamUnavailable("database", "save"), after_commit=True)
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fakes.faults import Faults
from fakes.rollouts import FakeRollouts
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.condition import Condition
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    Busy,
    ClaimLost,
    IdempotencyInFlight,
    IdempotencyMismatch,
    OrphanNotFound,
    ReleaseNotFound,
    RolloutActive,
    StackNotFound,
)
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
from opencode_lifecycle.model.lease import is_leased, leased
from opencode_lifecycle.model.operation import Event, Operation, OperationKind, OperationState
from opencode_lifecycle.model.orphan import Orphan
from opencode_lifecycle.model.principal import ServiceToken
from opencode_lifecycle.model.release import Release, ReleaseInUse
from opencode_lifecycle.model.snapshot import Snapshot, SnapshotsSeen
from opencode_lifecycle.model.stack import KeptWorkspace, Stack, Status
from opencode_lifecycle.model.staleness import StaleCount, StalenessSummary, needs_restart
from opencode_lifecycle.model.states import Desired
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.rollouts import ClaimedRollout
from opencode_lifecycle.ports.stores import (
    Claimed,
    ClaimedOrphan,
    Decision,
    Due,
    IdempotentAnswer,
    OperationOutcome,
    Progress,
    Situation,
    StackChange,
    StackQuery,
)

AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _Row:
    stack: Stack
    next_attempt_at: datetime | None
    claim_token: str | None = None
    claim_lapses_at: datetime | None = None

    def is_free(self, now: datetime) -> bool:
        return self.claim_token is None or (self.claim_lapses_at is not None and self.claim_lapses_at <= now)


@dataclass(slots=True)
class _Key:
    request_hash: str
    lapses_at: datetime
    answer: IdempotentAnswer | None = None


class FakeStore(FakeRollouts):
    """All stores. `statements` counts what would have been asked of a database."""

    def __init__(self, *, clock: Clock = utc_now) -> None:
        self.faults = Faults()
        self.rows: dict[UserId, _Row] = {}
        self.removed: dict[UserId, tuple[int, datetime]] = {}
        self.workspaces: dict[UserId, KeptWorkspace] = {}
        self.operations: dict[OperationId, Operation] = {}
        self.events: list[Event] = []
        self.conditions: dict[ConditionId, Condition] = {}
        self.orphans: dict[OrphanId, Orphan] = {}
        self.orphan_claims: dict[OrphanId, tuple[str, datetime]] = {}
        self.marks: dict[str, str] = {}
        self.statements = 0
        self._releases: dict[ReleaseId, Release] = {}
        self._current: ReleaseId | None = None
        self._of_settings: ReleaseId | None = None
        self.groups: dict[str, Group] = {}
        self.snapshots: dict[UserId, SnapshotsSeen] = {}
        super().__init__()
        self._tokens: dict[TokenId, ServiceToken] = {}
        self._keys: dict[tuple[str, str, str], _Key] = {}
        self._clock = clock
        self._seq = 0
        self._claims = itertools.count(1)
        self._news = asyncio.Event()

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def ping(self, deadline: Deadline) -> None:
        async with self._call("ping"):
            return

    # Stacks

    async def get(self, user_id: UserId) -> Stack | None:
        async with self._call("get"):
            row = self.rows.get(user_id)
            return row.stack if row is not None else None

    async def find(self, query: StackQuery) -> Page[Stack]:
        async with self._call("find"):
            matching = [
                row.stack
                for _, row in sorted(self.rows.items())
                if (query.after is None or row.stack.user_id > query.after) and _matches(query, row.stack)
            ]
        found = matching[: query.limit]
        return Page(items=found, next_cursor=found[-1].user_id if len(matching) > query.limit else None)

    async def decide(
        self,
        user_id: UserId,
        decision: Callable[[Situation], Decision],
        *,
        under: ClaimedRollout | None = None,
    ) -> tuple[Situation, Decision]:
        async with self._call("decide"):
            if under is not None:
                self.check_rollout_claim(under)
            row = self.rows.get(user_id)
            stack = row.stack if row is not None else None
            last = (
                self.operations.get(stack.intent.last_operation)
                if stack and stack.intent.last_operation
                else None
            )
            situation = Situation(
                stack=stack, last_operation=last, kept_workspace=self.workspaces.get(user_id)
            )
            written = self._write_decision(user_id, situation, decision(situation))
        return situation, written

    def _write_decision(self, user_id: UserId, situation: Situation, decision: Decision) -> Decision:
        stack = decision.stack
        if stack is None and decision.wake:
            stack = situation.stack
        if stack is not None:
            stack = self._write_stack(situation.stack, stack, wake=decision.wake)
        if decision.operation is not None:
            if decision.supersede and situation.stack is not None:
                for operation in self._unfinished(user_id):
                    self.operations[operation.id] = replace(
                        operation,
                        state=OperationState.SUPERSEDED,
                        finished_at=decision.operation.created_at,
                    )
            self.operations[decision.operation.id] = decision.operation
        if decision.forget_kept_workspace:
            self.workspaces.pop(user_id, None)
        self.events += decision.events
        if stack is not None or decision.events:
            self._announce()
        return replace(decision, stack=stack)

    def _write_stack(self, existing: Stack | None, decided: Stack, *, wake: bool) -> Stack:
        if existing is None:
            stack = replace(decided, change_seq=self._next())
            self.removed.pop(stack.user_id, None)
            row = self.rows[stack.user_id] = _Row(stack, AT_ONCE if wake else None)
            for orphan_id, claim in self.orphan_claims.items():
                if orphan_id in self.orphans and self.orphans[orphan_id].find.job_id == stack.job_id:
                    row.claim_token, row.claim_lapses_at = claim
            return stack
        stack = replace(
            existing,
            intent=decided.intent,
            status=replace(existing.status, attempts=0) if wake else existing.status,
            updated_at=decided.updated_at,
            change_seq=self._next(),
        )
        row = self.rows[stack.user_id]
        row.stack = stack
        if wake:
            row.next_attempt_at = AT_ONCE
        return stack

    async def due(self, user_id: UserId) -> Due | None:
        async with self._call("due"):
            row = self.rows.get(user_id)
            return Due(at=row.next_attempt_at, claimed_until=row.claim_lapses_at) if row is not None else None

    async def claim(
        self, *, limit: int, now: datetime, lapses_at: datetime, hinted: Collection[UserId] = ()
    ) -> Sequence[Claimed]:
        async with self._call("claim"):
            free = [row for row in self.rows.values() if row.is_free(now)]
            wished = [row for row in free if row.stack.user_id in hinted]
            due = [
                row
                for row in free
                if row.next_attempt_at is not None
                and row.next_attempt_at <= now
                and row.stack.user_id not in hinted
            ]
            wished.sort(key=lambda row: row.stack.user_id)
            due.sort(key=lambda row: (row.next_attempt_at or AT_ONCE, row.stack.change_seq))
            token = f"claim-{next(self._claims):016}"
            taken = [*wished, *due][:limit]
            for row in taken:
                row.claim_token, row.claim_lapses_at, row.next_attempt_at = token, lapses_at, now
            return [Claimed(stack=row.stack, token=token, lapses_at=lapses_at) for row in taken]

    async def save(self, claimed: Claimed, progress: Progress) -> Stack:
        async with self._call("save"):
            row = self._claimed(claimed)
            if progress.unless_busy_at is not None and is_leased(row.stack, progress.unless_busy_at):
                raise Busy
            last = row.stack.intent.last_operation
            is_woken = row.next_attempt_at == AT_ONCE
            status: Status = replace(progress.status, attempts=0) if is_woken else progress.status
            if status != row.stack.status:
                row.stack = replace(
                    row.stack,
                    status=status,
                    updated_at=max(row.stack.updated_at, self._clock()),
                    change_seq=self._next(),
                )
            if not progress.keep_claim:
                is_behind = is_woken or row.stack.intent.generation > claimed.stack.intent.generation
                row.claim_token, row.claim_lapses_at = None, None
                row.next_attempt_at = AT_ONCE if is_behind else progress.next_attempt_at
            operation = self.operations.get(last) if last is not None else None
            if operation is not None and not operation.state.is_finished:
                answers_it = operation.generation <= claimed.stack.intent.generation
                self._progress(operation, progress, progress.outcome if answers_it else None)
            self.events += progress.events
            self._announce()
            return row.stack

    async def extend_lease(self, user_id: UserId, until: datetime) -> Stack:
        async with self._call("extend_lease"):
            row = self.rows.get(user_id)
            if row is None:
                raise StackNotFound(user_id=user_id)
            stack = leased(row.stack, until)
            if stack.busy_until != row.stack.busy_until:
                row.stack = replace(stack, change_seq=self._next())
                self._announce()
            return row.stack

    async def release_claim(self, claimed: Claimed, *, next_attempt_at: datetime | None) -> None:
        async with self._call("release_claim"):
            row = self.rows.get(claimed.stack.user_id)
            if row is None or row.claim_token != claimed.token:
                return
            is_behind = (
                row.next_attempt_at == AT_ONCE
                or row.stack.intent.generation > claimed.stack.intent.generation
            )
            row.claim_token, row.claim_lapses_at = None, None
            row.next_attempt_at = AT_ONCE if is_behind else next_attempt_at

    async def renew_claim(self, claimed: Claimed, *, lapses_at: datetime) -> Claimed:
        async with self._call("renew_claim"):
            self._claimed(claimed).claim_lapses_at = lapses_at
            return replace(claimed, lapses_at=lapses_at)

    async def void_claims(self) -> None:
        async with self._call("void_claims"):
            for row in self.rows.values():
                if row.claim_token is not None:
                    row.claim_token, row.claim_lapses_at, row.next_attempt_at = None, None, AT_ONCE
            self.orphan_claims.clear()
            self.rollout_claim = None

    async def finish_deletion(
        self,
        claimed: Claimed,
        *,
        outcome: OperationOutcome,
        events: Sequence[Event],
        kept: KeptWorkspace | None,
        successor: Stack | None,
    ) -> None:
        async with self._call("finish_deletion"):
            row = self._claimed(claimed)
            user_id = claimed.stack.user_id
            if row.stack.intent.generation != claimed.stack.intent.generation:
                raise ClaimLost("A newer change was accepted while the stack was being deleted.")
            del self.rows[user_id]
            seq = self._next()
            if successor is None:
                self.removed[user_id] = (seq, self._clock())
            else:
                self.rows[user_id] = _Row(replace(successor, change_seq=seq), AT_ONCE)
            continues = successor.intent.last_operation if successor is not None else None
            superseded = OperationOutcome(state=OperationState.SUPERSEDED)
            for operation in self._unfinished(user_id):
                if operation.kind is OperationKind.DELETE:
                    self._progress(operation, None, outcome)
                elif operation.id != continues:
                    self._progress(operation, None, superseded)
            if kept is not None:
                self.workspaces[kept.user_id] = kept
            else:
                self.snapshots.pop(user_id, None)
            self.events += events
            self._announce()

    async def kept_workspaces(self) -> Sequence[KeptWorkspace]:
        async with self._call("kept_workspaces"):
            return [kept for _, kept in sorted(self.workspaces.items())]

    async def staleness_summary(self) -> StalenessSummary:
        async with self._call("staleness_summary"):
            statuses = [row.stack.status for row in self.rows.values()]
        sets = [status.stale for status in statuses]
        edits_restart = any(
            status.edits_restart for status in statuses if Facet.EDITED_OUTSIDE in status.stale
        )
        counts = Counter(facet for stale in sets for facet in stale)
        in_order = sorted(counts.items(), key=lambda item: (-item[1], list(Facet).index(item[0])))
        return StalenessSummary(
            stacks=len(sets),
            stale=sum(1 for stale in sets if stale),
            facets=tuple(
                StaleCount(
                    facet=facet, stacks=count, restart=needs_restart(facet, edits_restart=edits_restart)
                )
                for facet, count in in_order
            ),
        )

    async def deleted_at(self, user_id: UserId) -> datetime | None:
        async with self._call("deleted_at"):
            removed = self.removed.get(user_id)
            return removed[1] if removed is not None else None

    async def changes_since(self, seq: int, *, limit: int) -> Sequence[StackChange]:
        async with self._call("changes_since"):
            if seq >= self._seq:
                return []
            changes = [
                StackChange(seq=row.stack.change_seq, user_id=user_id, stack=row.stack)
                for user_id, row in self.rows.items()
                if row.stack.change_seq > seq
            ]
            changes += [
                StackChange(seq=removed, user_id=user_id, stack=None)
                for user_id, (removed, _) in self.removed.items()
                if removed > seq
            ]
            return sorted(changes, key=lambda change: change.seq)[:limit]

    async def latest_change(self) -> int:
        async with self._call("latest_change"):
            return self._seq

    async def wait_for_change(self, timeout: float, *, after: int | None = None) -> None:
        if after is not None and self._seq > after:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._news.wait()

    # Operations and events

    async def get_operation(self, operation_id: OperationId) -> Operation | None:
        async with self._call("get_operation"):
            return self.operations.get(operation_id)

    async def prune_operations(self, finished_before: datetime) -> int:
        async with self._call("prune_operations"):
            kept = {row.stack.intent.last_operation for row in self.rows.values()}
            gone = [
                each.id
                for each in self.operations.values()
                if each.finished_at is not None and each.finished_at < finished_before and each.id not in kept
            ]
            for operation_id in gone:
                del self.operations[operation_id]
            self.removed = {u: (s, at) for u, (s, at) in self.removed.items() if at >= finished_before}
            return len(gone)

    async def append(self, events: Sequence[Event]) -> None:
        async with self._call("append"):
            self.events += events
            if events:
                self._announce()

    async def find_events(self, *, user_id: UserId | None, after: str | None, limit: int) -> Page[Event]:
        async with self._call("find_events"):
            start = 0
            if after is not None:
                known = [place for place, event in enumerate(self.events) if event.id == after]
                earlier = [place for place, event in enumerate(self.events) if event.id < after]
                start = known[0] + 1 if known else max(earlier, default=-1) + 1
            matching = [event for event in self.events[start:] if user_id in {None, event.user_id}]
        found = matching[:limit]
        return Page(items=found, next_cursor=found[-1].id if len(matching) > limit else None)

    async def latest_events(self, user_id: UserId, kind: str, *, limit: int) -> Sequence[Event]:
        async with self._call("latest_events"):
            matching = [
                each for each in reversed(self.events) if (each.user_id, each.kind) == (user_id, kind)
            ]
            return matching[:limit]

    async def prune_events(self, before: datetime) -> int:
        async with self._call("prune_events"):
            kept = [event for event in self.events if event.at >= before]
            pruned = len(self.events) - len(kept)
            self.events = kept
            return pruned

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

    # Conditions, orphans, marks

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
        return _page(matching, limit)

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
        return _page(matching, limit)

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

    # Tokens, releases, idempotency keys

    async def add_token(self, token: ServiceToken, event: Event | None = None) -> None:
        async with self._call("add_token"):
            self._tokens[token.id] = token
            self.events += [event] if event is not None else []
            self._announce()

    async def find_tokens(self, *, after: TokenId | None, limit: int) -> Page[ServiceToken]:
        async with self._call("find_tokens"):
            matching = [each for _, each in sorted(self._tokens.items()) if after is None or each.id > after]
        return _page(matching, limit)

    async def revoke_token(self, token_id: TokenId, at: datetime, event: Event | None = None) -> bool:
        async with self._call("revoke_token"):
            token = self._tokens.get(token_id)
            if token is None:
                return False
            if token.revoked_at is None:
                self._tokens[token_id] = replace(token, revoked_at=at)
                self.events += [event] if event is not None else []
            self._announce()
            return True

    async def active_tokens(self) -> Sequence[ServiceToken]:
        async with self._call("active_tokens"):
            return [token for _, token in sorted(self._tokens.items()) if token.revoked_at is None]

    async def get_release(self, release_id: ReleaseId) -> Release | None:
        async with self._call("get_release"):
            return self._releases.get(release_id)

    async def add_release(self, release: Release, event: Event | None = None) -> Release:
        async with self._call("add_release"):
            if release.id not in self._releases and event is not None:
                self.events.append(event)
            return self._releases.setdefault(
                release.id,
                replace(release, number=max((r.number for r in self._releases.values()), default=0) + 1),
            )

    async def find_releases(self, *, before: int | None, limit: int) -> Page[ReleaseInUse]:
        async with self._call("find_releases"):
            wanted = Counter(
                row.stack.intent.wanted_release
                for row in self.rows.values()
                if row.stack.intent.desired is not Desired.DELETED
            )
            found = sorted(
                (
                    ReleaseInUse(
                        release=each, is_current=each.id == self._current, stacks=wanted.get(each.id, 0)
                    )
                    for each in self._releases.values()
                    if before is None or each.number < before
                ),
                key=lambda each: -each.release.number,
            )
            more = str(found[limit - 1].release.number) if len(found) > limit else None
            return Page(items=found[:limit], next_cursor=more)

    async def current_release(self) -> Release | None:
        async with self._call("current_release"):
            return self._releases.get(self._current) if self._current is not None else None

    async def use_release(
        self,
        release_id: ReleaseId,
        *,
        event: Event | None = None,
        under: ClaimedRollout | None = None,
        of_settings: bool = False,
    ) -> None:
        async with self._call("use_release"):
            if release_id not in self._releases:
                raise ReleaseNotFound
            if under is not None:
                self.check_rollout_claim(under)
            elif (active := self.the_active()) is not None:
                raise RolloutActive(rollout=active.id)
            if of_settings:
                self._of_settings = release_id
            if self._current == release_id:
                return
            self._current = release_id
            if event is not None:
                self.events.append(event)
            self._announce()

    async def settings_release(self) -> ReleaseId | None:
        async with self._call("settings_release"):
            return self._of_settings

    async def find_groups(self) -> Sequence[Group]:
        async with self._call("find_groups"):
            return [group for _, group in sorted(self.groups.items())]

    async def get_group(self, name: str) -> Group | None:
        async with self._call("get_group"):
            return self.groups.get(name)

    async def put_group(
        self, group: Group, event: Event | None = None, *, before: Group | None = None
    ) -> bool:
        async with self._call("put_group"):
            if before not in {None, self.groups.get(group.name, Group(name=group.name))}:
                return False
            if group.pin is not None and group.pin not in self._releases:
                raise ReleaseNotFound
            self.groups[group.name] = group
            if event is not None:
                self.events.append(event)
            self._announce()
            return True

    async def put_snapshots(
        self,
        user_id: UserId,
        found: Sequence[Snapshot],
        *,
        observed_at: datetime,
        news: Callable[[Sequence[Snapshot]], Event | None],
    ) -> None:
        async with self._call("put_snapshots"):
            before = self.snapshots.get(user_id, SnapshotsSeen())
            is_newer = before.observed_at is None or before.observed_at <= observed_at
            if user_id in self.rows and is_newer:
                if (event := news(before.snapshots)) is not None:
                    self.events.append(event)
                ordered = tuple(sorted(found, key=lambda snapshot: snapshot.id))
                self.snapshots[user_id] = SnapshotsSeen(
                    snapshots=ordered, observed_at=observed_at if ordered else None
                )

    async def snapshots_of(self, user_id: UserId) -> SnapshotsSeen:
        async with self._call("snapshots_of"):
            return self.snapshots.get(user_id, SnapshotsSeen())

    async def begin(
        self, *, principal: str, route: str, key: str, request_hash: str, now: datetime, lapses_at: datetime
    ) -> IdempotentAnswer | None:
        async with self._call("begin"):
            known = self._keys.get((principal, route, key))
            if known is not None and known.lapses_at > now:
                if known.request_hash != request_hash:
                    raise IdempotencyMismatch
                if known.answer is None:
                    raise IdempotencyInFlight
                return known.answer
            self._keys[principal, route, key] = _Key(request_hash, lapses_at)
            return None

    async def finish(
        self, *, principal: str, route: str, key: str, answer: IdempotentAnswer, lapses_at: datetime
    ) -> None:
        async with self._call("finish"):
            known = self._keys.get((principal, route, key))
            if known is not None:
                known.answer, known.lapses_at = answer, lapses_at

    async def abandon(self, *, principal: str, route: str, key: str) -> None:
        async with self._call("abandon"):
            known = self._keys.get((principal, route, key))
            if known is not None and known.answer is None:
                del self._keys[principal, route, key]

    async def prune_keys(self, now: datetime) -> int:
        async with self._call("prune_keys"):
            gone = [this for this, key in self._keys.items() if key.lapses_at <= now]
            for this in gone:
                del self._keys[this]
            return len(gone)

    # Parts

    def _call(self, method: str) -> contextlib.AbstractAsyncContextManager[None]:
        self.statements += 1
        return self.faults.call(method, None)

    def _claimed(self, claimed: Claimed) -> _Row:
        row = self.rows.get(claimed.stack.user_id)
        if row is None or row.claim_token != claimed.token:
            raise ClaimLost
        return row

    def _unfinished(self, user_id: UserId) -> list[Operation]:
        return [
            each
            for each in self.operations.values()
            if each.user_id == user_id and not each.state.is_finished
        ]

    def _progress(
        self, operation: Operation, progress: Progress | None, outcome: OperationOutcome | None
    ) -> None:
        if progress is not None and progress.entered is not None:
            phases = (*operation.phases, progress.entered)
            operation = replace(operation, state=OperationState.RUNNING, phases=phases)
        if outcome is not None:
            operation = replace(
                operation,
                state=outcome.state,
                reason=outcome.reason,
                message=outcome.message,
                receipt=outcome.receipt,
                finished_at=self._clock(),
            )
        self.operations[operation.id] = operation

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _matches(query: StackQuery, stack: Stack) -> bool:
    status, intent = stack.status, stack.intent
    wanted = (
        (query.phase, status.phase),
        (query.health, status.health),
        (query.migration_state, status.migration_state),
        (query.release, status.release),
        (query.reason, status.reason),
        (query.group, intent.group),
    )
    is_stale = (
        query.stale is None
        or (isinstance(query.stale, bool) and query.stale is bool(status.stale))
        or (isinstance(query.stale, Facet) and query.stale in status.stale)
    )
    return (
        is_stale
        and all(asked is None or asked == value for asked, value in wanted)
        and all(intent.labels.get(name) == value for name, value in query.labels.items())
    )


def _page(matching, limit):
    found = matching[:limit]
    return Page(
        items=found, next_cursor=found[-1].id if limit is not None and len(matching) > limit else None
    )
