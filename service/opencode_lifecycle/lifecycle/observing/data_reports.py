"""What entrypoints report of the data that their versions started on: read where they left word of it, and remembered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamNonsense, UpstreamRejected
from opencode_lifecycle.model.identifiers import AllocationId, new_event_id
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.snapshot import REPORT_BYTES, REPORT_PATH, DataReport, Snapshot, report_of
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.ports.orchestrator import Orchestrator
from opencode_lifecycle.ports.stores import SnapshotStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A report as it was read *at* that moment."""

    report: DataReport
    at: datetime


class DataReports:
    """
    What is read may have been written by the agent: it may be shown, and be the name of a snapshot that is to be restored,
    which the entrypoint checks again. Nothing may be deleted by it.

    None always means that there is provably no report. That none can be read is an error: unknown is not absent.
    """

    def __init__(
        self,
        *,
        store: SnapshotStore,
        orchestrator: Orchestrator,
        fleet: Fleet,
        now: Clock,
        upstream_timeout: timedelta,
    ) -> None:
        self._store = store
        self._orchestrator = orchestrator
        self._fleet = fleet
        self._now = now
        self._upstream_timeout = upstream_timeout.total_seconds()

    async def look(self, stack: Stack, allocation_id: AllocationId | None = None) -> Looked | None:
        """
        Read what the entrypoint of the allocation, the stack's newest when none is named, reported; remember its snapshots,
        and tell the history what of them is news, whoever looks.

        Raises `UpstreamError` or `DeadlineExceeded` when it cannot be seen whether there is a report.
        """
        seen_at = self._now()
        report = await self._read(stack, allocation_id or self._newest_of(stack))
        if report is None:
            return None
        stored = await self._store.snapshots_of(stack.user_id)
        if stored.snapshots != report.snapshots:
            await self._store.put_snapshots(
                stack.user_id,
                report.snapshots,
                observed_at=seen_at,
                news=partial(_news, stack, report, seen_at),
            )
        return Looked(report=report, at=seen_at)

    async def before(self, stack: Stack, version: str, other: str) -> str:
        """
        Return the id of the latest snapshot of the data of *version* that was taken before *other* started on it.

        Empty when there is none that is known: what lies there is as good then. Raises as `look` does.
        """
        found = [each for each in await self._of(stack, version) if each.before_version == other]
        # One that was restored lies there already, and is not restored twice.
        return max((each.id for each in found if each.restored_at is None), default="")

    async def newest_of(self, stack: Stack, version: str) -> str:
        """Return the id of the latest snapshot of the data of *version*, empty when none is known. Raises as `look` does."""
        return next(iter(await self.ids_of(stack, version)), "")

    async def ids_of(self, stack: Stack, version: str) -> Sequence[str]:
        """Return the ids of the snapshots that are known of the data of *version*, the latest first. Raises as `look` does."""
        return sorted((each.id for each in await self._of(stack, version)), reverse=True)

    async def _of(self, stack: Stack, version: str) -> list[Snapshot]:
        looked = await self.look(stack)
        known = looked.report if looked is not None else await self._store.snapshots_of(stack.user_id)
        return [snapshot for snapshot in known.snapshots if snapshot.opencode_version == version]

    async def _read(self, stack: Stack, allocation_id: AllocationId | None) -> DataReport | None:
        if allocation_id is None:
            return None
        deadline = Deadline.after(self._upstream_timeout, f"read what became of the data of {stack.job_id}")
        try:
            body = await self._orchestrator.read_file(
                allocation_id, REPORT_PATH, limit=REPORT_BYTES, deadline=deadline
            )
        except (UpstreamNonsense, UpstreamRejected) as error:
            # What is too large, or no file, is the agent's doing, and no report.
            log.warning("no report of the data", job_id=stack.job_id, error=error.message)
            return None
        return report_of(body) if body is not None else None

    def _newest_of(self, stack: Stack) -> AllocationId | None:
        seen = self._fleet.latest(stack.job_id)
        if seen is not None and seen.newest is not None:
            return seen.newest.id
        return stack.status.runtime.allocation_id if stack.status.runtime is not None else None


def _news(stack: Stack, report: DataReport, at: datetime, before: Sequence[Snapshot]) -> Event | None:
    """Return the event of what became of the snapshots since they were last seen; None where they are as they were."""
    if tuple(before) == report.snapshots:
        return None
    known, now = ({each.id: each for each in snapshots} for snapshots in (before, report.snapshots))
    restored = next((each for each in report.snapshots if each.restored_at is not None), None)
    was_restored = (
        restored is not None and known.get(restored.id, restored) == restored and restored.id in known
    )
    return Event(
        id=new_event_id(),
        user_id=stack.user_id,
        kind="stack.snapshots",
        actor="service",
        at=at,
        generation=stack.intent.generation,
        data={
            "opencode_version": report.version,
            "taken": [id_ for id_ in now if id_ not in known],
            "pruned": [id_ for id_ in known if id_ not in now],
            "restored": restored.id if restored is not None and not was_restored else None,
        },
    )
