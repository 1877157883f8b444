"""
What would be done for a stack, step by step, without doing it.

The plan is pure, so it can be asked again and again about what would be so after each of its steps. What only reads is
really read; what would change something is taken to succeed.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from opencode_lifecycle.lifecycle.reconciling.planning import plan
from opencode_lifecycle.lifecycle.reconciling.steps import (
    AbortTurns,
    CheckDelivery,
    CheckJob,
    CheckServiceGone,
    ClearLiveFiles,
    CompareJob,
    DestroySecret,
    DestroyWorkspace,
    FinishDeletion,
    Limits,
    Look,
    LookAtActivity,
    LookForCutTurns,
    MakeSecret,
    MakeWorkspace,
    Move,
    Part,
    PublishLiveFiles,
    PurgeJob,
    RegisterJob,
    Reload,
    Rest,
    RotateSecret,
    Step,
    StopJob,
    Work,
)
from opencode_lifecycle.model.observation import ABSENT, ClientStatus, JobSeen
from opencode_lifecycle.model.stack import Stack, Status
from opencode_lifecycle.ports.prober import Reloaded, ReloadResult

_MOST_STEPS: Final = 40

WORDS: Final[Mapping[type[Step], str]] = {
    Look: "look at the job in Nomad",
    CompareJob: "compare the job with what was registered",
    CheckJob: "have Nomad plan the job that is to follow",
    LookAtActivity: "look whether its agent works",
    CheckDelivery: "see whether its live files have arrived",
    Reload: "let it read its configuration anew",
    AbortTurns: "end the turns that are at work",
    LookForCutTurns: "look for turns that were cut off",
    MakeSecret: "make its secret, or take the one there is",
    RotateSecret: "write a new password",
    MakeWorkspace: "make its workspace volume, or take the one there is",
    PublishLiveFiles: "publish its instructions and managed configuration",
    RegisterJob: "register the job",
    StopJob: "stop the job",
    PurgeJob: "purge the job",
    CheckServiceGone: "check that Consul has forgotten the service",
    DestroySecret: "destroy its secret",
    ClearLiveFiles: "delete its pointer to the live files",
    DestroyWorkspace: "delete its workspace volume",
    FinishDeletion: "forget the stack",
}
"""In words for people; moves and rests have their own."""

_PARTS: Final[Mapping[type[Step], Part]] = {
    MakeSecret: Part.SECRET,
    RotateSecret: Part.SECRET,
    DestroySecret: Part.SECRET,
    MakeWorkspace: Part.WORKSPACE,
    DestroyWorkspace: Part.WORKSPACE,
    PublishLiveFiles: Part.LIVE_FILES,
    ClearLiveFiles: Part.LIVE_FILES,
    CheckServiceGone: Part.SERVICE,
    CheckDelivery: Part.DELIVERY,
    Reload: Part.RELOAD,
    AbortTurns: Part.ABORT,
    LookForCutTurns: Part.TURNS,
}
_READS: Final = (Look, CompareJob, CheckJob, LookAtActivity)

Read = Callable[[Work, Step], Awaitable[Work]]
Rework = Callable[[Work, Stack], Work]


async def forecast(
    work: Work, read: Read, rework: Rework, *, now: datetime, limits: Limits
) -> tuple[list[str], Status]:
    """
    Return what would be done, in words, and the status in which the stack would then rest.

    *rework* says what a stack should be: each pass learns of a new secret before it is judged by it.
    """
    words: list[str] = []
    for _ in range(_MOST_STEPS):
        work = rework(work, work.stack)
        step = plan(work, now=now, limits=limits)
        status = work.stack.status
        match step:
            case Rest(status=last):
                words += _marks(status, last)
                return words, last
            case Move(status=moved):
                if moved.phase is not status.phase:
                    words.append(f"call it {moved.phase}" + (f" ({moved.reason})" if moved.reason else ""))
                work = replace(work, stack=work.stack.moved_to(moved))
            case _:
                words.append(WORDS[type(step)])
                if isinstance(step, FinishDeletion | RegisterJob):
                    return words, status
                work = await read(work, step) if isinstance(step, _READS) else _after(work, step)
    return words, work.stack.status


def _marks(before: Status, after: Status) -> list[str]:
    marks = []
    if after.phase is not before.phase or (after.reason is not before.reason and after.reason is not None):
        marks.append(f"mark it {after.reason or after.phase}")
    if after.stale != before.stale:
        names = ", ".join(sorted(after.stale)) or "nothing any more"
        marks.append(f"mark it stale in {names}" if after.stale else "mark it current")
    if after.health is not before.health:
        marks.append(f"mark it {after.health}")
    return marks


def _after(work: Work, step: Step) -> Work:
    """Return what would be known after *step*, had it succeeded."""
    status, seen = work.stack.status, work.observation
    if isinstance(step, RotateSecret):
        status = replace(status, secret_version=step.known + 1, rotation_done=work.stack.intent.rotation)
    elif isinstance(step, MakeSecret):
        status = replace(status, secret_version=status.secret_version or 1)
    elif isinstance(step, StopJob) and seen is not None and isinstance(seen.job, JobSeen):
        ended = [replace(each, client_status=ClientStatus.COMPLETE) for each in seen.allocations]
        seen = replace(seen, job=replace(seen.job, stopped=True), allocations=ended)
    elif isinstance(step, PurgeJob) and seen is not None:
        seen = replace(seen, job=ABSENT, allocations=())
    done = work.done | {_PARTS[type(step)]} if type(step) in _PARTS else work.done
    if isinstance(step, CheckDelivery):
        work = replace(work, delivered=True)
    elif isinstance(step, Reload):
        work = replace(work, reloaded=Reloaded(result=ReloadResult.RELOADED))
    return replace(work, stack=work.stack.moved_to(status), observation=seen, done=done)
