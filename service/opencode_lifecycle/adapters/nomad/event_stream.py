"""
Nomad's event stream, in our words.

The stream says 200 before it looks at the token, so only its first empty line tells that it is open. An allocation in
it comes without its job: which version of the job it runs is known from what was read before, or has to be asked.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import aiohttp
import orjson

from opencode_lifecycle.adapters.nomad.connection import SYSTEM, NomadConnection, Query, path_of, translating
from opencode_lifecycle.adapters.nomad.job_versions import JobVersions
from opencode_lifecycle.adapters.nomad.placement import placement_failure
from opencode_lifecycle.adapters.nomad.reading import allocation_seen, job_seen, mapping, text
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamNonsense,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import AllocationSeen
from opencode_lifecycle.ports.orchestrator import (
    AllocationChanged,
    Change,
    Connected,
    JobChanged,
    NodesChanged,
    PlacementChanged,
)

PREFIX: Final = "oc-"
OPERATION: Final = "follow"
_OPEN_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 75.0
"""Nomad sends an empty line every 30 s; two that do not come mean that nobody is there."""
_TOPICS: Final = ("Job", "Allocation", "Evaluation", "Node")
_PLACING: Final = frozenset({"blocked", "failed", "complete"})

ReadAllocation = Callable[[str, Deadline], Awaitable[AllocationSeen | None]]


class EventStream:
    def __init__(
        self,
        *,
        connection: NomadConnection,
        versions: JobVersions,
        read_allocation: ReadAllocation,
        silence_seconds: float = _SILENCE_SECONDS,
    ) -> None:
        self._connection = connection
        self._versions = versions
        self._read_allocation = read_allocation
        self._silence = silence_seconds

    async def follow(self, index: int | None) -> AsyncIterator[Change]:
        """Yield `Connected`, then every change after *index* of a node or a job of our prefix; raise at the end."""
        deadline = Deadline.after(_OPEN_SECONDS, "open Nomad's event stream")
        if index is None:
            index = await self._index_now(deadline)
        query: Query = {"index": index + 1, "topic": _TOPICS}
        path = path_of("event", "stream")
        async with self._connection.stream(OPERATION, path, query, deadline=deadline) as response:
            line = await self._next_line(response, deadline.left())
            if not line:
                raise UpstreamDenied(
                    SYSTEM, OPERATION, "the stream was closed at once: our token lacks the right"
                )
            yield Connected(index=index)
            while line:
                async for change in self._changes(line):
                    if change.index > index:
                        yield change
                line = await self._next_line(response, self._silence)
        raise UpstreamUnavailable(SYSTEM, OPERATION, "the event stream ended")

    async def _index_now(self, deadline: Deadline) -> int:
        """Return the index of the last write to a job: without any, Nomad tells all that it still has in its buffer."""
        query: Query = {"prefix": PREFIX, "per_page": 1}
        return (await self._connection.get(OPERATION, path_of("jobs"), query, deadline=deadline)).index

    @staticmethod
    async def _next_line(response: aiohttp.ClientResponse, seconds: float) -> bytes:
        """Return the next line, or nothing at the end."""
        try:
            with translating(OPERATION):
                async with asyncio.timeout(seconds):
                    return await response.content.readline()
        except TimeoutError:
            raise UpstreamUnavailable(SYSTEM, OPERATION, "the event stream fell silent") from None

    async def _changes(self, line: bytes) -> AsyncIterator[Change]:
        try:
            events = mapping(OPERATION, orjson.loads(line)).get("Events") or []
        except (ValueError, RecursionError):
            raise UpstreamNonsense(SYSTEM, OPERATION, "an event is not JSON") from None
        if not isinstance(events, list):
            raise UpstreamNonsense(SYSTEM, OPERATION, "Events is no list")
        for event in events:
            change = await self._change(mapping(OPERATION, event))
            if change is not None:
                yield change

    async def _change(self, event: Mapping[str, Any]) -> Change | None:
        index = event.get("Index")
        payload = event.get("Payload")
        if not isinstance(index, int) or not isinstance(payload, Mapping):
            raise UpstreamNonsense(SYSTEM, OPERATION, "an event has no index or payload")
        match event.get("Topic"):
            case "Job" if payload.get("Job") is not None:
                return self._job_change(index, payload)
            case "Allocation" if payload.get("Allocation") is not None:
                allocation = mapping(OPERATION, payload["Allocation"])
                return await self._allocation_change(index, str(event.get("Type")), allocation)
            case "Evaluation" if payload.get("Evaluation") is not None:
                return self._placement_change(index, mapping(OPERATION, payload["Evaluation"]))
            case "Node":
                return NodesChanged(index=index)
            case _:
                return None

    def _job_change(self, index: int, payload: Mapping[str, Any]) -> Change | None:
        job_id = JobId(text(OPERATION, mapping(OPERATION, payload["Job"]), "ID"))
        if not job_id.startswith(PREFIX):
            return None
        if payload.get("Deleted") is True:
            self._versions.forget_job(job_id)
            return JobChanged(index=index, job_id=job_id, job=None)
        job = job_seen(OPERATION, payload["Job"])
        self._versions.learn_job(job, created=int(payload["Job"].get("CreateIndex") or 0))
        return JobChanged(index=index, job_id=job_id, job=job)

    async def _allocation_change(
        self, index: int, kind: str, allocation: Mapping[str, Any]
    ) -> AllocationChanged | None:
        job_id = JobId(text(OPERATION, allocation, "JobID"))
        if not job_id.startswith(PREFIX):
            return None
        version = self._versions.of_allocation(job_id, allocation, placed=kind == "PlanResult")
        if version is not None:
            seen = allocation_seen(OPERATION, {**allocation, "JobVersion": version})
            return AllocationChanged(index=index, job_id=job_id, allocation=seen)
        try:
            read = await self._read_allocation(
                text(OPERATION, allocation, "ID"), Deadline.after(_OPEN_SECONDS, "read an allocation")
            )
        except UpstreamError:
            return None  # the stream is a hint; the next listing tells
        return None if read is None else AllocationChanged(index=index, job_id=job_id, allocation=read)

    def _placement_change(self, index: int, evaluation: Mapping[str, Any]) -> PlacementChanged | None:
        job_id = JobId(text(OPERATION, evaluation, "JobID"))
        if not job_id.startswith(PREFIX):
            return None
        of_job = evaluation.get("JobModifyIndex")
        if isinstance(of_job, int):
            self._versions.learn_evaluation(job_id, text(OPERATION, evaluation, "ID"), of_job)
        if evaluation.get("Status") not in _PLACING:
            return None
        if evaluation.get("Status") == "complete" and evaluation.get("BlockedEval"):
            return None  # it could not place all; the evaluation that is blocked says why
        return PlacementChanged(index=index, job_id=job_id, failure=placement_failure([evaluation]))
