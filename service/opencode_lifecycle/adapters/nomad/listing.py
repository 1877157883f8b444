"""
The whole namespace, page by page.

Most of it is as it was at the last listing, and most of what Nomad could say of an allocation is the history of its
tasks. So allocations are listed without that; what is known at the same `ModifyIndex` is taken as it is, and only the
rest is read whole. A page is forgotten before the next one is read.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final, TypeVar

from opencode_lifecycle.adapters.nomad.connection import SYSTEM, NomadConnection, Query, path_of
from opencode_lifecycle.adapters.nomad.event_stream import PREFIX
from opencode_lifecycle.adapters.nomad.job_versions import JobVersions
from opencode_lifecycle.adapters.nomad.placement import placement_failure
from opencode_lifecycle.adapters.nomad.reading import (
    allocation_seen,
    job_seen,
    mapping,
    newest_first,
    number,
    text,
)
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamNonsense
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.observation import ABSENT, AllocationSeen, Blind, JobSeen, Observation
from opencode_lifecycle.ports.orchestrator import Listing

OPERATION: Final = "list all"
_LARGEST_PAGE_OF_WHOLE: Final = 500
"""Allocations with the history of their tasks: up to 8 KiB each."""
_FEW: Final = 32
"""So many jobs or allocations that are not known are read one by one; when there are more, all are listed."""
_AT_ONCE: Final = 8
_UNKNOWN_VERSION: Final = -1
"""Of a job in a stub, until it is learnt. It never leaves this module."""

_Stubs = list[tuple[JobId, AllocationId, AllocationSeen | None]]
Item = TypeVar("Item")
Found = TypeVar("Found")


class FleetListing:
    """Reads jobs, then allocations, then evaluations that wait for room."""

    def __init__(
        self, *, connection: NomadConnection, versions: JobVersions, page_size: int, now: Clock
    ) -> None:
        self._connection = connection
        self._versions = versions
        self._page_size = page_size
        self._now = now
        self._jobs_index = 0
        self._allocations_index = 0

    async def read(self, deadline: Deadline) -> Listing:
        """
        Return everything, complete as of the smallest index of the pages of jobs.

        The rest is read after them, so it shows at least what was there at that index. The smallest index of *all* pages
        would be wrong in an idle cluster, where no allocation has changed since the last write to a job.
        """
        observed_at = self._now()
        jobs, index = await self._jobs(deadline)
        allocations = await self._allocations(deadline)
        failures = await self._failures(deadline)
        stacks = {}
        for job_id in sorted(jobs.keys() | allocations.keys()):
            job: JobSeen | Blind = jobs.get(job_id, ABSENT)
            failure = failures.get(job_id) if failures else None
            waits = failure is not None and isinstance(job, JobSeen) and not job.stopped
            stacks[job_id] = Observation(
                job=job,
                allocations=newest_first(allocations.get(job_id, ())),
                placement_failure=failure if waits else None,
                index=index,
                observed_at=observed_at,
            )
        return Listing(index=index, observed_at=observed_at, stacks=stacks)

    def _check_order(self, before: int, index: int) -> None:
        """Forget everything when *index* lies before the one of the last listing: Nomad was restored from a snapshot."""
        if index < before:
            self._versions.forget_everything()

    # --- jobs

    async def _jobs(self, deadline: Deadline) -> tuple[dict[JobId, JobSeen], int]:
        jobs: dict[JobId, JobSeen] = {}
        unknown: dict[JobId, tuple[JobSeen, Any]] = {}
        lowest: int | None = None
        query: Query = {"prefix": PREFIX, "meta": True}
        pages = self._connection.each_page(
            OPERATION, path_of("jobs"), query, page_size=self._page_size, deadline=deadline
        )
        async for page in pages:
            if lowest is None:
                self._check_order(self._jobs_index, page.index)
            lowest = page.index if lowest is None else min(lowest, page.index)
            for each in page.body:
                stub = mapping(OPERATION, each)
                job_id = JobId(text(OPERATION, stub, "ID"))
                known = self._versions.job_at(job_id, number(OPERATION, stub, "JobModifyIndex"))
                if known is not None and known.stopped is stub.get("Stop"):
                    jobs[known.job_id] = known
                else:
                    # Of a stub only this is kept: at a start all are unknown.
                    seen = job_seen(OPERATION, stub, version=_UNKNOWN_VERSION)
                    unknown[seen.job_id] = (seen, stub.get("SubmitTime"))
        if len(unknown) > _FEW:
            await self._learn_versions(unknown, deadline)
        stubs = [seen for seen, _ in unknown.values()]
        for job in await _each(stubs, lambda seen: self._job(seen, deadline)):
            if job is not None:
                jobs[job.job_id] = job
        assert lowest is not None, "a listing has at least one page"
        self._jobs_index = lowest
        self._versions.keep_jobs(jobs, lowest)
        return jobs, lowest

    async def _learn_versions(self, unknown: Mapping[JobId, tuple[JobSeen, Any]], deadline: Deadline) -> None:
        """
        Learn the versions that stubs lack from the listing that Nomad's web UI uses, which has them.

        It is another read, so a job may have changed in between: only one that was submitted at the same nanosecond is
        the one of the stub.
        """
        pages = self._connection.each_page(
            OPERATION, path_of("jobs", "statuses"), {}, page_size=self._page_size, deadline=deadline
        )
        async for page in pages:
            for each in page.body:
                other = mapping(OPERATION, each)
                seen, submitted = unknown.get(JobId(text(OPERATION, other, "ID")), (None, None))
                if seen is not None and other.get("SubmitTime") == submitted:
                    version = number(OPERATION, other, "Version")
                    self._versions.learn_job(replace(seen, version=version))

    async def _job(self, stub: JobSeen, deadline: Deadline) -> JobSeen | None:
        known = self._versions.job_at(stub.job_id, stub.modify_index)
        if known is not None and known.stopped is stub.stopped:
            return known
        answer = await self._connection.get(OPERATION, path_of("job", stub.job_id), deadline=deadline)
        if not answer.found:
            return None
        job = job_seen(OPERATION, answer.body)
        self._versions.learn_job(job)
        return job

    # --- allocations

    async def _allocations(self, deadline: Deadline) -> dict[JobId, list[AllocationSeen]]:
        if not self._versions.knows_allocations:
            return await self._all_whole(deadline)
        stubs, index = await self._stubs(deadline)
        changed = [allocation_id for _, allocation_id, seen in stubs if seen is None]
        if len(changed) > _FEW:
            return await self._all_whole(deadline)
        read = await _each(changed, lambda allocation_id: self._whole(allocation_id, deadline))
        by_id = {each.id: each for each in read if each is not None}
        found: dict[JobId, list[AllocationSeen]] = {}
        for job_id, allocation_id, seen in stubs:
            known = seen or by_id.get(allocation_id)
            if known is not None:
                found.setdefault(job_id, []).append(known)
        self._versions.keep_allocations({allocation_id for _, allocation_id, _ in stubs}, index)
        return found

    async def _stubs(self, deadline: Deadline) -> tuple[_Stubs, int]:
        """Return what there is, each with what is known of it if it did not change since, and as of which index."""
        stubs: _Stubs = []
        lowest: int | None = None
        query: Query = {"task_states": False}
        pages = self._connection.each_page(
            OPERATION, path_of("allocations"), query, page_size=self._page_size, deadline=deadline
        )
        async for page in pages:
            if lowest is None:
                self._check_order(self._allocations_index, page.index)
            lowest = page.index if lowest is None else min(lowest, page.index)
            for each in page.body:
                stub = mapping(OPERATION, each)
                job_id = JobId(text(OPERATION, stub, "JobID"))
                if job_id.startswith(PREFIX):
                    allocation_id = AllocationId(text(OPERATION, stub, "ID"))
                    known = self._versions.allocation(allocation_id)
                    unchanged = known if known is not None and _is_as_it_was(stub, known) else None
                    stubs.append((job_id, allocation_id, unchanged))
        assert lowest is not None, "a listing has at least one page"
        self._allocations_index = lowest
        return stubs, lowest

    async def _all_whole(self, deadline: Deadline) -> dict[JobId, list[AllocationSeen]]:
        found: dict[JobId, list[AllocationSeen]] = {}
        lowest: int | None = None
        query: Query = {"resources": True, "task_states": True}
        pages = self._connection.each_page(
            OPERATION,
            path_of("allocations"),
            query,
            page_size=min(self._page_size, _LARGEST_PAGE_OF_WHOLE),
            deadline=deadline,
        )
        async for page in pages:
            lowest = page.index if lowest is None else min(lowest, page.index)
            for each in page.body:
                stub = mapping(OPERATION, each)
                job_id = JobId(text(OPERATION, stub, "JobID"))
                if job_id.startswith(PREFIX):
                    known = self._versions.allocation(AllocationId(text(OPERATION, stub, "ID")))
                    seen = known if known is not None and _is_as_it_was(stub, known) else None
                    if seen is None:
                        seen = allocation_seen(OPERATION, stub)
                        self._versions.learn_allocation(seen)
                    found.setdefault(job_id, []).append(seen)
        listed = {each.id for each in chain.from_iterable(found.values())}
        self._versions.keep_allocations(listed, lowest or 0)
        return found

    async def _whole(self, allocation_id: AllocationId, deadline: Deadline) -> AllocationSeen | None:
        """Read one allocation. One that is gone since it was listed is not there."""
        path = path_of("allocation", allocation_id)
        answer = await self._connection.get(OPERATION, path, deadline=deadline)
        if not answer.found:
            return None
        seen = allocation_seen(OPERATION, answer.body)
        self._versions.learn_allocation(seen)
        return seen

    # --- evaluations

    async def _failures(self, deadline: Deadline) -> dict[JobId, str]:
        stubs, _ = await self._connection.pages(
            OPERATION,
            path_of("evaluations"),
            {"status": "blocked"},
            page_size=self._page_size,
            deadline=deadline,
        )
        failures: dict[JobId, str] = {}
        for each in stubs:
            evaluation = mapping(OPERATION, each)
            failure = placement_failure([evaluation])
            if failure is None:
                raise UpstreamNonsense(SYSTEM, OPERATION, "an evaluation is listed as blocked and is not")
            failures[JobId(text(OPERATION, evaluation, "JobID"))] = failure
        return failures


def _is_as_it_was(stub: Mapping[str, Any], known: AllocationSeen) -> bool:
    """
    Whether nothing of the allocation changed since: whatever does gives it another `ModifyIndex`.

    The rest is looked at for a Nomad that went back in time, where the same index may stand for something else.
    """
    return (
        stub.get("ModifyIndex") == known.modify_index
        and stub.get("ClientStatus") == known.client_status.value
        and stub.get("DesiredStatus") == known.desired_status
        and stub.get("JobVersion") == known.job_version
        and stub.get("CreateIndex") == known.create_index
        and (known.address is not None or known.client_status.is_terminal)
    )


async def _each(items: Sequence[Item], read: Callable[[Item], Awaitable[Found]]) -> list[Found]:
    """Read each of *items*, some at a time."""
    found: list[Found] = []
    for first in range(0, len(items), _AT_ONCE):
        found += await asyncio.gather(*(read(item) for item in items[first : first + _AT_ONCE]))
    return found
