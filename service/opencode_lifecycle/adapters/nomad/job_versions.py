"""
What was learnt of jobs, evaluations and allocations, so that what did not change is not read again.

Job stubs in listings lack the version, and allocations in events lack their job. Both are facts that do not change: a
version belongs to a `JobModifyIndex`, and an allocation keeps its version until the scheduler gives it another. And
whatever changes an allocation gives it another `ModifyIndex`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.observation import AllocationSeen, JobSeen
from opencode_lifecycle.model.stack import Address


class JobVersions:
    """
    The last that was seen of each job and allocation. What is forgotten is asked again.

    It is bounded by what Nomad has: after a listing, what that does not name is forgotten.
    """

    def __init__(self) -> None:
        self._jobs: dict[JobId, JobSeen] = {}
        self._created: dict[JobId, int] = {}
        """At which index a job was made, for those whose making was told."""
        self._evaluations: dict[JobId, tuple[str, int]] = {}
        """The newest evaluation of each job, and the `JobModifyIndex` of the job that it is of."""
        self._allocations: dict[AllocationId, AllocationSeen] = {}

    # --- jobs

    def learn_job(self, job: JobSeen, *, created: int | None = None) -> None:
        known = self._jobs.get(job.job_id)
        if known is None or known.modify_index <= job.modify_index:
            self._jobs[job.job_id] = job
            if created is not None:
                self._created[job.job_id] = created

    def forget_job(self, job_id: JobId) -> None:
        for facts in (self._jobs, self._created, self._evaluations):
            facts.pop(job_id, None)

    def learn_evaluation(self, job_id: JobId, evaluation_id: str, job_modify_index: int) -> None:
        self._evaluations[job_id] = evaluation_id, job_modify_index

    def job_at(self, job_id: JobId, modify_index: int) -> JobSeen | None:
        """Return the job as it is at *modify_index*, or None when that was never learnt."""
        known = self._jobs.get(job_id)
        return known if known is not None and known.modify_index == modify_index else None

    # --- allocations

    @property
    def knows_allocations(self) -> bool:
        return bool(self._allocations)

    def learn_allocation(self, allocation: AllocationSeen) -> None:
        self._allocations[allocation.id] = allocation

    def allocation(self, allocation_id: AllocationId) -> AllocationSeen | None:
        """Return what was seen of the allocation last."""
        return self._allocations.get(allocation_id)

    def address_of(self, allocation_id: AllocationId) -> Address | None:
        known = self._allocations.get(allocation_id)
        return known.address if known is not None else None

    def of_allocation(self, job_id: JobId, allocation: Mapping[str, Any], *, placed: bool) -> int | None:
        """
        Return the version that an allocation of an event runs, or None when it has to be asked.

        A job that is at its first version leaves no choice. What was learnt holds, unless the scheduler (*placed*) has
        just made the allocation, or may have given it another version in place:

        1. We register version 3 of the job. Its evaluation names the index of that.
        2. The scheduler plans that evaluation, with the job as it is by then, and makes an allocation.
        3. Nobody has registered since, or the stream would have said so before: it runs version 3.
        """
        job, made = self._jobs.get(job_id), self._created.get(job_id)
        created = allocation.get("CreateIndex")
        if job is not None and job.version == 0 and made is not None and isinstance(created, int):
            return 0 if created > made else self._learnt(allocation)
        if not placed or allocation.get("DesiredStatus") != "run":
            return self._learnt(allocation)
        is_new = created is not None and created == allocation.get("ModifyIndex")
        planned = str(allocation.get("EvalID")), job.modify_index if job is not None else None
        return (
            job.version if job is not None and is_new and planned == self._evaluations.get(job_id) else None
        )

    def _learnt(self, allocation: Mapping[str, Any]) -> int | None:
        known = self._allocations.get(AllocationId(str(allocation.get("ID"))))
        return known.job_version if known is not None else None

    # --- what there is no more

    def keep_jobs(self, listed: Collection[JobId], index: int) -> None:
        """Forget jobs that a listing as of *index* does not name, but for those that are younger."""
        gone = [
            job_id
            for job_id, known in self._jobs.items()
            if job_id not in listed and known.modify_index <= index
        ]
        for job_id in gone:
            self.forget_job(job_id)

    def keep_allocations(self, listed: Collection[AllocationId], index: int) -> None:
        """Forget allocations that a listing as of *index* does not name, but for those that are younger."""
        for allocation_id in [
            each.id
            for each in self._allocations.values()
            if each.id not in listed and each.create_index <= index
        ]:
            del self._allocations[allocation_id]

    def forget_everything(self) -> None:
        """Begin anew: Nomad went back in time, and what an index stood for it may not stand for any more."""
        self._jobs.clear()
        self._created.clear()
        self._evaluations.clear()
        self._allocations.clear()
