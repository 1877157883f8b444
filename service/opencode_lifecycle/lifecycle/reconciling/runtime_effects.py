"""What migrations ask of a runtime, and read back of it. What cannot be seen is unknown, and never counts for done."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from opencode_lifecycle.lifecycle.observing.data_reports import DataReports
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.observing.vouching import Vouching
from opencode_lifecycle.lifecycle.reconciling.passes import Pass
from opencode_lifecycle.lifecycle.reconciling.steps import (
    AbortTurns,
    CheckDelivery,
    LookAtActivity,
    LookForCutTurns,
    Part,
    ReadReport,
    Reload,
)
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError
from opencode_lifecycle.model.identifiers import AllocationId, UserId
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.orchestrator import Orchestrator
from opencode_lifecycle.ports.prober import ReadPassword, Reloaded, ReloadResult, RuntimeProber, Turn
from opencode_lifecycle.ports.stores import EventStore

log = structlog.get_logger(__name__)

INSTRUCTIONS_FILE: Final = "server/local/live/instructions/AGENTS.md"
MANAGED_FILE: Final = "server/local/live/managed/opencode.json"
"""Where the job templates render the live files, in the directory of the allocation."""
_LONGEST_TURN: Final = timedelta(hours=1)
_CUT_OFF: Final = "stack.turns_cut_off"
_MOST_RESTARTS: Final = 20
"""Of which it is remembered what they cut off: many more than there are in the time that a turn may take."""
_MOST_BYTES: Final = 128 * 1024
"""Of a live file that is read back: twice what a bundle may hold."""

AskedOfRuntime = LookAtActivity | CheckDelivery | Reload | AbortTurns | LookForCutTurns | ReadReport


class RuntimeEffects:
    """Each takes one step and learns from its answer; none raises for what a runtime does."""

    def __init__(
        self,
        *,
        orchestrator: Orchestrator,
        history: EventStore,
        reports: DataReports,
        vouching: Vouching,
        fleet: Fleet,
        now: Clock,
    ) -> None:
        self._orchestrator = orchestrator
        self._history = history
        self._reports = reports
        self._vouching = vouching
        self._fleet = fleet
        self._now = now

    async def apply(self, current: Pass, step: AskedOfRuntime, release: Release, deadline: Deadline) -> None:
        match step:
            case LookAtActivity():
                await self._look_at_activity(current, deadline)
            case CheckDelivery():
                await self._check_delivery(current, release, deadline)
            case Reload():
                await self._reload(current, deadline)
            case AbortTurns():
                await self._abort_turns(current, deadline)
            case LookForCutTurns():
                await self._look_for_cut_turns(current, deadline)
            case ReadReport(allocation_id=allocation_id):
                await self._read_report(current, allocation_id)

    async def _look_at_activity(self, current: Pass, deadline: Deadline) -> None:
        """Ask the runtime what its sessions do. That it cannot be seen is an answer, too: unknown, which counts as busy."""
        stack = current.work.stack
        activity = await self._vouching.activity(stack, deadline)
        now = self._now()
        self._fleet.saw_activity(stack.user_id, activity, now)
        work = replace(current.work, activity=activity, activity_at=now)
        current.work = replace(work, done=work.done | {Part.ACTIVITY})

    async def _check_delivery(self, current: Pass, release: Release, deadline: Deadline) -> None:
        """Read both live files back from the allocation and hold them against what was published."""
        work = current.work
        runtime = work.stack.status.runtime
        assert runtime is not None, "only to what runs is anything delivered"
        delivered: bool | None = True
        try:
            for path, text in ((INSTRUCTIONS_FILE, release.instructions), (MANAGED_FILE, release.managed)):
                found = await self._orchestrator.read_file(
                    runtime.allocation_id, path, limit=_MOST_BYTES, deadline=deadline
                )
                delivered = delivered and found == text.encode()
        except (UpstreamError, DeadlineExceeded) as error:
            log.info("delivery unknown", job_id=work.stack.job_id, error=error.message)
            delivered = None
        current.work = replace(work, delivered=delivered, done=work.done | {Part.DELIVERY})

    async def _reload(self, current: Pass, deadline: Deadline) -> None:
        work = current.work

        async def ask(prober: RuntimeProber, address: Address, read: ReadPassword) -> Reloaded:
            return await prober.reload(address=address, read_password=read, deadline=deadline)

        reloaded = await self._vouching.ask(work.stack, "reload", ask, deadline)
        reloaded = reloaded or Reloaded(result=ReloadResult.NOT_ASKED, detail="it could not be asked")
        current.note(
            "stack.reloaded", result=reloaded.result, detail=reloaded.detail, broken=list(reloaded.broken)
        )
        current.work = replace(work, reloaded=reloaded, done=work.done | {Part.RELOAD})

    async def _abort_turns(self, current: Pass, deadline: Deadline) -> None:
        """End what is at work, as far as it can be reached: whoever is stopped by force is not waited for."""
        work = current.work

        async def ask(prober: RuntimeProber, address: Address, read: ReadPassword) -> Sequence[Turn] | None:
            return await prober.abort_turns(address=address, read_password=read, deadline=deadline)

        turns = await self._vouching.ask(work.stack, "abort turns", ask, deadline)
        if turns is None or turns:
            current.note("stack.turns_aborted", **_told(turns))
        current.work = replace(work, done=work.done | {Part.ABORT})

    async def _look_for_cut_turns(self, current: Pass, deadline: Deadline) -> None:
        work = current.work
        since = work.stack.status.migrating_since
        assert since is not None, "only of a migration that began is this asked"

        async def ask(prober: RuntimeProber, address: Address, read: ReadPassword) -> Sequence[Turn] | None:
            return await prober.interrupted_turns(
                address=address, read_password=read, since=_a_while_before(since), deadline=deadline
            )

        turns = await self._vouching.ask(work.stack, "interrupted turns", ask, deadline)
        if turns and (new := await self._not_told_yet(work.stack.user_id, turns)):
            current.note(_CUT_OFF, **_told(new))
        current.work = replace(work, done=work.done | {Part.TURNS})

    async def _not_told_yet(self, user_id: UserId, turns: Sequence[Turn]) -> Sequence[Turn]:
        """Leave out what an earlier restart has cut off: a runtime names it until its session goes on."""
        events = await self._history.latest_events(user_id, _CUT_OFF, limit=_MOST_RESTARTS)
        told = {_name_of(turn) for event in events for turn in event.data["turns"]}
        return [turn for turn in turns if _name_of(_as_told(turn)) not in told]

    async def _read_report(self, current: Pass, allocation_id: AllocationId) -> None:
        work = current.work
        report, is_unknown = None, False
        try:
            looked = await self._reports.look(work.stack, allocation_id)
        except (UpstreamError, DeadlineExceeded) as error:
            log.info("report of the data unknown", job_id=work.stack.job_id, error=error.message)
            is_unknown = True
        else:
            report = looked.report if looked is not None else None
        done = work.done | {Part.REPORT}
        current.work = replace(work, report=report, is_report_unknown=is_unknown, done=done)


def _a_while_before(since: datetime) -> datetime:
    """Return from when on a session counts: the last that a turn wrote may lie before its migration began."""
    return since - _LONGEST_TURN


def _told(turns: Sequence[Turn] | None) -> dict[str, object]:
    if turns is None:
        return {"turns": None, "message": "it could not be seen which there were"}
    return {"turns": [_as_told(turn) for turn in turns]}


def _as_told(turn: Turn) -> dict[str, str]:
    told = {"session": turn.session_id, "directory": turn.directory}
    return told if turn.began_at is None else {**told, "began_at": turn.began_at.isoformat()}


def _name_of(turn: Mapping[str, str]) -> tuple[str, str | None]:
    """Return what tells a turn in the history from every other: its session may have been cut off more than once."""
    return turn["session"], turn.get("began_at")
