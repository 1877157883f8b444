"""
A runtime that is not as it should be: brought there by the lightest migration that suffices, and taken back when that fails.

*Live* texts are published under the running process, and count when they are seen to have arrived. What needs a *reload* or
a *restart* waits at the gate until the agent is idle, or by an order until its deadline.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from opencode_lifecycle.lifecycle.reconciling.planning.interrupting import (
    Interruption,
    at_gate,
    at_once,
    idle_stop,
    waits_for_no_agent,
)
from opencode_lifecycle.lifecycle.reconciling.planning.leaving import is_drained, is_forced, leave
from opencode_lifecycle.lifecycle.reconciling.planning.moves import (
    entered,
    is_fresh_start_due,
    is_shut_out,
    new_password,
)
from opencode_lifecycle.lifecycle.reconciling.planning.recycling import health_of, why_recycle
from opencode_lifecycle.lifecycle.reconciling.steps import (
    CheckDelivery,
    Limits,
    LookForCutTurns,
    Move,
    Part,
    PublishLiveFiles,
    ReadReport,
    RegisterJob,
    Rest,
    Step,
    Work,
)
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.migration import Footing, OrderOutcome, Refusal
from opencode_lifecycle.model.observation import JobSeen, Observation
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.staleness import Staleness, facets_of, staleness_of
from opencode_lifecycle.model.states import TAKEN_BACK, MigrationState, Phase, Reason, WhenStale
from opencode_lifecycle.ports.prober import ReloadResult

_LIVE = frozenset({Facet.PROMPT, Facet.CONFIG})
_IN_PLACE = frozenset({Facet.LABELS, Facet.ENDPOINTS})
"""They live in Consul service meta, which Nomad changes without a restart, and are what their owner asked for."""
_UNDER_WAY = frozenset({MigrationState.REPLACING, MigrationState.VERIFYING})
_CONCLUDED = frozenset({MigrationState.CURRENT, MigrationState.STALE})


def put_right(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    """
    Apply what differs in the lightest way: texts under the running process, labels in place, the rest by a restart.

    What was refused or is held stays as it is until somebody asks again, and what is stale is left alone under `report`
    unless there is an order. Nothing that runs is stopped before Nomad has said that it would take what is to follow.

    A runtime on a node that is being drained leaves it first, and starts as it should be when it starts again.

    Before anything else it is read what became of its data, whatever is waited for after that.
    """
    if (reading := _read_report(work, now, limits)) is not None:
        return reading
    step = _put_right(work, seen, now, limits)
    if isinstance(step, Rest) and _is_unread(work):
        return replace(step, wait=min(step.wait or limits.poll, limits.poll))
    return step


def _put_right(work: Work, seen: Observation, now: datetime, limits: Limits) -> Step:
    stack, job = work.stack, seen.job
    assert isinstance(job, JobSeen), "a runtime that is lost was seen to before"
    reasons = staleness_of(stack.status, work.wanted, desired=stack.intent.desired)
    stale = facets_of(reasons)
    recreate = is_fresh_start_due(stack)
    recycle = why_recycle(work, now, limits)
    is_due = stale or recycle or recreate
    acts = stack.standing_order is not None or work.when_stale is not WhenStale.REPORT
    restart = recreate or any(reason.restart for reason in reasons)
    if is_drained(work) and not (
        _disturbs_nobody(work, stale, acts=acts, restart=restart) and not is_forced(work, now)
    ):
        return leave(work, now, limits)
    if is_due and _is_left_alone(work):
        return Rest(stack.status.changed(health=health_of(work, limits)), None)
    if rotation := new_password(work):
        return rotation
    if _is_going_back(work):
        return _publish_what_ran_before(work)
    if not restart and stale and (acts or stale <= _IN_PLACE):
        return _without_restart(work, stale, job, now, limits)
    if restart and acts:
        return _restart(work, _why(reasons, recreate=recreate), now, limits)
    if recycle and not restart:
        return at_gate(work, Interruption(why=recycle, reason=Reason.RECYCLE), now, limits)
    return _settled(work, stale, now, limits)


def _disturbs_nobody(work: Work, stale: frozenset[Facet], *, acts: bool, restart: bool) -> bool:
    """Whether what is to be done, or under way and to be concluded, goes on under the process that runs."""
    if restart or _is_left_alone(work):
        return False
    if stale:
        return (
            Facet.CONFIG not in stale and Facet.EDITED_OUTSIDE not in stale and (acts or stale <= _IN_PLACE)
        )
    is_under_way = work.stack.status.migration_state in _UNDER_WAY
    return is_under_way or work.stack.standing_order is not None or _is_going_back(work)


def _is_left_alone(work: Work) -> bool:
    """Whether what the stack is stale in was refused where it runs, or is held, and nobody has asked again since."""
    stack = work.stack
    is_held = stack.status.migration_state is MigrationState.HELD
    return stack.is_settled and (is_held or (stack.is_refused and not _is_on_footing(work)))


def _is_on_footing(work: Work) -> bool:
    return work.wanted != work.asked


def _why(reasons: tuple[Staleness, ...], *, recreate: bool) -> str:
    names = [reason.facet.value for reason in reasons if reason.restart]
    return ", ".join(names) + " changed" if names else "a fresh start was asked for" if recreate else ""


# --- without a restart


def _without_restart(
    work: Work, stale: frozenset[Facet], job: JobSeen, now: datetime, limits: Limits
) -> Step:
    """Publish live texts and see them arrive, then let the process read what it reads only once; labels go in place."""
    status = work.stack.status
    if not stale & _LIVE:
        return RegisterJob(job.modify_index, work.wanted)
    if not work.needs.live_files:
        return _with_facets(work, Facet.PROMPT, Facet.CONFIG)
    if status.migrating_since is None:
        return Move(replace(status, migration_state=MigrationState.REPLACING, migrating_since=now))
    if Part.LIVE_FILES not in work.done:
        return PublishLiveFiles()
    if Part.DELIVERY not in work.done:
        return CheckDelivery()
    if work.delivered is not True:
        return _not_there_yet(work, status.migrating_since, now, limits)
    if Facet.PROMPT in stale:
        return _with_facets(work, Facet.PROMPT)
    return _reloading(work, now, limits)


def _with_facets(work: Work, *facets: Facet) -> Move:
    """Write down that the runtime has *facets* as they are wanted."""
    have = work.stack.status.facets or work.wanted
    changed = {facet.value: getattr(work.wanted, facet.value) for facet in facets}
    facets_now = replace(have, **changed)
    built = work.stack.status.built
    if built is not None and facets_now.aim == work.wanted.aim:
        # The job that is registered is as it was: what it names, it names still.
        changed = {"restore": built.restore, "moved_data": built.moved_data}
        built = replace(work.building, facets=facets_now, used=True, **changed)
    release = work.building.release if facets_now.aim == work.wanted.aim else work.stack.status.release
    return Move(replace(work.stack.status, facets=facets_now, built=built, release=release))


def _not_there_yet(work: Work, since: datetime, now: datetime, limits: Limits) -> Step:
    """Wait for live files. Only that they were looked for and are not there counts against them, unknown does not."""
    status = work.stack.status
    if work.delivered is False and now - since >= limits.delivery:
        message = (
            f"its live files did not arrive within {limits.delivery.total_seconds():.0f} s; "
            "recreate it, which brings them with a restart"
        )
        return Move(_refused(work, status, Reason.NOT_DELIVERED, message))
    verifying = replace(
        status,
        health=health_of(work, limits),
        migration_state=MigrationState.VERIFYING,
        reason=None,
        message="waits for its live files to arrive",
    )
    return Rest(verifying, limits.delivery_poll)


def _reloading(work: Work, now: datetime, limits: Limits) -> Step:
    if Part.RELOAD not in work.done:
        return at_gate(work, Interruption(why="config changed", reload=True), now, limits)
    reloaded = work.reloaded
    if reloaded is not None and reloaded.result is ReloadResult.RELOADED:
        return _with_facets(work, Facet.CONFIG)
    if reloaded is not None and reloaded.result is ReloadResult.BAD_CONFIG:
        # It answers nobody any more, and only another start heals that.
        message = f"it cannot load its managed configuration: {reloaded.detail}; what it had before is started again"
        stopping = entered(work.stack, Phase.STOPPING, now=now, reason=Reason.BAD_CONFIG, message=message)
        return Move(_refused(work, stopping, Reason.BAD_CONFIG, message))
    message = f"waits to read its configuration anew: {reloaded.detail if reloaded else 'unknown'}"
    waiting = replace(work.stack.status, migration_state=MigrationState.QUEUED, reason=None, message=message)
    return Rest(waiting, limits.idle_poll)


def _is_going_back(work: Work) -> bool:
    """Whether the live files of what was refused are to be replaced still by those of what runs."""
    return _is_on_footing(work) and work.needs.live_files and work.stack.status.migrating_since is not None


def _publish_what_ran_before(work: Work) -> Step:
    if Part.LIVE_FILES not in work.done:
        return PublishLiveFiles()
    return Move(replace(work.stack.status, migrating_since=None))


# --- with a restart


def _restart(work: Work, why: str, now: datetime, limits: Limits) -> Step:
    change = Interruption(why=why)
    is_at_once = waits_for_no_agent(work) and not is_shut_out(work)
    return at_once(work, change, now, limits) if is_at_once else at_gate(work, change, now, limits)


# --- the end of it


def taken_back(work: Work, reason: Reason, why: str, now: datetime) -> Status | None:
    """
    Return the status in which a stack goes back to what ran before its change, or None where nothing did.

    What has failed to start for *reason* is stopped first. It is not tried again before somebody says so.
    """
    footing = work.stack.status.footing
    if footing is None or _is_on_footing(work) or footing.facets.aim == work.asked.aim:
        return None
    message = f"{reason}: {why}; what ran before is started again{_TO_DO.get(reason, '')}"
    shown = reason if reason in TAKEN_BACK else Reason.TAKEN_BACK
    stopping = entered(work.stack, Phase.STOPPING, now=now, reason=shown, message=message, runtime=None)
    # The way back is a change as well, also from a start that replaced nothing: the live files go back at its end.
    since = stopping.migrating_since or now
    return replace(_refused(work, stopping, shown, message), attempts=0, migrating_since=since)


_TO_DO = {
    Reason.DATA_NEWER: ". To go back all the same, recover it with data=restore: what was written since is kept as a snapshot",
    Reason.DISK_FULL: ". Free room on the node of its volume, then recover it",
}


def _refused(work: Work, status: Status, reason: Reason, message: str) -> Status:
    stack, order = work.stack, work.stack.standing_order
    return replace(
        status,
        observed_generation=stack.intent.generation,
        migration_state=MigrationState.FAILED,
        reason=reason,
        message=message,
        refused=work.asked.aim,
        refused_in=stack.intent.generation,
        refusal=Refusal(reason=reason, message=message),
        order_done=order.id if order is not None else status.order_done,
        order_outcome=OrderOutcome.FAILED if order is not None else status.order_outcome,
    )


def _read_report(work: Work, now: datetime, limits: Limits) -> Step | None:
    """
    Read what the entrypoint reported of a start that may have changed the data, once.

    So the receipts of what was taken, restored and forgotten are kept, also where the stack is held or left as it is. A
    report that cannot be read is asked for again until the start would be overdue.
    """
    status, runtime = work.stack.status, work.stack.status.runtime
    if runtime is None or status.built is None or not status.built.moved_data:
        return None
    if Part.REPORT not in work.done:
        return ReadReport(runtime.allocation_id)
    if work.is_report_unknown and now - runtime.proven_at < limits.start:
        return None
    return Move(replace(status, built=replace(status.built, moved_data=False)))


def _is_unread(work: Work) -> bool:
    """Whether what became of its data could not be read in this pass, and is asked for again."""
    built = work.stack.status.built
    return built is not None and built.moved_data


def _settled(work: Work, stale: frozenset[Facet], now: datetime, limits: Limits) -> Step:
    stack, order = work.stack, work.stack.standing_order
    was_restarted = _was_restarted(stack.status)
    if was_restarted and Part.TURNS not in work.done:
        return LookForCutTurns()
    status = stack.status.changed(
        observed_generation=stack.intent.generation,
        health=health_of(work, limits),
        reason=None,
        message="",
        attempts=0,
    )
    wait = _until_recycling(work, now, limits)
    if is_drained(work):
        wait = limits.poll
    if _is_on_footing(work):
        return Rest(_on_footing(status), wait, succeeded=False)
    if order is None and (falling_asleep := idle_stop(work, now, limits)) is not None:
        if not isinstance(falling_asleep, timedelta):
            if stack.is_settled and stack.status.migration_state in _CONCLUDED:
                return falling_asleep
            # What was asked for gets its outcome first, and a change its end: asleep, nobody would look for it.
            falling_asleep = limits.poll
        wait = min(wait, falling_asleep) if wait is not None else falling_asleep
    if stale:
        return Rest(status.changed(migration_state=MigrationState.STALE), wait, succeeded=True)
    if _is_unread(work):
        # A start is not taken for granted before that.
        return Rest(
            replace(stack.status, message="waits for what its entrypoint says of its data"), limits.poll
        )
    built = _built_now(work)
    status = status.changed(
        migration_state=MigrationState.CURRENT,
        migrating_since=None,
        built=built,
        footing=built,
        refused=None,
        refusal=None,
    )
    if order is not None:
        status = replace(status, order_done=order.id, order_outcome=OrderOutcome.DONE)
    return Rest(status, wait, succeeded=True)


def _built_now(work: Work) -> Footing:
    """Return what the job of a stack was built of that is as it should be: its row tells, or, of one that was found, that."""
    before, building = work.stack.status.built, work.building
    if before is not None and before.used and not before.moved_data and before.is_as(building):
        return before
    return replace(building, restore=before.restore if before is not None else "", used=True)


def _was_restarted(status: Status) -> bool:
    """Whether a migration that is under way has replaced the process, whose turns may have been cut off."""
    runtime, since = status.runtime, status.migrating_since
    return (
        status.migration_state in _UNDER_WAY
        and runtime is not None
        and since is not None
        and runtime.proven_at > since
    )


def _on_footing(status: Status) -> Status:
    refusal = status.refusal or Refusal(
        reason=Reason.TAKEN_BACK,
        message="what was asked for was tried and taken back; recover tries it again",
    )
    return replace(
        status,
        migration_state=MigrationState.FAILED,
        migrating_since=None,
        reason=refusal.reason,
        message=refusal.message,
    )


def _until_recycling(work: Work, now: datetime, limits: Limits) -> timedelta | None:
    """Return when the runtime comes of age, or may be replaced again: nothing else would tell us."""
    status, waits = work.stack.status, []
    runtime = status.runtime
    if limits.recycle_age is not None and runtime is not None and runtime.started_at is not None:
        waits.append(limits.recycle_age - (now - runtime.started_at))
    if work.silent_probes >= limits.wedged_probes and status.recycled_at is not None:
        waits.append(limits.recycle_pause - (now - status.recycled_at))
    due = [wait for wait in waits if wait > timedelta(0)]
    return min(due) + timedelta(seconds=1) if due else None
