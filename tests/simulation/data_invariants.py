"""
What must hold of the data in workspaces (I13).

No version ever starts on data that has had more migrations than it knows · nothing that a user wrote is given up but by an
order that says so · each snapshot that an entrypoint has taken is in the history once. One that the first start of a stack
takes, on a workspace that an earlier one has left, may come there later: at the next change, or when somebody asks.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opencode_lifecycle.model.identifiers import JobId, UserId
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Phase
from simulation.cluster import Cluster
from simulation.data import MIGRATIONS, Start

if TYPE_CHECKING:
    from datetime import datetime

_CALLED_OFF = 20.0
"""Seconds after which nobody registers any more by an order that was called off."""


class DataWatch:
    """Looks at every start of a version, and at what was ordered for it."""

    def __init__(self, cluster: Cluster, violate: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._violate = violate
        self._given_up: set[tuple[JobId, str]] = set()
        """What jobs were registered with by an order to give up what was written since, until it is restored."""
        self._called_off: dict[UserId, float] = {}
        self._started: dict[JobId, datetime] = {}
        """By job, the stack whose version started last, by when it was made."""
        self._left: set[str] = set()
        """Snapshots that there were after the first start of a stack."""
        cluster.on_start = self._check_start

    def intent_moved(self, before: Stack, after: Stack) -> None:
        order = before.standing_order
        if order is not None and order.restore and after.intent.order != before.intent.order:
            self._called_off[after.user_id] = self._cluster.loop.time()

    def note_registration(self, job: Any, row: Any) -> None:
        named = job.specification["Variables"].get("restore_snapshot")
        if not named or row is None:
            return
        order, user = row.stack.standing_order, row.stack.user_id
        was_asked = self._cluster.loop.time() - self._called_off.get(user, -1e9) < _CALLED_OFF
        if was_asked or (order is not None and order.restore):
            self._given_up.add((job.job_id, named))

    def _check_start(self, job_id: JobId, version: str, named: str, start: Start) -> None:
        if start.found.migrations > MIGRATIONS[version]:
            self._violate(f"I13: {version} of {job_id} starts on data of a newer version")
        lost = start.before.of_users - start.found.of_users
        if lost and (job_id, named) not in self._given_up:
            by = f"snapshot {named}, which nobody asked for" if named else "a restore that no job names"
            self._violate(f"I13: what a user of {job_id} wrote is lost by {by}")
        if start.found is not start.before:
            self._given_up.discard((job_id, named))
        made = [
            row.stack.created_at for row in self._cluster.store.rows.values() if row.stack.job_id == job_id
        ]
        if made and self._started.get(job_id) != made[0]:
            self._started[job_id] = made[0]
            self._left.update(receipt["id"] for receipt in start.report["snapshots"])

    # --- at rest

    def check_rest(self) -> None:
        told: dict[UserId, Counter[str]] = {}
        for event in self._cluster.store.events:
            if event.kind == "stack.snapshots" and event.user_id is not None:
                told.setdefault(event.user_id, Counter()).update(event.data["taken"])
        for user, counts in told.items():
            twice = [snapshot for snapshot, count in counts.items() if count > 1]
            if twice:
                self._violate(f"I13: {', '.join(twice)} of {user} was taken once, and is told twice")
        for user, row in self._cluster.store.rows.items():
            if row.stack.status.phase is Phase.RUNNING:
                self._check_receipts(user, row.stack.job_id, told.get(user, Counter()))

    def _check_receipts(self, user: UserId, job_id: JobId, told: Counter[str]) -> None:
        cluster = self._cluster
        volume = cluster.nomad.workspaces.volumes.get(job_id)
        disk = cluster.data.of(volume.volume_id) if volume is not None else None
        for snapshot in disk.kept() if disk is not None else ():
            taken_at = cluster.data.taken_at[snapshot]
            # While calls fail a report may not be readable for so long that nobody asks any more.
            could_be_read = max(cluster.troubled_at, cluster.restored_at) < taken_at
            if could_be_read and snapshot not in told and snapshot not in self._left:
                self._violate(
                    f"I13: snapshot {snapshot} of {user} was taken, and the history does not say so"
                )
