"""
What bears our names without a row: found, proven, and what becomes of it. Pure.

A thing is ours beyond doubt when what is written on it names this installation and a user whose job would bear exactly
this name, or when something else of the same name is ours beyond doubt; what cannot say whose it is, also when a stack of its
name was deleted here. Whatever else it is, it is left alone.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from opencode_lifecycle.model.identifiers import JobId, OrphanId, UserId, job_id_of
from opencode_lifecycle.model.observation import JobSeen, Observation
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind
from opencode_lifecycle.ports.orchestrator import Listing
from opencode_lifecycle.ports.service_catalog import ServiceInstance

_NONE: Final[Mapping[JobId, UserId]] = {}


class OrphanAction(StrEnum):
    ADOPT = "adopt"
    DELETE = "delete"
    REPORT = "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanLimits:
    confirmations: int = 3
    """Full comparisons in a row that must have found it before anything is done about it."""
    grace: timedelta = timedelta(hours=1)
    """From the first of them until something is deleted."""
    apart: timedelta | None = None
    """Between two comparisons that count, whichever replica makes them; None means the period of comparison."""
    clocks_apart: timedelta = timedelta(minutes=1)
    """What was written less than this before a removal may as well have been written after it: by another's clock."""


def jobs_in(listing: Listing) -> list[Find]:
    """Return the jobs of *listing* that claim to be managed by us, whoever's installation they are."""
    finds = [job_in(seen) for seen in listing.stacks.values()]
    return [find for find in finds if find is not None]


def job_in(seen: Observation) -> Find | None:
    """Return the job that is seen, if it claims to be managed by us."""
    job = seen.job
    if not isinstance(job, JobSeen) or job.meta.get("managed_by") != "opencode-lifecycle":
        return None
    find = Find(
        kind=OrphanKind.JOB,
        job_id=job.job_id,
        reference=job.job_id,
        installation=job.meta.get("installation"),
        user_id=UserId(job.meta["user"]) if "user" in job.meta else None,
        details={"stopped": job.stopped, "live_allocations": len(seen.live)},
    )
    return find.dated(job.submitted_at)


def is_in_use(seen: Observation) -> bool:
    """Return whether something may still use what bears the name: a job that is there, or an allocation that ends."""
    return isinstance(seen.job, JobSeen) or bool(seen.live)


def services_in(catalog: Mapping[JobId, Sequence[ServiceInstance]]) -> list[Find]:
    return [
        Find(
            kind=OrphanKind.SERVICE,
            job_id=job_id,
            reference=instance.service_id,
            installation=instance.installation,
            details={
                "node": instance.node,
                "address": instance.address.url,
                "allocation": instance.allocation_id,
            },
        )
        for job_id, instances in catalog.items()
        for instance in instances
    ]


def without_row(finds: Iterable[Find], rows: Collection[JobId], kept: Collection[JobId]) -> list[Find]:
    """Leave out what a row explains, and the volumes that deletions kept on purpose."""
    return [
        find
        for find in finds
        if find.job_id not in rows and not (find.kind is OrphanKind.VOLUME and find.job_id in kept)
    ]


def orphans_among(
    finds: Sequence[Find],
    earlier: Mapping[OrphanId, Orphan],
    *,
    installation: str,
    apart: timedelta,
    now: datetime,
    removed: Mapping[JobId, UserId] = _NONE,
) -> list[Orphan]:
    """
    Return the orphans among *finds*, counting on from what was found *earlier*. What is another's is none. *removed* are the
    names of stacks that were deleted, and whose they were.

    A comparison that follows less than *apart* on the one that counted last counts for nothing: several replicas, or an
    impatient operator, must not make up in numbers for the time that shows what lasts.
    """
    owners = dict(removed) | {
        find.job_id: find.user_id
        for find in finds
        if find.installation == installation
        and find.user_id is not None
        and job_id_of(installation, find.user_id) == find.job_id
    }
    orphans = []
    for each in finds:
        find = replace(each, user_id=owners.get(each.job_id) or each.user_id)
        if find.installation not in {None, installation} or (
            find.kind is OrphanKind.JOB and find.installation is None
        ):
            continue
        known = earlier.get(find.id)
        counts = known is None or now - known.last_seen_at >= apart
        orphans.append(
            Orphan(
                find=as_it_started(find, known.find) if known is not None else find,
                proven=find.job_id in owners,
                first_seen_at=known.first_seen_at if known is not None else now,
                last_seen_at=now if known is None or counts else known.last_seen_at,
                confirmations=(known.confirmations if known is not None else 0) + counts,
            )
        )
    return sorted(orphans, key=lambda orphan: orphan.id)


def as_it_started(find: Find, earlier: Find) -> Find:
    """
    Return *find* with the time of what was stopped, where it is a job that was found before.

    1. A removal is known, and a job that is older than it. It is stopped.
    2. Nomad counts the stop as a submission: the job is younger than the removal now.
    3. It would not be purged, but get a row.
    """
    if find.kind is not OrphanKind.JOB or not find.details.get("stopped"):
        return find
    times = [time for time in (find.written_at, earlier.written_at) if time is not None]
    return find.dated(min(times, default=None))


def was_left_behind(find: Find, deleted_at: datetime | None, *, clocks_apart: timedelta) -> bool:
    """
    Return whether the removal of its stack speaks of *find*: only of what was last written before it.

    1. A stack is deleted, and the database saved.
    2. Its user gets another one, of the same name.
    3. The database is restored: all that it knows of the user is the removal.

    What does not say when it was written may be of the other one.
    """
    written_at = find.written_at
    return deleted_at is not None and written_at is not None and written_at + clocks_apart <= deleted_at


def action_for(
    orphan: Orphan, *, deleted_at: datetime | None, is_used: bool, now: datetime, limits: OrphanLimits
) -> tuple[OrphanAction, str]:
    """
    Return what becomes of *orphan*, and why. *is_used* says that there is a job of its name, or something that runs.

    A job whose stack was not deleted since it was registered lost its row, and gets it back. What a deletion left behind
    is deleted, the job before anything that it may use. Data is deleted only by a person, and so is a secret of which no
    deletion is known: it holds more than we could make again.
    """
    if not orphan.proven:
        return OrphanAction.REPORT, "it is not proven to be ours"
    if orphan.confirmations < limits.confirmations:
        return OrphanAction.REPORT, f"found {orphan.confirmations} of {limits.confirmations} times in a row"
    kind = orphan.find.kind
    if kind is OrphanKind.VOLUME:
        return OrphanAction.REPORT, "it holds data, which only a person deletes"
    is_left_behind = was_left_behind(orphan.find, deleted_at, clocks_apart=limits.clocks_apart)
    if kind is OrphanKind.JOB and not is_left_behind:
        return OrphanAction.ADOPT, "its row was lost"
    if kind is not OrphanKind.JOB and is_used:
        return OrphanAction.REPORT, "a job of its name is there, and is seen to first"
    if kind is OrphanKind.SECRET and not is_left_behind:
        return (
            OrphanAction.REPORT,
            "no deletion of its stack since it was written is known, so a person decides",
        )
    if now - orphan.first_seen_at < limits.grace:
        return OrphanAction.REPORT, f"is deleted when it has been found for {limits.grace}"
    return OrphanAction.DELETE, "its stack is gone"
