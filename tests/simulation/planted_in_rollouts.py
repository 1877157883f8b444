"""Bugs to plant where a fleet has rollouts, leases and agents at work."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from fakes.rollouts import FakeRollouts
from fakes.store import FakeStore
from opencode_lifecycle.lifecycle.reconciling.planning import migrating
from opencode_lifecycle.lifecycle.reconciling.planning.gate import Idle, may_interrupt
from opencode_lifecycle.lifecycle.reconciling.steps import Part
from opencode_lifecycle.lifecycle.rollouts import driver, engine, standing, turns
from opencode_lifecycle.lifecycle.rollouts.driver import RolloutDriver
from opencode_lifecycle.lifecycle.rollouts.gates import Judgement, Verdict
from opencode_lifecycle.lifecycle.rollouts.pace import Pace
from opencode_lifecycle.model import lease
from opencode_lifecycle.model.identifiers import RolloutId
from opencode_lifecycle.model.rollout import MemberState, RolloutState
from opencode_lifecycle.model.stack import Stack


@contextmanager
def places_given_in_a_turn_are_not_counted_in_it() -> Iterator[None]:
    with patch.object(Pace, "take", lambda *_: None):
        yield


@contextmanager
def a_place_is_counted_and_given_back_by_who_was_moved() -> Iterator[None]:
    """Places are a number that goes up with each order, and down with each end: whoever leaves in another way keeps his."""
    init, take, given = Pace.__init__, Pace.take, Counter[RolloutId]()

    def counting(self, rollout, cases):
        init(self, rollout, cases)
        self.of = rollout.id
        self.taken = given[rollout.id] - sum(1 for case in cases if case.member.state in _ENDED)

    def taking(self, case):
        given[self.of] += 1
        take(self, case)

    with patch.object(Pace, "__init__", counting), patch.object(Pace, "take", taking):
        yield


_ENDED = frozenset({MemberState.MIGRATED, MemberState.FAILED, MemberState.TAKEN_BACK})


@contextmanager
def who_is_gone_is_waited_for() -> Iterator[None]:
    observed = standing.observed

    def patient(rollout, member, stack, now):
        return member if stack is None else observed(rollout, member, stack, now)

    with patch.object(turns, "observed", patient), patch.object(driver, "observed", patient):
        yield


@contextmanager
def the_claim_of_a_dead_driver_never_lapses() -> Iterator[None]:
    claim = FakeRollouts.claim_rollout

    async def never(self, *, now, lapses_at):
        held, active = self.rollout_claim, self.the_active()
        if held is not None and active is not None and held[0] == active.id:
            return None
        return await claim(self, now=now, lapses_at=lapses_at)

    with patch.object(FakeRollouts, "claim_rollout", never):
        yield


@contextmanager
def a_gate_that_can_say_nothing_passes() -> Iterator[None]:
    with patch.object(engine, "judge_wave", lambda *_: Judgement(verdict=Verdict.PASSED)):
        yield


@contextmanager
def a_pause_is_not_looked_at() -> Iterator[None]:
    next_turn = driver.next_turn

    def deaf(rollout, *others):
        if rollout.state is RolloutState.PAUSED and not rollout.goes_back:
            rollout = replace(rollout, state=RolloutState.RUNNING)
        return next_turn(rollout, *others)

    with patch.object(driver, "next_turn", deaf):
        yield


@contextmanager
def whoever_was_overtaken_goes_on() -> Iterator[None]:
    """What is done for a rollout does not ask whose it is by then."""
    with patch.object(FakeRollouts, "check_rollout_claim", lambda *_: None):
        yield


@contextmanager
def an_order_is_not_found_in_the_row() -> Iterator[None]:
    """What was ordered, and could not be written down by whoever did, is ordered again."""
    with patch.object(standing, "_is_later", lambda *_: False):
        yield


@contextmanager
def who_is_on_the_way_is_forgotten_with_the_driver() -> Iterator[None]:
    read = FakeRollouts.rollout_members

    async def forgetful(self, rollout_id):
        members = await read(self, rollout_id)
        return [member for member in members if member.state is not MemberState.ORDERED]

    with patch.object(FakeRollouts, "rollout_members", forgetful):
        yield


@contextmanager
def what_was_taken_back_is_tried_again() -> Iterator[None]:
    with patch.object(Stack, "is_on_footing", lambda *_: False):
        yield


@contextmanager
def an_earlier_look_lets_a_runtime_be_stopped() -> Iterator[None]:
    """Whoever was idle when last looked at is interrupted, and not looked at once more as the last act."""
    at_gate = migrating.at_gate

    def hasty(work, change, now, limits):
        if isinstance(may_interrupt(work, now, limits), Idle):
            work = replace(work, done=work.done | {Part.ACTIVITY})
        return at_gate(work, change, now, limits)

    with patch.object(migrating, "at_gate", hasty):
        yield


@contextmanager
def a_stop_is_saved_without_a_look_at_the_lease() -> Iterator[None]:
    save = FakeStore.save

    async def blind(self, claimed, progress):
        return await save(self, claimed, replace(progress, unless_busy_at=None))

    with patch.object(FakeStore, "save", blind):
        yield


@contextmanager
def a_lease_is_given_without_a_look_at_the_stop() -> Iterator[None]:
    with patch.object(lease, "check_may_be_leased", lambda _: None):
        yield


@contextmanager
def whoever_was_told_once_asks_without_a_pause() -> Iterator[None]:
    claim = RolloutDriver._claim

    async def restless(self):
        was_told = self._news.is_set()
        claimed = await claim(self)
        if was_told:
            self._news.set()
        return claimed

    with patch.object(RolloutDriver, "_claim", restless):
        yield
