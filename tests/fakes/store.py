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
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime

from fakes.access import FakeAccess
from fakes.faults import Faults
from fakes.findings import FakeFindings
from fakes.releases import FakeReleases
from fakes.rollouts import FakeRollouts
from fakes.store_rows import AT_ONCE, Row
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import Busy, ClaimLost, StackNotFound
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import OperationId, UserId
from opencode_lifecycle.model.lease import is_leased, leased
from opencode_lifecycle.model.operation import Event, Operation, OperationKind, OperationState
from opencode_lifecycle.model.stack import KeptWorkspace, Stack, Status
from opencode_lifecycle.model.staleness import StaleCount, StalenessSummary, needs_restart
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.rollouts import ClaimedRollout
from opencode_lifecycle.ports.stores import (
    Claimed,
    Decision,
    Due,
    OperationOutcome,
    Progress,
    Situation,
    StackChange,
    StackQuery,
)


class FakeStore(FakeRollouts, FakeReleases, FakeFindings, FakeAccess):
    """All stores. `statements` counts what would have been asked of a database."""

    def __init__(self, *, clock: Clock = utc_now) -> None:
        super().__init__()
        self.faults = Faults()
        self.rows: dict[UserId, Row] = {}
        self.removed: dict[UserId, tuple[int, datetime]] = {}
        self.workspaces: dict[UserId, KeptWorkspace] = {}
        self.operations: dict[OperationId, Operation] = {}
        self.events: list[Event] = []
        self.statements = 0
        self._clock = clock
        self._seq = 0
        self._claims = itertools.count(1)
        self._waiting: dict[asyncio.Future[None], None] = {}

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
            row = self.rows[stack.user_id] = Row(stack, AT_ONCE if wake else None)
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
                self.rows[user_id] = Row(replace(successor, change_seq=seq), AT_ONCE)
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

    async def removed_users(self) -> Collection[UserId]:
        async with self._call("removed_users"):
            return list(self.removed)

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
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        self._waiting[told] = None
        alarm = loop.call_later(timeout, _tell, told)
        try:
            await told
        finally:
            alarm.cancel()
            self._waiting.pop(told, None)

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

    # Parts

    def _call(self, method: str) -> contextlib.AbstractAsyncContextManager[None]:
        self.statements += 1
        return self.faults.call(method, None)

    def _claimed(self, claimed: Claimed) -> Row:
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
        waiting, self._waiting = self._waiting, {}
        for told in waiting:
            _tell(told)


def _tell(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)


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
