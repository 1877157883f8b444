"""
Drives the active rollout: works out its next turn, does what it names, and saves what came of it.

One replica does, under a claim that lapses. Whatever it did not come to save is seen in the rows of the stacks by whoever
goes on, so that after a crash nothing is done twice and nobody is forgotten.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

import structlog

from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.lifecycle.rollouts.engine import next_turn
from opencode_lifecycle.lifecycle.rollouts.latecomers import latecomers
from opencode_lifecycle.lifecycle.rollouts.orders import decision_of
from opencode_lifecycle.lifecycle.rollouts.pace import Sights
from opencode_lifecycle.lifecycle.rollouts.planning import busy_state
from opencode_lifecycle.lifecycle.rollouts.standing import observed
from opencode_lifecycle.lifecycle.rollouts.turns import Action, Ask, Quiet, Turn, UseRelease
from opencode_lifecycle.lifecycle.rollouts.waves import turn_of
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.errors import ClaimLost
from opencode_lifecycle.model.identifiers import ReleaseId, UserId, new_event_id
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.rollout import BusyState, Member, PromptVerdict, Rollout
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.ports.rollouts import ClaimedRollout, RolloutStore
from opencode_lifecycle.ports.stores import ReleaseStore, StackStore

log = structlog.get_logger(__name__)

AskPrompt = Callable[[Stack, str], Awaitable[tuple[PromptVerdict, str]]]
"""Puts a prompt to the runtime of a stack, and says whether it answered, and in prose what came instead."""

LOOKS_EVERY: Final = 0.5
"""Seconds after which the row of the rollout is read again: another replica may have been told to pause it."""
GATHERING: Final = 0.2
"""Seconds in which changes of stacks are taken together, at least: with a fleet that moves they never end."""
SHARE: Final = 10
"""How many times longer than it takes to work out a turn the next one is waited for."""
DECISIONS_A_SECOND: Final = 100
TOGETHER: Final = 8
"""Decisions that are written at once. Whoever pauses the rollout waits for no more than these."""


class RolloutDriver:
    """`once()` is run again and again by every replica; the one that has the claim drives."""

    def __init__(
        self,
        *,
        rollouts: RolloutStore,
        stacks: StackStore,
        targets: ReleaseStore,
        fleet: Fleet,
        releases: Releases,
        pins: Callable[[], Mapping[str, ReleaseId]],
        hint: Callable[[UserId], object],
        ask: AskPrompt,
        catch_up: Callable[[], Awaitable[object]],
        now: Clock,
        claim_lifetime: timedelta,
        decisions_a_second: float = DECISIONS_A_SECOND,
    ) -> None:
        self._rollouts = rollouts
        self._stacks = stacks
        self._targets = targets
        self._fleet = fleet
        self._releases = releases
        self._pins = pins
        self._hint = hint
        self._ask = ask
        self._catch_up = catch_up
        self._now = now
        self._claim_lifetime = claim_lifetime
        self._pause_between = 1 / decisions_a_second
        self._held: ClaimedRollout | None = None
        self._members: dict[UserId, Member] = {}
        self._quiet = Quiet()
        self._news = asyncio.Event()
        self._told = asyncio.Event()
        self.is_driving = False

    def notice(self, user_id: UserId | None = None) -> None:
        """Look again soon: something of a stack changed. Costs nothing where it is none of the rollout's."""
        if user_id is None or (self.is_driving and user_id in self._members):
            self._news.set()

    def told(self) -> None:
        """Read the rollout again before anything else is done: somebody here has changed it, or begun one."""
        self._told.set()
        self._news.set()

    async def once(self) -> None:
        """Drive the active rollout until it ends or its claim is lost; where there is none, wait for one."""
        claimed = await self._claim()
        if claimed is None:
            await self._wait(self._news, LOOKS_EVERY)
            return
        self.is_driving = True
        try:
            await self._drive(claimed)
        except ClaimLost:
            # Another drives it, or it was changed: what is so is read anew.
            await self._let_go()
        finally:
            self.is_driving = False

    async def _claim(self) -> ClaimedRollout | None:
        self._told.clear()
        # Else what was told once, and is none of ours to drive, would be news for ever.
        self._news.clear()
        held, now = self._held, self._now()
        if held is not None and held.lapses_at > now:
            # From before a failure: it is ours still, and nobody else may begin before it lapses.
            rollout = await self._rollouts.get_rollout(held.rollout.id)
            if rollout is not None and rollout.is_active:
                return replace(held, rollout=rollout)
        self._held = None
        claimed = await self._rollouts.claim_rollout(now=now, lapses_at=now + self._claim_lifetime)
        self._held = claimed
        return claimed

    async def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await self._rollouts.release_rollout(held)

    async def _drive(self, claimed: ClaimedRollout) -> None:
        # What another replica did before it died may not have reached memory yet.
        await self._catch_up()
        await self._releases.refresh()
        members = await self._rollouts.rollout_members(claimed.rollout.id)
        members = sorted(members, key=lambda each: turn_of(claimed.rollout.release, each.user_id))
        self._members = {member.user_id: member for member in members}
        if claimed.rollout.release is not None:
            await self._releases.get(claimed.rollout.release)
        log.info("driving a rollout", rollout=claimed.rollout.id, stacks=len(members))
        read_at = monotonic()
        while claimed.rollout.is_active:
            began = monotonic()
            self._news.clear()
            turn = self._next_turn(claimed.rollout)
            took = monotonic() - began
            if _ends_way_back(claimed.rollout, turn) and (late := await self._latecomers(claimed.rollout)):
                log.info("others came to what is taken back", rollout=claimed.rollout.id, stacks=len(late))
                claimed = await self._take_in(claimed, late)
                continue
            before = claimed.rollout
            claimed, has_come_of_it = await self._take(claimed, turn)
            if not claimed.rollout.is_active:
                break
            if self._told.is_set() or monotonic() - read_at >= LOOKS_EVERY:
                read_at = monotonic()
                self._told.clear()
                await self._check(claimed)
            if _place(claimed.rollout) == _place(before):
                await self._rest(turn, took, has_come_of_it=has_come_of_it)
        self._held = None
        log.info("rollout ended", rollout=claimed.rollout.id, state=claimed.rollout.state)

    async def _latecomers(self, rollout: Rollout) -> Sequence[Member]:
        await self._catch_up()
        stacks = (known.stack for known in self._fleet)
        return latecomers(rollout, self._members, stacks, self._pins(), self._now())

    async def _take_in(self, claimed: ClaimedRollout, late: Sequence[Member]) -> ClaimedRollout:
        members = self._members | {member.user_id: member for member in late}
        claimed = await self._save(claimed, claimed.rollout, late, members=members)
        self._members = members
        return claimed

    def _next_turn(self, rollout: Rollout) -> Turn:
        target = self._releases.current
        sights = Sights(
            stack=self._stack,
            busy=self._busy,
            target=target.id if target is not None else None,
            pins=self._pins(),
        )
        return next_turn(rollout, list(self._members.values()), sights, self._now(), self._quiet)

    async def _check(self, claimed: ClaimedRollout) -> None:
        """Raise `ClaimLost` when somebody has changed the rollout."""
        active = await self._rollouts.active_rollout()
        if active is None or (active.id, active.version) != (claimed.rollout.id, claimed.rollout.version):
            raise ClaimLost

    async def _take(self, claimed: ClaimedRollout, turn: Turn) -> tuple[ClaimedRollout, bool]:
        """Do what *turn* names as long as nobody says otherwise, save what is so then, and say whether that is new."""
        rollout, changed = turn.rollout, {member.user_id: member for member in turn.members}
        asks = [action for action in turn.actions if isinstance(action, Ask)]
        try:
            for some in _together(turn.actions):
                if self._told.is_set():
                    raise ClaimLost
                claimed = await self._kept(claimed)
                rollout = await self._act(claimed, some, rollout, changed)
            claimed = await self._put_prompts(claimed, asks, changed)
        finally:
            self._members |= changed
        if not changed and rollout == claimed.rollout:
            return await self._kept(claimed), False
        return await self._save(claimed, rollout, list(changed.values())), True

    async def _kept(self, claimed: ClaimedRollout) -> ClaimedRollout:
        """Hold on to a claim of which a third has passed."""
        now = self._now()
        if claimed.lapses_at - now >= self._claim_lifetime * 2 / 3:
            return claimed
        self._held = await self._rollouts.save_rollout(
            claimed, claimed.rollout, (), lapses_at=now + self._claim_lifetime
        )
        return self._held

    async def _save(
        self,
        claimed: ClaimedRollout,
        rollout: Rollout,
        changed: Sequence[Member],
        *,
        members: Mapping[UserId, Member] | None = None,
    ) -> ClaimedRollout:
        """Save what came of a turn, or with *members* who is in it now."""
        now = self._now()
        if changed or rollout != claimed.rollout:
            counts = Counter(member.state for member in (members or self._members).values())
            rollout = replace(rollout, counts=dict(counts), updated_at=now)
        event = None
        if (rollout.state, rollout.promoted_at) != (claimed.rollout.state, claimed.rollout.promoted_at):
            event = _event_of(claimed.rollout, rollout)
        self._held = await self._rollouts.save_rollout(
            claimed,
            rollout,
            () if members is not None else changed,
            lapses_at=now + self._claim_lifetime,
            event=event,
            added=changed if members is not None else (),
        )
        return self._held

    async def _act(
        self,
        claimed: ClaimedRollout,
        some: Sequence[Action],
        rollout: Rollout,
        changed: dict[UserId, Member],
    ) -> Rollout:
        """Do *some* at once, whose writes are committed together; each is written under the claim or not at all."""
        now = self._now()
        if isinstance(some[0], UseRelease):
            await self._targets.use_release(some[0].release, under=claimed)
            await self._releases.refresh()
            return replace(rollout, promoted_at=None if some[0].back else now)
        outcomes = await asyncio.gather(
            *(self._decide(claimed, action, rollout, changed, now) for action in some), return_exceptions=True
        )
        decided = 0
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            decided += outcome
        await asyncio.sleep(self._pause_between * decided)
        return rollout

    async def _decide(
        self,
        claimed: ClaimedRollout,
        action: Action,
        rollout: Rollout,
        changed: dict[UserId, Member],
        now: datetime,
    ) -> int:
        """Write what *action* is to change of its stack, if it still is to; return how many decisions that took."""
        decide = decision_of(action, rollout, now)
        if decide is None or isinstance(action, Ask | UseRelease):
            return 0
        member = changed.get(action.member.user_id, action.member)
        situation, decision = await self._stacks.decide(member.user_id, decide, under=claimed)
        stack = decision.stack or situation.stack
        if decision.stack is not None:
            self._fleet.put(decision.stack)
            self._hint(member.user_id)
        seen = observed(rollout, member, stack, now)
        if seen is not member:
            changed[member.user_id] = seen
        return 1

    async def _put_prompts(
        self, claimed: ClaimedRollout, asks: Sequence[Ask], changed: dict[UserId, Member]
    ) -> ClaimedRollout:
        """
        Wait for the answers, and hold on to the claim, than which they may take longer.

        They are given up when somebody changes the rollout: whoever pauses it or turns it back waits for no answer.
        """
        text = claimed.rollout.specification.strategy.gate.prompt
        if not asks or text is None:
            return claimed

        async def put(member: Member) -> None:
            stack = self._stack(member.user_id)
            verdict, message = (PromptVerdict.UNKNOWN, "") if stack is None else await self._ask(stack, text)
            now = self._now()
            changed[member.user_id] = replace(member, prompt=verdict, message=message, changed_at=now)

        answers = asyncio.gather(*(put(ask.member) for ask in asks))
        try:
            while not answers.done():
                await asyncio.wait((answers,), timeout=LOOKS_EVERY)
                if self._told.is_set():
                    raise ClaimLost
                await self._check(claimed)
                claimed = await self._kept(claimed)
        finally:
            answers.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answers
        return claimed

    async def _rest(self, turn: Turn, took: float, *, has_come_of_it: bool) -> None:
        """
        Wait for news, and then for what comes together with it; and not beyond what the turn says.

        What came of the turn is news itself. What changed nothing is none, whatever it was: it would be done again at once,
        without end. Whoever changes the rollout waits for neither.
        """
        if not has_come_of_it:
            left = LOOKS_EVERY
            if turn.again_at is not None:
                left = min(left, max(GATHERING, (turn.again_at - self._now()).total_seconds()))
            await self._wait(self._news, left)
        await self._wait(self._told, max(GATHERING, SHARE * took))

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        if self._told.is_set():
            return
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass

    def _stack(self, user_id: UserId) -> Stack | None:
        known = self._fleet.get(user_id)
        return known.stack if known is not None else None

    def _busy(self, user_id: UserId) -> BusyState:
        known = self._fleet.get(user_id)
        return busy_state(known, self._now()) if known is not None else BusyState.UNKNOWN


def _together(actions: Sequence[Action]) -> Iterator[Sequence[Action]]:
    """Yield *actions* in their order, those that concern one stack each some at a time, and what concerns all alone."""
    some: list[Action] = []
    for action in actions:
        if isinstance(action, UseRelease):
            if some:
                yield some
            yield [action]
            some = []
            continue
        some.append(action)
        if len(some) == TOGETHER:
            yield some
            some = []
    if some:
        yield some


def _place(rollout: Rollout) -> tuple[object, ...]:
    """Return where the rollout stands: a turn that moved it there is followed by the next, which has nothing to wait for."""
    return rollout.state, rollout.wave, rollout.promoted_at


def _ends_way_back(rollout: Rollout, turn: Turn) -> bool:
    return rollout.goes_back and rollout.is_active and not turn.rollout.is_active


def _event_of(before: Rollout, after: Rollout) -> Event:
    kind = after.state if after.state is not before.state else "promoted"
    if after.state is before.state and after.promoted_at is None:
        kind = "target_restored"
    return Event(
        id=new_event_id(),
        user_id=UserId(""),
        kind=f"rollout.{kind}",
        actor="service",
        at=after.updated_at,
        generation=0,
        data={
            "rollout": after.id,
            "release": after.release,
            "reason": after.reason,
            "message": after.message,
        },
    )
