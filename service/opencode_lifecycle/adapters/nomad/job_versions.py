"""
Which version of its job an allocation runs, and which version a job is at, where Nomad does not say.

Job stubs in listings lack the version, and allocations in events lack their job. Both are facts that do not change: a
version belongs to a `JobModifyIndex`, and an allocation keeps its version until the scheduler gives it another.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.observation import AllocationSeen, JobSeen
from opencode_lifecycle.model.stack import Address

_MOST_ALLOCATIONS: Final = 50_000


class _Job(NamedTuple):
    modify_index: int
    version: int
    created: int | None


class _Allocation(NamedTuple):
    version: int
    address: Address | None


class JobVersions:
    """What was learnt of versions and addresses. Bounded: what is forgotten is asked again."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, _Job] = {}
        self._allocations: OrderedDict[AllocationId, _Allocation] = OrderedDict()

    def learn_job(self, job: JobSeen, *, created: int | None = None) -> None:
        known = self._jobs.get(job.job_id)
        if known is None or known.modify_index <= job.modify_index:
            created = created if created is not None or known is None else known.created
            self._jobs[job.job_id] = _Job(job.modify_index, job.version, created)

    def forget_job(self, job_id: JobId) -> None:
        self._jobs.pop(job_id, None)

    def of_job(self, job_id: JobId, modify_index: int) -> int | None:
        """Return the version that the job has at *modify_index*, or None when that was never learnt."""
        known = self._jobs.get(job_id)
        return known.version if known is not None and known.modify_index == modify_index else None

    def learn_allocation(self, allocation: AllocationSeen) -> None:
        known = self._allocations.get(allocation.id)
        address = allocation.address or (known.address if known else None)
        self._allocations[allocation.id] = _Allocation(allocation.job_version, address)
        self._allocations.move_to_end(allocation.id)
        if len(self._allocations) > _MOST_ALLOCATIONS:
            self._allocations.popitem(last=False)

    def address_of(self, allocation_id: AllocationId) -> Address | None:
        known = self._allocations.get(allocation_id)
        return known.address if known is not None else None

    def of_allocation(self, job_id: JobId, allocation: Mapping[str, Any], *, placed: bool) -> int | None:
        """
        Return the version that an allocation of an event runs, or None when it has to be asked.

        A job that is at its first version leaves no choice. Otherwise what was learnt holds, unless the event is the
        scheduler's (*placed*), which may have given the allocation another version.
        """
        job = self._jobs.get(job_id)
        created = allocation.get("CreateIndex")
        if job is not None and job.version == 0 and job.created is not None and isinstance(created, int):
            return 0 if created > job.created else self._learnt(allocation)
        return None if placed else self._learnt(allocation)

    def _learnt(self, allocation: Mapping[str, Any]) -> int | None:
        known = self._allocations.get(AllocationId(str(allocation.get("ID"))))
        return known.version if known is not None else None
