"""A runtime that takes another's place by one registration: Nomad ends the one and starts the other."""

from dataclasses import replace
from datetime import datetime, timedelta

from opencode_lifecycle.lifecycle.reconciling.planning.interrupting import end_turns, waits_for_no_agent
from opencode_lifecycle.lifecycle.reconciling.planning.moves import (
    entered,
    facets_in,
    is_shut_out,
    wait_for_end,
)
from opencode_lifecycle.lifecycle.reconciling.planning.starting import prepare
from opencode_lifecycle.lifecycle.reconciling.steps import (
    Limits,
    Move,
    Part,
    RegisterJob,
    Rest,
    Step,
    StopJob,
    Work,
)
from opencode_lifecycle.model.observation import JobSeen, Observation
from opencode_lifecycle.model.states import Health, MigrationState, Phase


def replace_in_place(work: Work, seen: Observation, job: JobSeen, now: datetime, limits: Limits) -> Step:
    """
    Register what is to follow over what runs, which Nomad ends first: a stop apart from that would cost a second turn of it.

    1. The stop is committed, and everything that the new job needs is made.
    2. The job is registered; dying before that, we do it again, and dying after it, we find our revision and go on.
    3. Nomad has the old allocation ended, and begins the new one when that has: its client waits for it, on the one node
       that has the workspace. Until then the stack is called stopping, and no backend is told that it may be used.
    4. When nothing of the old runs any more, the stack is starting.

    Where the job is not as we left it, it is stopped first, as any other. So is it for another version: what becomes of its
    data is decided while nothing runs.

    Nomad may find no place for what is to follow, and lets run what runs. That passes where others are ending that hold
    their ports and memory still, and Nomad tries again by itself; if it does not pass, the old one is stopped all the same.
    """
    stack = work.stack
    status = stack.status
    registered = facets_in(job, work)
    is_registered = (
        registered is not None and registered.revision == work.wanted.revision and not status.edits
    )
    if not is_registered and waits_for_no_agent(work) and (abort := end_turns(work)) is not None:
        return abort
    if is_shut_out(work) or _is_of_another_version(work):
        return StopJob()
    if not is_registered:
        if seen.placement_failure is not None or job.modify_index != status.job_modify_index:
            return StopJob()
        return prepare(work, runs=_has_its_secret(work)) or RegisterJob(job.modify_index, work.wanted)
    older = [each for each in seen.allocations if each.job_version != job.version]
    before = replace(seen, allocations=older)
    if before.live and seen.placement_failure is not None:
        left = status.phase_since + limits.placement - now
        if left <= timedelta(0):
            return StopJob()
        return Rest(
            replace(status, message=f"waits for a place: {seen.placement_failure}"), min(limits.poll, left)
        )
    if (waiting := wait_for_end(work, before, now, limits)) is not None:
        return waiting
    if job.modify_index != status.job_modify_index:
        # Registered, and not written down: it is adopted like any other.
        return Move(entered(stack, Phase.PENDING, now=now, runtime=None))
    return Move(
        entered(
            stack,
            Phase.STARTING,
            now=now,
            message="waiting for an allocation",
            runtime=None,
            health=Health.STARTING,
            migration_state=(
                MigrationState.VERIFYING
                if status.migration_state is MigrationState.REPLACING
                else status.migration_state
            ),
        )
    )


def _is_of_another_version(work: Work) -> bool:
    have = work.stack.status.facets
    return have is None or have.opencode_version != work.wanted.opencode_version


def _has_its_secret(work: Work) -> bool:
    """Whether the password that is to follow was read in this pass, to ask the runtime what it does."""
    runtime = work.stack.status.runtime
    was_read = Part.ACTIVITY in work.done and work.activity is not None
    return was_read and runtime is not None and runtime.secret_version == work.wanted.secret_version
