"""The whole namespace, page by page."""

from collections.abc import Mapping
from typing import Any, Final

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
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import ABSENT, AllocationSeen, Blind, JobSeen, Observation
from opencode_lifecycle.ports.orchestrator import Listing

OPERATION: Final = "list all"


class FleetListing:
    """Reads jobs, then allocations, then evaluations that wait for room."""

    def __init__(
        self, *, connection: NomadConnection, versions: JobVersions, page_size: int, now: Clock
    ) -> None:
        self._connection = connection
        self._versions = versions
        self._page_size = page_size
        self._now = now

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
            seen = newest_first(allocations.get(job_id, ()))
            waits = isinstance(job, JobSeen) and not job.stopped
            stacks[job_id] = Observation(
                job=job,
                allocations=seen,
                placement_failure=failures.get(job_id) if waits else None,
                index=index,
                observed_at=observed_at,
            )
        return Listing(index=index, observed_at=observed_at, stacks=stacks)

    async def _jobs(self, deadline: Deadline) -> tuple[dict[JobId, JobSeen], int]:
        query: Query = {"prefix": PREFIX, "meta": True}
        stubs, index = await self._connection.pages(
            OPERATION, path_of("jobs"), query, page_size=self._page_size, deadline=deadline
        )
        found = [mapping(OPERATION, stub) for stub in stubs]
        if any(self._version_of(stub) is None for stub in found):
            await self._learn_versions(found, deadline)
        jobs = [await self._job(stub, deadline) for stub in found]
        return {job.job_id: job for job in jobs if job is not None}, index

    def _version_of(self, stub: Mapping[str, Any]) -> int | None:
        job_id = JobId(text(OPERATION, stub, "ID"))
        return self._versions.of_job(job_id, number(OPERATION, stub, "JobModifyIndex"))

    async def _learn_versions(self, stubs: list[Mapping[str, Any]], deadline: Deadline) -> None:
        """
        Learn the versions that stubs lack from the listing that Nomad's web UI uses, which has them.

        It is another read, so a job may have changed in between: only one that was submitted at the same nanosecond is
        the one of the stub.
        """
        others, _ = await self._connection.pages(
            OPERATION, path_of("jobs", "statuses"), {"prefix": PREFIX}, page_size=100, deadline=deadline
        )
        by_id = {
            text(OPERATION, other, "ID"): other for other in (mapping(OPERATION, each) for each in others)
        }
        for stub in stubs:
            other = by_id.get(text(OPERATION, stub, "ID"))
            if other is not None and other.get("SubmitTime") == stub.get("SubmitTime"):
                self._versions.learn_job(
                    job_seen(OPERATION, stub, version=number(OPERATION, other, "Version"))
                )

    async def _job(self, stub: Mapping[str, Any], deadline: Deadline) -> JobSeen | None:
        version = self._version_of(stub)
        if version is not None:
            return job_seen(OPERATION, stub, version=version)
        path = path_of("job", text(OPERATION, stub, "ID"))
        answer = await self._connection.get(OPERATION, path, deadline=deadline)
        if not answer.found:
            return None
        job = job_seen(OPERATION, answer.body)
        self._versions.learn_job(job)
        return job

    async def _allocations(self, deadline: Deadline) -> dict[JobId, list[AllocationSeen]]:
        query = {"resources": True, "task_states": True}
        stubs, _ = await self._connection.pages(
            OPERATION, path_of("allocations"), query, page_size=self._page_size, deadline=deadline
        )
        found: dict[JobId, list[AllocationSeen]] = {}
        for each in stubs:
            stub = mapping(OPERATION, each)
            job_id = JobId(text(OPERATION, stub, "JobID"))
            if job_id.startswith(PREFIX):
                seen = allocation_seen(OPERATION, stub)
                self._versions.learn_allocation(seen)
                found.setdefault(job_id, []).append(seen)
        return found

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
