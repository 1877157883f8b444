"""
What would be done for a stack, step by step, without doing it.

The plan is pure, so it can be asked again and again about what would be so after each of its steps. What only reads is
really read; what would change something is taken to succeed.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from opencode_lifecycle.lifecycle.reconciling import steps
from opencode_lifecycle.lifecycle.reconciling.planning import plan
from opencode_lifecycle.lifecycle.reconciling.steps import Limits, Move, Part, Rest, Step, Work
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError, UpstreamRejected
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.observation import ABSENT, ClientStatus, JobSeen
from opencode_lifecycle.model.stack import Stack, Status
from opencode_lifecycle.model.staleness import Staleness, staleness_of
from opencode_lifecycle.ports.prober import Reloaded, ReloadResult

_MOST_STEPS: Final = 40

WORDS: Final[Mapping[type[Step], str]] = {
    steps.Look: "look at the job in Nomad",
    steps.LookAtNodes: "look which nodes take nothing new",
    steps.CompareJob: "compare the job with what was registered",
    steps.CheckJob: "have Nomad check the job that is to follow",
    steps.LookAtActivity: "look whether its agent works",
    steps.CheckDelivery: "see whether its live files have arrived",
    steps.Reload: "let it read its configuration anew",
    steps.AbortTurns: "end the turns that are at work",
    steps.LookForCutTurns: "look for turns that were cut off",
    steps.ReadReport: "read what its entrypoint said of its data",
    steps.MakeSecret: "make its secret, or take the one there is",
    steps.RotateSecret: "write a new password",
    steps.MakeWorkspace: "make its workspace volume, or take the one there is",
    steps.PublishLiveFiles: "publish its instructions and managed configuration",
    steps.RegisterJob: "register the job",
    steps.StopJob: "stop the job",
    steps.PurgeJob: "purge the job",
    steps.CheckServiceGone: "check that Consul has forgotten the service",
    steps.DestroySecret: "destroy its secret",
    steps.ClearLiveFiles: "delete its pointer to the live files",
    steps.DestroyWorkspace: "delete its workspace volume",
    steps.FinishDeletion: "forget the stack",
}
"""In words for people; moves and rests have their own."""

_PARTS: Final[Mapping[type[Step], Part]] = {
    steps.MakeSecret: Part.SECRET,
    steps.RotateSecret: Part.SECRET,
    steps.DestroySecret: Part.SECRET,
    steps.MakeWorkspace: Part.WORKSPACE,
    steps.DestroyWorkspace: Part.WORKSPACE,
    steps.PublishLiveFiles: Part.LIVE_FILES,
    steps.ClearLiveFiles: Part.LIVE_FILES,
    steps.CheckServiceGone: Part.SERVICE,
    steps.CheckDelivery: Part.DELIVERY,
    steps.Reload: Part.RELOAD,
    steps.AbortTurns: Part.ABORT,
    steps.LookForCutTurns: Part.TURNS,
    steps.ReadReport: Part.REPORT,
}
_READS: Final = (steps.Look, steps.LookAtNodes, steps.CompareJob, steps.CheckJob, steps.LookAtActivity)

Read = Callable[[Work, Step], Awaitable[Work]]
Rework = Callable[[Work, Stack], Work]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """
    What would be done, in *words*, the *status* in which the stack would then rest, and the reasons for it: all that the
    stack is found to be stale in on the way, most of which is over by then.
    """

    words: Sequence[str]
    status: Status
    staleness: Sequence[Staleness]


async def forecast(work: Work, read: Read, rework: Rework, *, now: datetime, limits: Limits) -> Forecast:
    """
    Return what would be done about the stack of *work*.

    *rework* says what a stack should be: each pass learns of a new secret before it is judged by it.
    """
    as_it_is = work.stack.status
    words: list[str] = []
    found: dict[Facet, Staleness] = {}
    for _ in range(_MOST_STEPS):
        work = rework(work, work.stack)
        step = plan(work, now=now, limits=limits)
        status = work.stack.status
        found = _found(work, status) | found
        match step:
            case Rest(status=last):
                words += _marks(status, last)
                return _forecast(words, last, _found(work, last) | found)
            case Move(status=moved):
                if moved.phase is not status.phase:
                    words.append(f"call it {moved.phase}" + (f" ({moved.reason})" if moved.reason else ""))
                work = replace(work, stack=work.stack.moved_to(moved))
            case _:
                words.append(WORDS[type(step)])
                if isinstance(step, steps.FinishDeletion | steps.RegisterJob):
                    return _forecast(words, status, found)
                try:
                    work = await read(work, step) if isinstance(step, _READS) else _after(work, step)
                except UpstreamRejected as error:
                    return _forecast([f"leave it as it is: {error.message}"], as_it_is, found)
                except (UpstreamError, DeadlineExceeded) as error:
                    return _forecast([f"wait: {error.message}"], as_it_is, found)
    return _forecast(words, work.stack.status, found)


def _found(work: Work, status: Status) -> dict[Facet, Staleness]:
    reasons = staleness_of(status, work.asked, desired=work.stack.intent.desired)
    return {reason.facet: reason for reason in reasons}


def _forecast(words: Sequence[str], status: Status, found: Mapping[Facet, Staleness]) -> Forecast:
    # Of what has vanished it does not matter any more what it was.
    told = [Facet.MISSING] if Facet.MISSING in found else [facet for facet in Facet if facet in found]
    return Forecast(words=words, status=status, staleness=[found[facet] for facet in told])


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
    if isinstance(step, steps.RotateSecret):
        status = replace(status, secret_version=step.known + 1, rotation_done=work.stack.intent.rotation)
    elif isinstance(step, steps.MakeSecret):
        status = replace(status, secret_version=status.secret_version or 1)
    elif isinstance(step, steps.StopJob) and seen is not None and isinstance(seen.job, JobSeen):
        ended = [replace(each, client_status=ClientStatus.COMPLETE) for each in seen.allocations]
        seen = replace(seen, job=replace(seen.job, stopped=True), allocations=ended)
    elif isinstance(step, steps.PurgeJob) and seen is not None:
        seen = replace(seen, job=ABSENT, allocations=())
    done = work.done | {_PARTS[type(step)]} if type(step) in _PARTS else work.done
    if isinstance(step, steps.CheckDelivery):
        work = replace(work, delivered=True)
    elif isinstance(step, steps.Reload):
        work = replace(work, reloaded=Reloaded(result=ReloadResult.RELOADED))
    return replace(work, stack=work.stack.moved_to(status), observation=seen, done=done)
