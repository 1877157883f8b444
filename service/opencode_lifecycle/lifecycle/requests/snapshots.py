"""Snapshots of what a runtime keeps: as its entrypoint reports them, or as they were last seen."""

from collections.abc import Awaitable, Callable

from opencode_lifecycle.lifecycle.observing.data_reports import DataReports
from opencode_lifecycle.lifecycle.observing.fleet import Known
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.snapshot import SnapshotsSeen
from opencode_lifecycle.ports.stores import SnapshotStore


class Snapshots:
    def __init__(
        self,
        *,
        store: SnapshotStore,
        reports: DataReports,
        known: Callable[[UserId], Awaitable[Known]],
    ) -> None:
        self._store = store
        self._reports = reports
        self._known = known

    async def of(self, user_id: UserId) -> SnapshotsSeen:
        """
        Return the snapshots of the stack's data as its newest allocation has them, or as they were last seen.

        Raises `StackNotFound`.
        """
        stack = (await self._known(user_id)).stack
        try:
            looked = await self._reports.look(stack)
        except (UpstreamError, DeadlineExceeded):
            looked = None
        if looked is None:
            return await self._store.snapshots_of(user_id)
        report = looked.report
        return SnapshotsSeen(snapshots=report.snapshots, observed_at=looked.at, refused=report.refused)
