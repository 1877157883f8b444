"""
Nomad as orchestrator: rendering, registering, stopping and seeing jobs.

Reads and writes go over one asynchronous client, since an observation or a registration per stack is what a fleet's start
consists of; the calls that are rare go through python-nomad. `service/decisions` has the measurement.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from opencode_lifecycle.adapters.nomad import comparison
from opencode_lifecycle.adapters.nomad.cluster_mark import NomadClusterMark
from opencode_lifecycle.adapters.nomad.connection import SYSTEM, NomadConnection, path_of, sentence_of
from opencode_lifecycle.adapters.nomad.event_stream import EventStream
from opencode_lifecycle.adapters.nomad.files import read_file
from opencode_lifecycle.adapters.nomad.job_versions import JobVersions
from opencode_lifecycle.adapters.nomad.library import NomadLibrary
from opencode_lifecycle.adapters.nomad.listing import FleetListing
from opencode_lifecycle.adapters.nomad.live_files import NomadLiveFiles
from opencode_lifecycle.adapters.nomad.logs import read_log
from opencode_lifecycle.adapters.nomad.nodes import closed_nodes
from opencode_lifecycle.adapters.nomad.placement import PLAN, placement_failure, placement_of
from opencode_lifecycle.adapters.nomad.reading import (
    allocation_seen,
    job_seen,
    mapping,
    newest_first,
    number,
    text,
)
from opencode_lifecycle.adapters.nomad.usage import usage_of
from opencode_lifecycle.adapters.nomad.workspaces import NomadWorkspaces
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamNonsense, UpstreamRejected
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.job_template import declared_variables
from opencode_lifecycle.model.node import ClosedNode
from opencode_lifecycle.model.observation import ABSENT, AllocationSeen, Blind, JobSeen, Observation
from opencode_lifecycle.ports.orchestrator import (
    Change,
    Comparison,
    Listing,
    Placement,
    RenderedJob,
    Usage,
    Variables,
)

__all__ = ["Nomad"]

PAGE_SIZE: Final = 2500
"""Stubs of about a kilobyte. Pages of whole allocations are smaller."""
BUNDLES_PATH: Final = "opencode/bundles"
_VERSIONS_KEPT: Final = 6
"""So many versions of a job Nomad remembers when nobody tells it otherwise."""


class Nomad:
    """
    The `Orchestrator`, and with `workspaces` and `live_files` the other two ports of the same cluster.

    Nothing is sent before the first call. `close` it in the loop that used it.
    """

    def __init__(
        self,
        *,
        address: str,
        token_file: Path,
        namespace: str,
        region: str = "global",
        node_pool: str = "default",
        ca_file: Path | None = None,
        threads: int = 16,
        page_size: int = PAGE_SIZE,
        now: Clock = utc_now,
    ) -> None:
        self._connection = NomadConnection(
            address=address, token_file=token_file, namespace=namespace, region=region, ca_file=ca_file
        )
        self._library = NomadLibrary(
            address=address,
            token_file=token_file,
            namespace=namespace,
            region=region,
            ca_file=ca_file,
            threads=threads,
        )
        self._now = now
        self._versions = JobVersions()
        self._listing = FleetListing(
            connection=self._connection, versions=self._versions, page_size=page_size, now=now
        )
        self._events = EventStream(
            connection=self._connection, versions=self._versions, read_allocation=self._read_allocation
        )
        self.workspaces = NomadWorkspaces(connection=self._connection, node_pool=node_pool)
        self.cluster_mark = NomadClusterMark(connection=self._connection)
        self.live_files = NomadLiveFiles(connection=self._connection, bundles_path=BUNDLES_PATH)

    async def close(self) -> None:
        self._library.close()
        await self._connection.close()

    async def render(self, template: str, variables: Variables, deadline: Deadline) -> RenderedJob:
        operation = "render"
        unknown = sorted(set(variables) - declared_variables(template))
        if unknown:
            raise UpstreamRejected(
                SYSTEM, operation, f"the template declares no variable {', '.join(unknown)}"
            )
        values = json.dumps(variables)  # JSON is taken literally; as HCL it would be evaluated
        body = {"JobHCL": template, "Variables": values, "Canonicalize": False}
        answer = await self._connection.put(operation, path_of("jobs", "parse"), body, deadline=deadline)
        job = dict(mapping(operation, answer.body))
        job_id = job.get("ID")
        if not isinstance(job_id, str) or job_id != variables.get("job_id"):
            raise UpstreamRejected(SYSTEM, operation, "the template does not use job_id as the job's id")
        _label_services(job, variables.get("labels"))
        submission = {"Source": template, "Format": "hcl2", "Variables": values}
        return RenderedJob(job_id=JobId(job_id), specification={"Job": job, "Submission": submission})

    async def register(self, job: RenderedJob, *, expected_index: int, deadline: Deadline) -> int:
        operation = "register"
        body = {**job.specification, "EnforceIndex": True, "JobModifyIndex": expected_index}
        answer = await self._connection.put(operation, path_of("jobs"), body, deadline=deadline)
        reply = mapping(operation, answer.body)
        index = number(operation, reply, "JobModifyIndex")
        if index == number(operation, reply, "EvalCreateIndex"):
            return index
        # Nothing changed, so no version was made, and Nomad calls by that name the index of something else.
        current = await self._connection.get(operation, path_of("job", job.job_id), deadline=deadline)
        return job_seen(operation, current.body).modify_index

    async def compare(self, job: RenderedJob, deadline: Deadline) -> Comparison:
        return comparison.comparison_of(
            await self._plan(comparison.OPERATION, job, diff=True, deadline=deadline)
        )

    async def validate(self, job: RenderedJob, deadline: Deadline) -> None:
        operation = "validate"
        # Of all calls that take a job this one alone goes by the job's own namespace, and not by the one it is asked in.
        body = {"Job": {**job.specification["Job"], "Namespace": self._connection.namespace}}
        answer = await self._connection.put(operation, path_of("validate", "job"), body, deadline=deadline)
        if error := text(operation, mapping(operation, answer.body), "Error"):
            raise UpstreamRejected(SYSTEM, operation, sentence_of(error))

    async def plan_placement(self, job: RenderedJob, deadline: Deadline) -> Placement:
        return placement_of(await self._plan(PLAN, job, diff=False, deadline=deadline))

    async def submitted(self, job: JobSeen, deadline: Deadline) -> Variables | None:
        """Look back from the version that is seen: a stop or a change of the count is a version without a submission."""
        operation = "read submission"
        path = f"{path_of('job', job.job_id)}/submission"
        for version in range(job.version, max(-1, job.version - _VERSIONS_KEPT), -1):
            answer = await self._connection.get(operation, path, {"version": version}, deadline=deadline)
            if answer.found:
                return _variables(mapping(operation, answer.body).get("Variables"))
        return None

    async def usage(self, allocation_id: AllocationId, deadline: Deadline) -> Usage | None:
        operation = "usage"
        path = f"{path_of('client', 'allocation', allocation_id)}/stats"
        answer = await self._connection.get(operation, path, deadline=deadline)
        return usage_of(answer.body) if answer.found else None

    async def deregister(self, job_id: JobId, *, purge: bool, deadline: Deadline) -> int:
        return await self._library.deregister(job_id, purge=purge, deadline=deadline)

    async def observe(self, job_id: JobId, deadline: Deadline) -> Observation:
        """
        Read the allocations, then the job.

        In this order everything up to the larger of the two indexes is in the job, and an allocation that changed in
        between comes by the event stream under its own index.
        """
        operation = "observe"
        path = path_of("job", job_id)
        stubs = await self._connection.get(operation, f"{path}/allocations", {"all": True}, deadline=deadline)
        allocations = newest_first(
            [await self._with_address(stub, deadline) for stub in _list(operation, stubs.body)]
        )
        answer = await self._connection.get(operation, path, deadline=deadline)
        job: JobSeen | Blind = ABSENT
        failure: str | None = None
        if answer.found:
            job = job_seen(operation, answer.body)
            if job.job_id != job_id:
                raise UpstreamNonsense(SYSTEM, operation, "it answered with another job")
            self._versions.learn_job(job)
            newest = [each for each in allocations if each.job_version == job.version]
            if not job.stopped and not any(_is_wanted(each) for each in newest):
                failure = await self._placement_failure(job_id, deadline)
        return Observation(
            job=job,
            allocations=allocations,
            placement_failure=failure,
            index=max(stubs.index, answer.index),
            observed_at=self._now(),
        )

    async def list_all(self, deadline: Deadline) -> Listing:
        return await self._listing.read(deadline)

    async def closed_nodes(self, deadline: Deadline) -> Sequence[ClosedNode]:
        return await closed_nodes(self._connection, deadline)

    async def follow(self, index: int | None) -> AsyncIterator[Change]:
        async for change in self._events.follow(index):
            if hasattr(change, "allocation"):
                self._versions.learn_allocation(change.allocation)
            yield change

    async def read_log(
        self, allocation_id: AllocationId, *, kind: str, tail: int, follow: bool, deadline: Deadline
    ) -> AsyncIterator[bytes]:
        async for line in read_log(
            self._connection, allocation_id, kind=kind, tail=tail, follow=follow, deadline=deadline
        ):
            yield line

    async def read_file(
        self, allocation_id: AllocationId, path: str, *, limit: int, deadline: Deadline
    ) -> bytes | None:
        return await read_file(self._connection, allocation_id, path, limit=limit, deadline=deadline)

    async def ping(self, deadline: Deadline) -> None:
        await self._library.ping(deadline)

    async def _plan(self, operation: str, job: RenderedJob, *, diff: bool, deadline: Deadline) -> Any:
        path = f"{path_of('job', job.job_id)}/plan"
        body = {"Job": job.specification["Job"], "Diff": diff}
        return (await self._connection.put(operation, path, body, deadline=deadline)).body

    async def _placement_failure(self, job_id: JobId, deadline: Deadline) -> str | None:
        operation = "observe"
        path = f"{path_of('job', job_id)}/evaluations"
        answer = await self._connection.get(operation, path, deadline=deadline)
        return placement_failure([mapping(operation, each) for each in _list(operation, answer.body)])

    async def _with_address(self, stub: Any, deadline: Deadline) -> AllocationSeen:
        """Complete a stub, which has no ports. They never change, so they are read once."""
        seen = allocation_seen("observe", stub)
        if not seen.client_status.is_terminal and self._versions.address_of(seen.id) is None:
            await self._read_allocation(seen.id, deadline)
        complete = allocation_seen("observe", stub, address=self._versions.address_of(seen.id))
        self._versions.learn_allocation(complete)
        return complete

    async def _read_allocation(self, allocation_id: str, deadline: Deadline) -> AllocationSeen | None:
        operation = "read allocation"
        answer = await self._connection.get(
            operation, path_of("allocation", allocation_id), deadline=deadline
        )
        if not answer.found:
            return None
        seen = allocation_seen(operation, answer.body)
        self._versions.learn_allocation(seen)
        return seen


def _list(operation: str, body: Any) -> Sequence[Any]:
    if body is None:
        return ()
    if not isinstance(body, list):
        raise UpstreamNonsense(SYSTEM, operation, "a list was expected")
    return body


def _variables(text: Any) -> Variables | None:
    """Read the values as we submit them, in JSON; somebody else may have written HCL."""
    try:
        values = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _is_wanted(allocation: AllocationSeen) -> bool:
    return allocation.desired_status == "run" and not allocation.client_status.is_terminal


def _label_services(job: Mapping[str, Any], labels: Any) -> None:
    """Put the labels into the services' meta: HCL takes only literal keys there, so the template cannot."""
    if not isinstance(labels, Mapping) or not labels:
        return
    for group in job.get("TaskGroups") or ():
        for holder in (group, *(group.get("Tasks") or ())):
            for service in holder.get("Services") or ():
                service["Meta"] = {**labels, **(service.get("Meta") or {})}
