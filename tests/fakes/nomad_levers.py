"""What a test does to the Nomad in memory: everything that happens to a cluster without the service."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fakes.faults import Faults
from fakes.nomad_jobs import KeptJob
from fakes.nomad_storage import FakeClusterMark, FakeLiveFiles, FakeWorkspaces
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import (
    ABSENT,
    AllocationSeen,
    ClientStatus,
    JobSeen,
    Observation,
    TaskTrouble,
)
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.orchestrator import JobChanged

Hides = Literal["both", "jobs", "allocations"]
"""Of what listings leave out, which of the two."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What Nomad's servers knew at one moment."""

    index: int
    jobs: Mapping[JobId, KeptJob]
    allocations: Mapping[JobId, list[AllocationSeen]]


class Levers:
    """The part of `FakeNomad` that a test acts on. What follows from it the cluster does by itself."""

    jobs: dict[JobId, KeptJob]
    allocations: dict[JobId, list[AllocationSeen]]
    index: int
    faults: Faults
    workspaces: FakeWorkspaces
    live_files: FakeLiveFiles
    cluster_mark: FakeClusterMark
    _behind: Snapshot | None

    def go_down(self) -> None:
        """Refuse every call of all three ports, and end the event streams."""
        for faults in self._all_faults():
            faults.fail_next("*", UpstreamUnavailable("nomad", "call", "connection refused"), times=None)
        self.drop_streams()

    def come_up(self) -> None:
        """Take calls again. Faults scripted before are forgotten."""
        for faults in self._all_faults():
            faults.heal()

    def _all_faults(self) -> tuple[Faults, ...]:
        stores = (self.workspaces, self.live_files, self.cluster_mark)
        return (self.faults, *(store.faults for store in stores))

    def hide_from_listings(self, *job_ids: JobId, what: Hides = "both") -> None:
        """
        Let listings leave these out, or everything, while a direct read still tells the truth.

        Jobs and allocations are listed by two calls, so either can be missing where the other is shown.
        """
        self._hidden = set(job_ids) if job_ids else {*self.jobs, *self.allocations}
        self._hides = what

    def show_in_listings(self) -> None:
        self._hidden = None

    def _listed(self, job_id: JobId, read: "Snapshot | Levers") -> Observation | None:
        """Return what a listing of *read* shows of the job; None when it does not name it."""
        whole = self._observation(job_id, read)
        if self._hidden is None or job_id not in self._hidden:
            return whole
        if self._hides == "jobs" and whole.allocations:
            return replace(whole, job=ABSENT, placement_failure=None)
        if self._hides == "allocations" and isinstance(whole.job, JobSeen):
            return replace(whole, allocations=())
        return None

    def list_stale(self) -> None:
        """
        Answer listings from what is so now, with its index, whatever happens later, until `list_fresh`: a server that is
        behind does, or a cache on the way. A direct read is answered by the leader.
        """
        self._behind = self.snapshot()

    def list_fresh(self) -> None:
        self._behind = None

    def snapshot(self) -> "Snapshot":
        """Save what `operator snapshot save` would."""
        return Snapshot(
            index=self.index,
            jobs={name: replace(job) for name, job in self.jobs.items()},
            allocations={name: list(each) for name, each in self.allocations.items()},
        )

    def restore(self, snapshot: "Snapshot") -> None:
        """Go back to *snapshot*, as after `operator snapshot restore`: the index goes back, too."""
        self._behind = None
        self.index = snapshot.index
        self.jobs = {name: replace(job) for name, job in snapshot.jobs.items()}
        self.allocations = {name: list(each) for name, each in snapshot.allocations.items()}
        if self.on_change is not None:
            self.on_change()
        self.drop_streams()

    def become_another_cluster(self) -> None:
        """Be one in which nothing of ours ever was, at the same address."""
        self._behind = None
        self.index = 10
        self.jobs, self.allocations = {}, {}
        self.cluster_mark.marks = {}
        self.workspaces.volumes, self.live_files.pointers = {}, {}
        self.drop_streams()

    def drop_streams(self) -> None:
        """End every open event stream, as a restarted server does."""
        followers, self._followers = self._followers, []
        for follower in followers:
            follower.put_nowait(None)

    def refuse_placement(self, sentence: str, job_id: JobId | None = None) -> None:
        """Let the scheduler place nothing (of *job_id*, or at all) and say *sentence*, until `allow_placement`."""
        self._refusals[job_id] = sentence
        for known in [job_id] if job_id is not None else list(self.jobs):
            if known in self.jobs and not self._live(known):
                self._say_placement(known, sentence)

    def allow_placement(self, job_id: JobId | None = None) -> None:
        self._refusals.pop(job_id, None)
        self._place_what_waits()

    def _place_what_waits(self) -> None:
        for known, job in self.jobs.items():
            if known in self._placement and not job.seen.stopped:
                self._schedule(known)

    def run_allocation(self, job_id: JobId, *, address: Address | None = None) -> AllocationSeen:
        """Let the pending allocation of the job run on *address*, or on one of ours."""
        return self._update(
            self._one_live(job_id),
            job_id,
            client_status=ClientStatus.RUNNING,
            address=address or Address(host="127.0.0.1", port=next(self._ports)),
            started_at=self._now(),
        )

    def run_allocation_of(self, job_id: JobId, allocation: AllocationSeen) -> AllocationSeen:
        """Let this very allocation run, whatever else of its job lives."""
        return self._update(
            allocation,
            job_id,
            client_status=ClientStatus.RUNNING,
            address=Address(host="127.0.0.1", port=next(self._ports)),
            started_at=self._now(),
        )

    def fail_allocation(
        self, job_id: JobId, trouble: TaskTrouble, message: str, *, reschedule: bool = True
    ) -> AllocationSeen:
        """Let the live allocation fail for good. Nomad then makes a new one, unless *reschedule* is false."""
        failed = self._update(
            self._one_live(job_id),
            job_id,
            client_status=ClientStatus.FAILED,
            trouble=trouble,
            trouble_message=message,
        )
        if reschedule and job_id in self.jobs and not self.jobs[job_id].seen.stopped:
            self._schedule(job_id, autorun=False)
        return failed

    def trouble_allocation(self, job_id: JobId, trouble: TaskTrouble, message: str) -> AllocationSeen:
        """Let the live allocation report trouble and stay as it is, as one that waits for its secret does."""
        return self._update(self._one_live(job_id), job_id, trouble=trouble, trouble_message=message)

    def restart_task(self, job_id: JobId) -> AllocationSeen:
        allocation = self._one_live(job_id)
        return self._update(
            allocation,
            job_id,
            restarts=allocation.restarts + 1,
            started_at=self._now(),
            trouble=None,
            trouble_message="",
        )

    def end_allocation(self, job_id: JobId) -> AllocationSeen:
        """Let the live allocation end, as a client does after the stop, or a task that exits with 0."""
        return self._update(self._one_live(job_id), job_id, client_status=ClientStatus.COMPLETE)

    def deliver(self, job_id: JobId) -> None:
        """Let the templates of the running task render what the pointer names now, also those that are deaf."""
        for allocation in self._live(job_id):
            if allocation.client_status is ClientStatus.RUNNING:
                self._render_files(job_id, allocation.id)

    def edit_outside(self, job_id: JobId, **meta: str) -> None:
        """Register the job with other meta, as an operator does with the nomad command."""
        job = self.jobs[job_id]
        self._put_job(job_id, job, {**job.seen.meta, **meta}, job.specification)
        self._schedule(job_id)

    def change_outside(self, job_id: JobId, **variables: Any) -> None:
        """Register the job with other values of its template's variables, as an operator does in the web UI."""
        job = self.jobs[job_id]
        values = {**job.specification["Variables"], **variables}
        self._put_job(job_id, job, job.seen.meta, {**job.specification, "Variables": values})
        self._schedule(job_id)

    def purge_outside(self, job_id: JobId) -> None:
        """Do what an operator's `nomad job stop -purge` does."""
        self._stop_allocations(job_id)
        del self.jobs[job_id]
        self._tell(JobChanged(index=self._next_index(), job_id=job_id, job=None))
        self._forget_ended(job_id)

    def plant_job(self, job_id: JobId, **meta: str) -> None:
        """Put a job there that we did not register; without meta it is a foreign one."""
        self._put_job(job_id, None, meta, {"ID": job_id, "Meta": meta})
        self._schedule(job_id)

    def collect_garbage(self) -> None:
        """Forget terminal allocations and stopped jobs, as Nomad does after hours."""
        for job_id, allocations in list(self.allocations.items()):
            self.allocations[job_id] = [a for a in allocations if not a.client_status.is_terminal]
            if not self.allocations[job_id]:
                del self.allocations[job_id]
        for job_id, job in list(self.jobs.items()):
            if job.seen.stopped and job_id not in self.allocations:
                del self.jobs[job_id]
                self._tell(JobChanged(index=self._next_index(), job_id=job_id, job=None))
