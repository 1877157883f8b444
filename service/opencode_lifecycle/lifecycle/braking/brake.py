"""
When not to believe what a neighbour shows: pure functions over a listing and what should be in it.

A listing that is empty or lacks a part, one of another cluster or of an older snapshot look like the end of many stacks.
None of them is. What is suspected here becomes a standing condition, and nothing is concluded from absence until it is
gone or an operator says that it is true.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.observation import JobSeen
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.orchestrator import Listing

LEAST: Final = 3
"""Fewer may go at the same time by chance, or by an operator's hand, where others stay."""
SHARE: Final = 0.05
"""A larger share than this does not go at the same time by itself: in a fleet of sixty these are the three of `LEAST`."""
SILENT_SHARE: Final = 0.25
"""A node that is lost takes its runtimes with it; a quarter of all at once is more likely our own way to them."""
_NAMED: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A stack whose job we registered and did not stop: it should be in every listing."""

    job_id: JobId
    allocation_id: AllocationId | None
    modify_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """Why a condition is raised. `details` hold what an operator needs in order to confirm it or not."""

    message: str
    details: Mapping[str, object]


def expected_of(stack: Stack) -> Expected | None:
    """Return what a listing must show of *stack*, or None when it need not show anything."""
    status = stack.status
    phase = status.phase
    if (phase is not Phase.RUNNING and phase is not Phase.STARTING) or status.job_modify_index is None:
        return None
    runtime = status.runtime
    return Expected(
        job_id=stack.job_id,
        allocation_id=runtime.allocation_id if runtime is not None else None,
        modify_index=status.job_modify_index,
    )


def is_widespread(count: int, of: int, *, share: float = SHARE) -> bool:
    """Whether *count* *of* so many is more than chance or one operator does at the same time."""
    return count >= LEAST and count > of * share


def is_gone_in_mass(count: int, of: int) -> bool:
    """
    Whether *count* *of* so many stacks lacking in one listing is to be believed only when an operator says so.

    All of them are even in the smallest fleet: that is how an empty listing looks. One alone is everyday life, somebody
    purged its job, and it is repaired at once. That is safe if the listing lied: what is still there is never registered
    over unseen.
    """
    return is_widespread(count, of) or 1 < count == of


def judge(
    listing: Listing,
    expected: Sequence[Expected],
    *,
    highest_write: int,
    known_mark: str | None,
    seen_mark: str | None,
) -> Mapping[ConditionKind, Suspicion]:
    """
    Return what speaks against taking *listing* for the whole truth.

    *highest_write* is the largest index of our own writes that were over before the listing began.
    """
    suspicions: dict[ConditionKind, Suspicion] = {}
    if known_mark is not None and seen_mark != known_mark:
        suspicions[ConditionKind.OTHER_CLUSTER] = _other_cluster(seen_mark)
    missing = [each for each in expected if _is_missing(each, listing)]
    if is_gone_in_mass(len(missing), len(expected)):
        suspicions[ConditionKind.MASS_DISAPPEARANCE] = _disappearance(missing, len(expected))
    shown_older = [each for each in expected if _is_older(each, listing)]
    # The index grows past our last write again while others work; a job of ours that went back does not.
    if shown_older or listing.index < highest_write:
        lacking = [each for each in expected if _has_no_job(each, listing)]
        if shown_older or lacking:
            gone_back = [*shown_older, *lacking]
            suspicions[ConditionKind.OLDER_SNAPSHOT] = _older(gone_back, listing.index, highest_write)
    return suspicions


def extent_of(details: Mapping[str, Any]) -> int:
    """Return how many stacks a condition with these *details* is about; 0 where it is about the whole."""
    counts = (details.get(name) for name in ("missing", "silent", "differ"))
    return next((count for count in counts if isinstance(count, int)), 0)


def covers(condition: Condition, details: Mapping[str, Any]) -> bool:
    """
    Whether *condition* is confirmed, and *details* tell of no more than that.

    A few more are no news; as many as would raise a condition by themselves are.
    """
    if condition.confirmed_at is None:
        return False
    confirmed = condition.confirmed_extent
    more = extent_of(details) - (extent_of(condition.details) if confirmed is None else confirmed)
    of = details.get("of")
    return not is_widespread(more, of if isinstance(of, int) else 0)


def _has_no_job(each: Expected, listing: Listing) -> bool:
    seen = listing.stacks.get(each.job_id)
    return seen is None or not isinstance(seen.job, JobSeen)


def _is_missing(each: Expected, listing: Listing) -> bool:
    seen = listing.stacks.get(each.job_id)
    if seen is None or not isinstance(seen.job, JobSeen):
        return True
    if each.allocation_id is None or seen.job.stopped:
        return False
    return all(allocation.id != each.allocation_id for allocation in seen.allocations)


def _is_older(each: Expected, listing: Listing) -> bool:
    """Whether the job is as it was before our last write to it, which in one life of a cluster cannot be."""
    seen = listing.stacks.get(each.job_id)
    return seen is not None and isinstance(seen.job, JobSeen) and seen.job.modify_index < each.modify_index


def _other_cluster(seen_mark: str | None) -> Suspicion:
    how = "bears no mark of this installation" if seen_mark is None else "bears the mark of another one"
    return Suspicion(
        message=f"Nomad {how}: it is another cluster, or was set up anew. Nothing is done in it. "
        "Correct the address, or confirm that this is the cluster from now on",
        details={"mark": "absent" if seen_mark is None else "other"},
    )


def _disappearance(missing: Collection[Expected], of: int) -> Suspicion:
    return Suspicion(
        message=f"{len(missing)} of {of} stacks that should run are not in Nomad's listing. They are neither started "
        "again nor destroyed. Confirm it if they are really gone",
        details={"system": "nomad", "missing": len(missing), "of": of, "jobs": _names(missing)},
    )


def _older(gone_back: Collection[Expected], index: int, highest: int) -> Suspicion:
    return Suspicion(
        message=f"Nomad is at index {index}, and we wrote at {highest}: it was restored from an older snapshot, which "
        f"differs in {len(gone_back)} stacks. Confirm it to have them brought to where they should be",
        details={"index": index, "written": highest, "differ": len(gone_back), "jobs": _names(gone_back)},
    )


def silence(silent: Collection[JobId], of: int) -> Suspicion | None:
    """Return what is suspected when *silent* runtimes *of* so many leave probes unanswered; None when that is no crowd."""
    if not is_widespread(len(silent), of, share=SILENT_SHARE):
        return None
    return Suspicion(
        message=f"{len(silent)} of {of} runtimes answer no probe. None of them is replaced for it meanwhile: it may be "
        "the way from here to them",
        details={"silent": len(silent), "of": of, "jobs": sorted(silent)[:_NAMED]},
    )


def secrets_missing(missing: Collection[JobId], of: int) -> Suspicion | None:
    """Return what is suspected when *missing* secrets *of* so many are not in Vault; None when that is no crowd."""
    if not is_widespread(len(missing), of):
        return None
    return Suspicion(
        message=f"{len(missing)} of {of} secrets are not in Vault: it is another one, or was set up anew. None is made "
        "again for a stack that runs. Correct the address, or confirm that they are really gone",
        details={"system": "vault", "missing": len(missing), "of": of, "jobs": sorted(missing)[:_NAMED]},
    )


def _names(those: Collection[Expected]) -> list[str]:
    return [str(each.job_id) for each in sorted(those, key=lambda each: each.job_id)[:_NAMED]]
