"""Snapshots of what a runtime keeps: read where its entrypoint left word of them, and remembered."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError
from opencode_lifecycle.model.identifiers import AllocationId, UserId
from opencode_lifecycle.model.snapshot import REPORT_BYTES, REPORT_PATH, DataReport, SnapshotsSeen, report_of
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.ports.orchestrator import Orchestrator
from opencode_lifecycle.ports.stores import SnapshotStore


class Snapshots:
    def __init__(
        self,
        *,
        store: SnapshotStore,
        orchestrator: Orchestrator,
        fleet: Fleet,
        known: Callable[[UserId], Awaitable[Known]],
        now: Clock,
        upstream_timeout: timedelta,
    ) -> None:
        self._store = store
        self._orchestrator = orchestrator
        self._fleet = fleet
        self._known = known
        self._now = now
        self._upstream_timeout = upstream_timeout.total_seconds()

    async def of(self, user_id: UserId) -> SnapshotsSeen:
        """
        Return the snapshots of the stack's data as its newest allocation has them, or as they were last seen.

        Raises `StackNotFound`.
        """
        stack = (await self._known(user_id)).stack
        seen_at = self._now()
        report = await self.look(stack, seen_at)
        if report is None:
            return await self._store.snapshots_of(user_id)
        return SnapshotsSeen(snapshots=report.snapshots, observed_at=seen_at, refused=report.refused)

    async def look(self, stack: Stack, seen_at: datetime) -> DataReport | None:
        """
        Read what the entrypoint of the stack's newest allocation reported, and remember its snapshots as of *seen_at*.

        None when there is no allocation, its entrypoint has not reported, or that cannot be seen. What is read may have
        been written by the agent: it may be shown, and be the name of a snapshot that is to be restored, which the
        entrypoint checks again. Nothing may be deleted by it.
        """
        allocation_id = self._allocation_of(stack)
        if allocation_id is None:
            return None
        deadline = Deadline.after(self._upstream_timeout, f"read what became of the data of {stack.job_id}")
        try:
            body = await self._orchestrator.read_file(
                allocation_id, REPORT_PATH, limit=REPORT_BYTES, deadline=deadline
            )
        except (UpstreamError, DeadlineExceeded):
            return None
        report = report_of(body) if body is not None else None
        if report is not None:
            stored = await self._store.snapshots_of(stack.user_id)
            if stored.snapshots != report.snapshots:
                await self._store.put_snapshots(stack.user_id, report.snapshots, observed_at=seen_at)
        return report

    async def before(self, stack: Stack, version: str, other: str) -> str:
        """
        Return the id of the latest snapshot of the data of *version* that was taken before *other* started on it.

        Empty when there is none that is known: what lies there is as good then.
        """
        report = await self.look(stack, self._now())
        known = report or await self._store.snapshots_of(stack.user_id)
        fitting = [
            snapshot.id
            for snapshot in known.snapshots
            # One that was restored lies there already, and is not restored twice.
            if (snapshot.opencode_version, snapshot.before_version) == (version, other)
            and snapshot.restored_at is None
        ]
        return max(fitting, default="")

    def _allocation_of(self, stack: Stack) -> AllocationId | None:
        seen = self._fleet.latest(stack.job_id)
        if seen is not None and seen.newest is not None:
            return seen.newest.id
        return stack.status.runtime.allocation_id if stack.status.runtime is not None else None
