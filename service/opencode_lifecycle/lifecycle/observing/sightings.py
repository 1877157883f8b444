"""
What is known of one job after somebody told more of it: an event, or a listing. Pure.

Events and listings come late, twice and out of order. Each part carries the index at which Nomad wrote it, and of each the
latest word counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from opencode_lifecycle.model.observation import ABSENT, UNKNOWN, AllocationSeen, JobSeen, Observation
from opencode_lifecycle.ports.orchestrator import (
    AllocationChanged,
    JobChanged,
    Listing,
    PlacementChanged,
)


def told(
    known: Observation | None, change: JobChanged | AllocationChanged | PlacementChanged, *, now: datetime
) -> Observation | None:
    """
    Join *known* with one event, or return None when the event is older than what is known of its subject.

    1. We register a job again that was stopped, and the event of that is lost: a gap in the stream is silent.
    2. The event of its allocation comes. The job that we know is still the stopped one, whatever the allocation's index.
    3. By that index it would count as seen after our write, and the runtime as stopped by somebody else.
    """
    # Of a job that only an event of something else speaks of, it is not known whether it is there.
    old = known if known is not None else Observation(job=UNKNOWN, index=0, observed_at=now)
    match change:
        case JobChanged(job=job):
            if change.index < old.job_known_to and isinstance(old.job, JobSeen):
                return None
            known_to = max(old.job_known_to, change.index)
            new = replace(old, job=ABSENT if job is None else job, job_index=known_to)
        case AllocationChanged(allocation=allocation):
            allocations = _with(old.allocations, allocation)
            if allocations is None:
                return None
            new = replace(old, allocations=allocations, job_index=old.job_known_to)
        case PlacementChanged(failure=failure):
            new = replace(old, placement_failure=failure, job_index=old.job_known_to)
        case unreachable:
            assert_never(unreachable)
    return replace(new, index=max(old.index, change.index), observed_at=now)


def _with(
    allocations: Sequence[AllocationSeen], changed: AllocationSeen
) -> tuple[AllocationSeen, ...] | None:
    for known in allocations:
        if known.id == changed.id and known.modify_index > changed.modify_index:
            return None
    return _newest_first([changed, *(known for known in allocations if known.id != changed.id)])


def newer_of(event: Observation | None, listed: Observation | None, listing: Listing) -> Observation:
    """
    Join what events told with what a listing says of the same job, part by part. One of them must be there.

    A listing has the index of its table of jobs, which in an idle cluster lies before that of every allocation. So each
    allocation is compared by its own index; one that the listing lacks is kept only if it was heard of since the listing
    began.
    """
    if event is None or listed is None or event.index <= listing.index:
        kept = listed or event
        assert kept is not None
        return kept
    job = listed.job
    if isinstance(event.job, JobSeen) and isinstance(listed.job, JobSeen):
        job = event.job if event.job.modify_index > listed.job.modify_index else listed.job
    known = {allocation.id: allocation for allocation in listed.allocations}
    for allocation in event.allocations:
        there = known.get(allocation.id)
        if there is None and event.observed_at < listing.observed_at:
            continue
        if there is None or allocation.modify_index > there.modify_index:
            known[allocation.id] = allocation
    return replace(
        listed,
        job=job,
        allocations=_newest_first(known.values()),
        index=max(event.index, listed.index),
        job_index=max(event.job_known_to, listed.job_known_to),
        observed_at=max(event.observed_at, listed.observed_at),
    )


def filled_in(listed: Observation, known: Observation | None) -> Observation:
    """
    Return what a doubted listing shows of a job, and of whatever it lacks what was known before.

    One whose jobs are missing still shows their allocations, and the other way round.
    """
    if known is None:
        return replace(listed, job=UNKNOWN) if listed.job is ABSENT else listed
    shown = {allocation.id for allocation in listed.allocations}
    kept = [allocation for allocation in known.allocations if allocation.id not in shown]
    lacks_job = listed.job is ABSENT
    return replace(
        listed,
        job=known.job if lacks_job else listed.job,
        job_index=known.job_known_to if lacks_job else None,
        allocations=_newest_first([*listed.allocations, *kept]),
    )


def is_heard_since(seen: Observation, listing: Listing) -> bool:
    """
    Whether a job that *listing* lacks may have come after it.

    Its index alone does not tell: the last word of an allocation comes after its job was purged, with an index that lies
    beyond that of the table of jobs for as long as nobody writes a job.
    """
    return seen.index > listing.index and seen.observed_at >= listing.observed_at


def shows_the_same(old: Observation, new: Observation) -> bool:
    """Whether nothing of the job differs, however much later one of them was seen."""
    return (
        old.job == new.job
        and old.allocations == new.allocations
        and old.placement_failure == new.placement_failure
    )


def _newest_first(allocations: Iterable[AllocationSeen]) -> tuple[AllocationSeen, ...]:
    return tuple(sorted(allocations, key=lambda allocation: allocation.create_index, reverse=True))
