"""
Brings stacks to where they should be: claim, observe, plan, apply, save; one stack at a time, many at once.

A pass may be repeated, interrupted and taken over at any point. Every effect is idempotent and named after the stack; the
row moves before an effect that relies on the move, and a save under a lost claim changes nothing.
"""

from dataclasses import replace
from datetime import timedelta
from random import Random

import structlog

from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.reconciling.aims import Aims
from opencode_lifecycle.lifecycle.reconciling.effects import Effects, NotYet, SecretUnusable, WorkspaceLost
from opencode_lifecycle.lifecycle.reconciling.passes import Pass
from opencode_lifecycle.lifecycle.reconciling.planning import failed, marked, plan
from opencode_lifecycle.lifecycle.reconciling.planning.leaving import news_of_drain
from opencode_lifecycle.lifecycle.reconciling.planning.migrating import taken_back
from opencode_lifecycle.lifecycle.reconciling.planning.moves import with_order_failed
from opencode_lifecycle.lifecycle.reconciling.planning.recycling import news_of_health
from opencode_lifecycle.lifecycle.reconciling.steps import FinishDeletion, Limits, Move, Rest, Step, system_of
from opencode_lifecycle.lifecycle.reconciling.work import Desk
from opencode_lifecycle.lifecycle.requests.decisions import successor_of
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.errors import (
    Busy,
    ClaimLost,
    DeadlineExceeded,
    IllegalTransition,
    IndexConflict,
    NoCapacity,
    SecretMissing,
    UpstreamDenied,
    UpstreamError,
    UpstreamRejected,
    UpstreamUnavailable,
    VersionConflict,
)
from opencode_lifecycle.model.identifiers import UserId, new_event_id
from opencode_lifecycle.model.lease import is_reloading
from opencode_lifecycle.model.operation import Event, OperationState, PhaseEntered
from opencode_lifecycle.model.stack import KeptWorkspace, Stack
from opencode_lifecycle.model.states import UNAVAILABLE, Desired, MigrationState, Phase, Reason
from opencode_lifecycle.ports.stores import Claimed, OperationOutcome, Progress, StackStore

log = structlog.get_logger(__name__)

STEPS_OF_A_PASS = 40
"""More steps than any sound pass takes; a plan that goes round in circles ends here and is tried later."""
DEFECT_PAUSE = timedelta(minutes=1)
"""Until a stack is tried again with which we ran into a defect of ours."""


class Reconciler:
    """Takes one claimed stack as far as it will go now. Never raises for what a neighbour does."""

    def __init__(
        self,
        *,
        stacks: StackStore,
        aims: Aims,
        effects: Effects,
        fleet: Fleet,
        desk: Desk,
        limits: Limits,
        claim_lifetime: timedelta,
        now: Clock,
        random: Random,
    ) -> None:
        self._stacks = stacks
        self._aims = aims
        self._effects = effects
        self._fleet = fleet
        self._desk = desk
        self._limits = limits
        self._claim_lifetime = claim_lifetime
        self._now = now
        self._random = random
        self._held_up: dict[UserId, int] = {}
        """How often in a row a neighbour held a stack up: each pause is longer than the one before."""

    async def reconcile(self, claimed: Claimed) -> bool:
        """
        Take *claimed* to rest, or as far as its neighbours allow, and end the claim.

        Return whether it came to rest: else it is to be left alone until it is due, or until something is seen to change.
        """
        current = await self._begin(claimed)
        try:
            rests = await self._go_on(current)
        except ClaimLost:
            log.info("claim lost", job_id=claimed.stack.job_id)
            await self._stacks.release_claim(current.claimed, next_attempt_at=self._now())
            return True
        except Busy:
            # A lease came before the stop could be committed. The stack is looked at anew when that is known here.
            log.info("not interrupted", job_id=claimed.stack.job_id)
            await self._stacks.release_claim(current.claimed, next_attempt_at=self._now() + self._limits.poll)
            return False
        except IllegalTransition as error:
            # A defect of ours. The row stays as it was saved last, and a person must look.
            log.exception("illegal move", job_id=claimed.stack.job_id, error=error.message)
            await self._stacks.release_claim(current.claimed, next_attempt_at=self._now() + DEFECT_PAUSE)
            return False
        if rests:
            self._held_up.pop(claimed.stack.user_id, None)
        return rests

    async def _go_on(self, current: Pass) -> bool:
        try:
            return await self._go(current)
        except NotYet as error:
            status = replace(current.work.stack.status, message=str(error))
            soon = self._now() + timedelta(seconds=1)
            await self._save(current, Progress(status=status, next_attempt_at=soon))
        except SecretUnusable:
            message = (
                f"version {current.work.wanted.secret_version} of its secret has no password, so it runs on with the one "
                "before. Write another version with the key `password`, which is taken up by itself"
            )
            await self._give_up(current, Reason.SECRET_MISSING, message)
        except WorkspaceLost:
            message = (
                "its workspace volume is not there any more. Restore it, or delete the stack with workspace=delete and "
                "ensure it anew; then recover"
            )
            await self._give_up(current, Reason.WORKSPACE_UNAVAILABLE, message)
        except (UpstreamError, DeadlineExceeded) as error:
            await self._wait_out(current, error)
        return False

    async def _begin(self, claimed: Claimed) -> Pass:
        stack = claimed.stack
        await self._aims.load(stack)
        work = self._desk.work_on(stack, self._fleet.put(stack))
        assert work is not None, "its releases are in memory"
        return Pass(claimed, work, stack.status, {})

    async def _go(self, current: Pass) -> bool:
        generation = current.work.stack.intent.generation
        for _ in range(STEPS_OF_A_PASS):
            step = plan(current.work, now=self._now(), limits=self._limits)
            match step:
                case Move(status=status, unless_busy=unless_busy):
                    current.unless_busy = current.unless_busy or unless_busy
                    if status.reason is not None:
                        current.moved = status
                    current.work = self._desk.rework(current.work, current.work.stack.moved_to(status))
                case Rest():
                    await self._rest(current, step)
                    return True
                case FinishDeletion():
                    await self._finish_deletion(current)
                    return True
                case _:
                    await self._save_moves(current)
                    if current.work.stack.intent.generation != generation:
                        await self._begin_anew(current)
                        return True
                    await self._hold_claim(current)
                    await self._apply(current, step)
        job_id, phase = current.work.stack.job_id, current.work.stack.status.phase
        log.error("plan goes in circles", job_id=job_id, phase=phase)
        await self._stacks.release_claim(current.claimed, next_attempt_at=self._now() + DEFECT_PAUSE)
        return False

    async def _apply(self, current: Pass, step: Step) -> None:
        try:
            await self._effects.apply(current, step)
        except DeadlineExceeded as error:
            system = system_of(step)
            if system is None:
                raise
            raise UpstreamUnavailable(system, error.purpose, "no answer in time") from error

    async def _begin_anew(self, current: Pass) -> None:
        """
        Leave a pass whose stack is wanted otherwise by now.

        1. A start has made the secret; the stack is deleted meanwhile, and the next save brings that.
        2. For the deletion the secret would count as seen to, and stay.
        """
        log.debug("wanted otherwise by now", job_id=current.work.stack.job_id)
        await self._stacks.release_claim(current.claimed, next_attempt_at=self._now())

    async def _hold_claim(self, current: Pass) -> None:
        """
        Make sure before an effect that the stack is still ours until the effect has ended, however slow it is.

        A process that was frozen meanwhile finds its claim taken here, and does nothing to what another started. So
        nothing that takes time comes between this and the effect, and a renewal that took long itself is not enough.
        """
        while current.claimed.lapses_at - self._now() < self._claim_lifetime * 2 / 3:
            lapses_at = self._now() + self._claim_lifetime
            current.claimed = await self._stacks.renew_claim(current.claimed, lapses_at=lapses_at)

    # --- saving

    async def _save_moves(self, current: Pass) -> None:
        """Save what the next effect relies on: the phase, a reload, and which generations were seen to."""
        status, saved = current.work.stack.status, current.saved
        if (status.phase, status.fresh_start_done, status.rotation_done, is_reloading(status)) != (
            saved.phase,
            saved.fresh_start_done,
            saved.rotation_done,
            is_reloading(saved),
        ):
            await self._save(current, Progress(status=status, next_attempt_at=self._now(), keep_claim=True))

    async def _save(self, current: Pass, progress: Progress) -> None:
        # Also when its neighbours hold it up, or refuse the change: the fleet is counted by what is marked here.
        progress = replace(progress, status=marked(current.work, progress.status))
        stack = current.work.stack.moved_to(progress.status)
        status = stack.status
        events = [self._event(stack, kind, **data) for kind, data in current.notes]
        if status.phase is not current.saved.phase:
            moved = current.moved
            why = moved if moved is not None and status.reason in {None, moved.reason} else status
            events.append(
                self._event(
                    stack,
                    f"phase.{status.phase}",
                    **{"from": current.saved.phase, "reason": why.reason, "message": why.message},
                )
            )
            progress = replace(progress, entered=PhaseEntered(phase=status.phase, at=status.phase_since))
            tell = log.warning if status.phase is Phase.FAILED else log.info
            tell(
                "phase entered",
                job_id=stack.job_id,
                phase=status.phase,
                before=current.saved.phase,
                reason=why.reason,
                message=why.message,
            )
        news = (
            news_of_drain(current.saved, status, current.work.closed_node),
            news_of_health(current.saved, status, current.work.silent_probes),
        )
        events.extend(self._event(stack, each[0], **each[1]) for each in news if each is not None)
        if current.saved.secret_version not in {None, status.secret_version} and status.secret_version:
            versions = {"from": current.saved.secret_version, "to": status.secret_version}
            events.append(self._event(stack, "secret.version", **versions))
        if current.unless_busy:
            progress = replace(progress, unless_busy_at=self._now())
        progress = replace(progress, events=tuple(events))
        saved = await self._stacks.save(current.claimed, progress)
        current.claimed = replace(current.claimed, stack=saved)
        current.saved, current.unless_busy = progress.status, False
        current.notes.clear()
        current.moved = None
        current.work = replace(current.work, stack=saved)
        self._fleet.put(saved)

    def _event(self, stack: Stack, kind: str, **data: object) -> Event:
        return Event(
            id=new_event_id(),
            user_id=stack.user_id,
            kind=kind,
            actor="service",
            at=self._now(),
            generation=stack.intent.generation,
            data=data,
        )

    async def _rest(self, current: Pass, rest: Rest) -> None:
        until = self._now() + rest.wait if rest.wait is not None else None
        outcome = None
        if rest.succeeded is not None:
            status = rest.status
            outcome = (
                OperationOutcome(state=OperationState.SUCCEEDED)
                if rest.succeeded
                else OperationOutcome(
                    state=OperationState.FAILED, reason=status.reason, message=status.message
                )
            )
        await self._save(current, Progress(status=rest.status, next_attempt_at=until, outcome=outcome))

    async def _wait_out(self, current: Pass, error: UpstreamError | DeadlineExceeded) -> None:
        """Keep the intent, say what is in the way, and come back. Nothing is concluded from not having been served."""
        stack = current.work.stack
        status = stack.status
        level = log.error if isinstance(error, UpstreamDenied) else log.warning
        level("held up", job_id=stack.job_id, phase=status.phase, kind=error.code, error=error.message)
        if _is_final(error) and stack.intent.desired is Desired.RUNNING:
            await self._give_up(current, Reason.JOB_REJECTED, error.message)
            return
        reason = _reason_of(error)
        overdue = self._now() - status.phase_since >= self._limits.start
        is_starting = stack.intent.desired is Desired.RUNNING and status.phase in {
            Phase.PENDING,
            Phase.STARTING,
        }
        outcome = None
        attempts = status.attempts + 1
        if overdue and is_starting:
            status = failed(stack, reason, error.message, self._now())
            outcome = OperationOutcome(state=OperationState.FAILED, reason=reason, message=error.message)
        elif status.phase not in {Phase.RUNNING, Phase.STOPPED, Phase.FAILED}:
            # What a failed stack failed of stays said: it may be a reason not to try again.
            # Why a runtime is being replaced is what its plan goes by; what is in the way is only told.
            is_replaced = status.phase is Phase.STOPPING and status.reason is not None
            reason = status.reason if is_replaced and status.reason is not None else reason
            status = replace(status, reason=reason, message=error.message, attempts=attempts)
        elif status.phase is Phase.RUNNING:
            # Nothing is said against a runtime that runs; but each try waits longer than the one before.
            status = replace(status, attempts=attempts)
        elif status.phase is Phase.STOPPED:
            status = replace(status, message=error.message)
        self._held_up[stack.user_id] = in_a_row = self._held_up.get(stack.user_id, 0) + 1
        pause = timedelta(seconds=self._limits.outage.seconds(max(attempts, in_a_row), self._random))
        await self._save(
            current, Progress(status=status, next_attempt_at=self._now() + pause, outcome=outcome)
        )

    async def _give_up(self, current: Pass, reason: Reason, message: str) -> None:
        """
        Fail for good: the same request would be refused again. A person must change something and ask anew.

        A runtime that is proven keeps running: only the change of it was refused.
        """
        stack = current.work.stack
        if stack.status.phase is Phase.RUNNING:
            status = replace(
                with_order_failed(stack),
                observed_generation=stack.intent.generation,
                migration_state=MigrationState.FAILED,
                reason=reason,
                message=message,
            )
        elif (back := taken_back(current.work, reason, message, self._now())) is not None:
            await self._save(current, Progress(status=back, next_attempt_at=self._now()))
            return
        else:
            status = failed(stack, reason, message, self._now())
        outcome = OperationOutcome(state=OperationState.FAILED, reason=reason, message=message)
        await self._save(current, Progress(status=status, next_attempt_at=None, outcome=outcome))
        log.error("given up", job_id=stack.job_id, reason=reason, message=message)

    async def _finish_deletion(self, current: Pass) -> None:
        stack = current.work.stack
        workspace = stack.status.workspace
        successor = successor_of(stack, now=self._now())
        keep = workspace is not None and not stack.intent.delete_workspace
        kept = None
        if workspace is not None and keep and successor is None:
            kept = KeptWorkspace(
                user_id=stack.user_id, job_id=stack.job_id, workspace=workspace, kept_at=self._now()
            )
        current.receipt.setdefault("job", "absent")
        current.receipt.setdefault("workspace", "kept" if keep else "none")
        receipt = {**current.receipt, "job_id": stack.job_id, "at": self._now().isoformat()}
        event = self._event(stack, "stack.deleted", **receipt)
        await self._stacks.finish_deletion(
            current.claimed,
            outcome=OperationOutcome(state=OperationState.SUCCEEDED, receipt=receipt),
            events=(event,),
            kept=kept,
            successor=successor,
        )
        log.info("stack deleted", job_id=stack.job_id, workspace=receipt["workspace"])
        again = await self._stacks.get(stack.user_id)
        if again is not None:
            self._fleet.put(again)
        else:
            self._fleet.remove(stack.user_id)


def _reason_of(error: UpstreamError | DeadlineExceeded) -> Reason:
    if isinstance(error, SecretMissing):
        return Reason.SECRET_MISSING
    if isinstance(error, NoCapacity):
        return Reason.NO_CAPACITY
    if _is_final(error):
        return Reason.JOB_REJECTED
    return UNAVAILABLE.get(error.system if isinstance(error, UpstreamError) else "", Reason.UNKNOWN)


def _is_final(error: UpstreamError | DeadlineExceeded) -> bool:
    """Whether Nomad has read what it was asked for and will never do it."""
    return (
        isinstance(error, UpstreamRejected)
        and error.system == "nomad"
        and not isinstance(error, IndexConflict | VersionConflict)
    )
