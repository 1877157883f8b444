"""What is not done while a condition stands that an operator must confirm."""

from dataclasses import replace

from opencode_lifecycle.lifecycle.reconciling.steps import (
    ClearLiveFiles,
    DestroySecret,
    DestroyWorkspace,
    FinishDeletion,
    Limits,
    Look,
    Move,
    PurgeJob,
    Rest,
    Step,
    Work,
)
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.observation import JobSeen, Observation
from opencode_lifecycle.model.states import Phase, Reason

_IRREVOCABLE = (PurgeJob, DestroySecret, ClearLiveFiles, DestroyWorkspace, FinishDeletion)
_OF_NOMAD = frozenset(
    {ConditionKind.MASS_DISAPPEARANCE, ConditionKind.OTHER_CLUSTER, ConditionKind.OLDER_SNAPSHOT}
)


def held_back(work: Work, step: Step, limits: Limits) -> Step:
    """
    Return *step*, or a rest instead of it where it may be wrong while a condition stands.

    Nothing is concluded from absence, nothing is destroyed for good, and in a cluster that is not known to be ours
    nothing is done at all. What is seen to be there can be stopped as asked, and a new stack can be made.
    """
    if not work.frozen or isinstance(step, Look | Rest):
        return step
    if _is_held(work, step):
        names = ", ".join(sorted(work.frozen))
        message = f"held back while a condition stands: {names}. See the conditions, and confirm them if they are right"
        status = replace(work.stack.status, reason=_kept(work) or Reason.BRAKE, message=message)
        return Rest(status, limits.poll)
    return step


def _kept(work: Work) -> Reason | None:
    """Return why it failed or is being replaced, which its plan goes by when the condition is gone."""
    status = work.stack.status
    return status.reason if status.phase in {Phase.FAILED, Phase.STOPPING} else None


def _is_held(work: Work, step: Step) -> bool:
    if ConditionKind.OTHER_CLUSTER in work.frozen:
        return True
    if ConditionKind.MASS_SILENCE in work.frozen and _replaces(step):
        return True
    if not work.frozen & _OF_NOMAD:
        return False
    return isinstance(step, _IRREVOCABLE) or _rests_on_absence(work, work.observation)


def _replaces(step: Step) -> bool:
    return (
        isinstance(step, Move)
        and step.status.phase is Phase.STOPPING
        and step.status.reason is Reason.UNRESPONSIVE
    )


def _rests_on_absence(work: Work, seen: Observation | None) -> bool:
    status = work.stack.status
    if seen is None or status.job_modify_index is None:
        return False
    if not isinstance(seen.job, JobSeen):
        return True
    runtime = status.runtime
    return (
        status.phase is Phase.RUNNING
        and runtime is not None
        and all(allocation.id != runtime.allocation_id for allocation in seen.allocations)
    )
