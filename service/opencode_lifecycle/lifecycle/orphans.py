"""
What bears our names without a row: found, proven, and what becomes of it. Pure.

A thing is ours beyond doubt when what is written on it names this installation and a user whose job would bear exactly
this name, or when something else of the same name is ours beyond doubt. Whatever else it is, it is left alone.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from opencode_lifecycle.model.identifiers import JobId, OrphanId, UserId, job_id_of
from opencode_lifecycle.model.observation import JobSeen
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind
from opencode_lifecycle.ports.orchestrator import Listing
from opencode_lifecycle.ports.service_catalog import ServiceInstance


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


def jobs_in(listing: Listing) -> list[Find]:
    """Return the jobs of *listing* that claim to be managed by us, whoever's installation they are."""
    return [
        Find(
            kind=OrphanKind.JOB,
            job_id=job_id,
            reference=job_id,
            installation=seen.job.meta.get("installation"),
            user_id=UserId(seen.job.meta["user"]) if "user" in seen.job.meta else None,
            details={"stopped": seen.job.stopped, "live_allocations": len(seen.live)},
        )
        for job_id, seen in listing.stacks.items()
        if isinstance(seen.job, JobSeen) and seen.job.meta.get("managed_by") == "opencode-lifecycle"
    ]


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
) -> list[Orphan]:
    """
    Return the orphans among *finds*, counting on from what was found *earlier*. What is another's is none.

    A comparison that follows less than *apart* on the one that counted last counts for nothing: several replicas, or an
    impatient operator, must not make up in numbers for the time that shows what lasts.
    """
    owners = {
        find.job_id: find.user_id
        for find in finds
        if find.installation == installation
        and find.user_id is not None
        and job_id_of(installation, find.user_id) == find.job_id
    }
    orphans = []
    for find in finds:
        if find.installation not in {None, installation} or (
            find.kind is OrphanKind.JOB and find.installation is None
        ):
            continue
        owner = owners.get(find.job_id)
        known = earlier.get(find.id)
        counts = known is None or now - known.last_seen_at >= apart
        orphans.append(
            Orphan(
                find=replace(find, user_id=owner or find.user_id),
                proven=owner is not None,
                first_seen_at=known.first_seen_at if known is not None else now,
                last_seen_at=now if known is None or counts else known.last_seen_at,
                confirmations=(known.confirmations if known is not None else 0) + counts,
            )
        )
    return sorted(orphans, key=lambda orphan: orphan.id)


def action_for(
    orphan: Orphan, *, deleted_at: datetime | None, has_job: bool, now: datetime, limits: OrphanLimits
) -> tuple[OrphanAction, str]:
    """
    Return what becomes of *orphan*, and why. *has_job* says that a job of its name is among the orphans.

    A job whose stack was never deleted lost its row, and gets it back. What a deletion left behind is deleted. Data is
    deleted only by a person, and so is a secret of which no deletion is known: it holds more than we could make again.
    """
    if not orphan.proven:
        return OrphanAction.REPORT, "it is not proven to be ours"
    if orphan.confirmations < limits.confirmations:
        return OrphanAction.REPORT, f"found {orphan.confirmations} of {limits.confirmations} times in a row"
    kind = orphan.find.kind
    if kind is OrphanKind.VOLUME:
        return OrphanAction.REPORT, "it holds data, which only a person deletes"
    if kind is OrphanKind.JOB and deleted_at is None:
        return OrphanAction.ADOPT, "its row was lost"
    if has_job and deleted_at is None:
        return OrphanAction.REPORT, "it belongs to a job that gets its row back"
    if kind is OrphanKind.SECRET and deleted_at is None:
        return OrphanAction.REPORT, "no deletion of its stack is known, so a person decides"
    if now - orphan.first_seen_at < limits.grace:
        return OrphanAction.REPORT, f"is deleted when it has been found for {limits.grace}"
    return OrphanAction.DELETE, "its stack is gone"
