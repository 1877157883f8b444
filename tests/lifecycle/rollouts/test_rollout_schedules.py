"""
Rollouts under everything that can happen at once, in virtual time: what holds after every step of hundreds of schedules.

A schedule is drawn from its seed: who is at work, which release is bad, what people do meanwhile, and after which effect the
process that drives the rollout dies. One that fails is run again with `-k seed-<n>`.
"""

from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from opencode_lifecycle.lifecycle.rollouts.standing import is_working, order_of
from opencode_lifecycle.lifecycle.rollouts.turns import Order, OrderBack
from opencode_lifecycle.model.migration import AtDeadline, MigrationClass
from opencode_lifecycle.model.rollout import MemberState, RolloutState
from opencode_lifecycle.model.rollout_specification import Amount, Gate
from opencode_lifecycle.model.states import Desired
from rollout_examples import Crashed, ToyDriver, a_fleet, a_specification
from toy_fleet import NEW, OLD, stopped

SEEDS = 200
STEPS = 400
AS_ONE = {RolloutState.SUCCEEDED, RolloutState.ROLLED_BACK, RolloutState.FAILED, RolloutState.ABORTED}


class Schedule:
    """One rollout, and what happens while it goes on."""

    def __init__(self, seed: int) -> None:
        random = self.random = Random(seed)
        self.fleet = a_fleet(random.randint(0, 16), seed=seed)
        fleet = self.fleet
        fleet.migration_class = random.choice([*MigrationClass, MigrationClass.RESTART])
        fleet.bad = frozenset({NEW}) if random.random() < 0.2 else frozenset()
        fleet.clumsy = frozenset(user for user in fleet.stacks if random.random() < 0.1)
        fleet.busy = {user for user in fleet.stacks if random.random() < 0.3}
        for user in list(fleet.stacks):
            if random.random() < 0.15:
                fleet.put(stopped(fleet.stacks[user]))
        self.driver = ToyDriver.of(
            fleet,
            a_specification(
                canary=random.choice([Amount(count=0), Amount(count=1), Amount(percent=30)]),
                waves=random.choice(
                    [(Amount(percent=10),), (Amount(count=1), Amount(count=5)), (Amount(percent=100),)]
                ),
                max_in_flight=random.randint(1, 5),
                max_unavailable=random.choice([None, Amount(count=1), Amount(count=3), Amount(percent=20)]),
                soak=timedelta(seconds=random.choice([0, 20])),
                gate=Gate(
                    failure_budget=random.choice([Amount(count=0), Amount(percent=20), Amount(count=50)])
                ),
                deadline=timedelta(seconds=random.choice([0, 60, 600])),
                at_deadline=random.choice(list(AtDeadline)),
            ),
            crash=self.crash,
            check=self.check_turn,
        )
        self.meddled = set()
        self.quiet = False
        self.crashes = random.choice([0.0, 0.05, 0.3])

    # --- what happens

    def crash(self) -> None:
        if not self.quiet and self.random.random() < self.crashes:
            raise Crashed

    def run(self) -> None:
        for _ in range(STEPS):
            if not self.driver.rollout.is_active:
                break
            self.step(people=True)
        self.quiet = True
        self.fleet.busy.clear()
        for _ in range(20_000):
            if not self.driver.rollout.is_active:
                break
            if self.driver.rollout.state is RolloutState.PAUSED:
                assert self.driver.rollout.reason is not None
                self.answer_the_pause()
            self.step(people=False)
        self.check_end()

    def answer_the_pause(self) -> None:
        self.random.choice(
            [self.driver.resume, self.driver.resume, self.driver.abort, self.driver.roll_back]
        )()

    def step(self, *, people: bool) -> None:
        if people and self.random.random() < 0.1:
            self.have_somebody_do_something()
        if self.random.random() < 0.7:
            self.take_turn()
        moving = self.random.sample(sorted(self.fleet.stacks), self.random.randint(0, len(self.fleet.stacks)))
        for user in moving:
            self.fleet.step(user)
            self.check_fleet()
        self.fleet.pass_time(self.random.choice([0.1, 1, 5, 40]))

    def take_turn(self) -> None:
        try:
            turn = self.driver.take_turn()
        except Crashed:
            return
        if not turn.actions:
            self.check_that_it_is_idempotent()

    def have_somebody_do_something(self) -> None:
        fleet, driver, random = self.fleet, self.driver, self.random
        if random.random() < 0.15:
            state = driver.rollout.state
            choices = {
                RolloutState.RUNNING: [driver.pause, driver.pause, driver.abort, driver.roll_back],
                RolloutState.PAUSED: [driver.resume, driver.resume, driver.abort, driver.roll_back],
                RolloutState.ROLLING_BACK: [driver.pause, driver.abort],
                RolloutState.ABORTED: [driver.roll_back],
            }
            random.choice(choices.get(state, [lambda: None]))()
            return
        if not fleet.stacks:
            return
        user = random.choice(sorted(fleet.stacks))
        if random.random() < 0.4:
            fleet.busy ^= {user}
            return
        if fleet.stacks[user].intent.desired is Desired.DELETED:
            fleet.step(user)
            fleet.ensure(user)
            return
        self.meddled.add(user)
        random.choice([fleet.stop, fleet.ensure, fleet.recreate, fleet.pin, fleet.delete])(user)

    # --- what holds

    def check_turn(self, turn) -> None:
        """Check what is about to be done."""
        strategy = self.driver.rollout.specification.strategy
        orders = [action for action in turn.actions if isinstance(action, Order)]
        assert not orders or turn.rollout.state is RolloutState.RUNNING
        users = [action.member.user_id for action in turn.actions if isinstance(action, Order | OrderBack)]
        assert len(users) == len(set(users)), "ordered twice in one turn"
        if (
            strategy.max_unavailable is not None
            and orders
            and self.fleet.migration_class is MigrationClass.RESTART
        ):
            counted = [m for m in self.driver.saved.values() if m.state is not MemberState.LEFT_OUT]
            allowed = max(1, strategy.max_unavailable.at_most(len(counted)))
            assert len(self.in_flight()) + len(orders) <= allowed

    def in_flight(self) -> list:
        """Return whose stacks have a standing order of the rollout."""
        return [
            stack
            for stack in self.fleet.stacks.values()
            if stack.standing_order is not None
            and order_of(self.driver.rollout.id, stack.standing_order.id) is not None
        ]

    def check_fleet(self) -> None:
        strategy = self.driver.rollout.specification.strategy
        assert len(self.in_flight()) <= strategy.max_in_flight
        assert set(self.fleet.issued.values()) <= {1}, "the same order was issued twice"
        assert set(self.replaced_by_orders().values()) <= {1}, "moved twice by one rollout in one direction"
        if strategy.max_unavailable is not None:
            counted = [m for m in self.driver.saved.values() if m.state is not MemberState.LEFT_OUT]
            moved = [stack for stack in self.in_flight() if not is_working(stack)]
            assert len(moved) <= max(1, strategy.max_unavailable.at_most(len(counted)) + len(self.meddled))

    def replaced_by_orders(self) -> dict:
        found: dict = {}
        for (user, order_id), times in self.fleet.replaced.items():
            name = order_of(self.driver.rollout.id, order_id) if order_id != "-" else None
            if name is not None:
                found[user, name.back] = found.get((user, name.back), 0) + times
        return found

    def check_that_it_is_idempotent(self) -> None:
        """Check that turns without any effect come to rest, and that the last one finds nothing new in its own result."""
        driver = replace(self.driver, saved=dict(self.driver.saved))
        for _ in range(len(driver.saved) + driver.rollout.waves + 5):
            turn = driver.look()
            if turn.rollout == driver.rollout and not turn.members:
                return
            driver.rollout = turn.rollout
            driver.saved |= {member.user_id: member for member in turn.members}
        pytest.fail(f"it never comes to rest: {turn}")

    def check_end(self) -> None:
        driver, fleet = self.driver, self.fleet
        rollout = driver.rollout
        assert rollout.state in AS_ONE, f"it never ends: {rollout}"
        assert not self.in_flight() or rollout.state is RolloutState.SUCCEEDED
        for member in driver.saved.values():
            assert member.state not in {MemberState.WAITING, MemberState.ORDERED}
        own = [u for u in fleet.stacks if u in driver.saved and u not in self.meddled]
        wanted = {user: fleet.stacks[user].intent.wanted_release for user in own}
        match rollout.state:
            case RolloutState.SUCCEEDED:
                assert fleet.target == NEW
                assert set(wanted.values()) <= {NEW}
            case RolloutState.ROLLED_BACK | RolloutState.FAILED:
                assert fleet.target == OLD
                assert set(wanted.values()) <= {OLD}
                assert rollout.promoted_at is None


@pytest.mark.parametrize("seed", range(SEEDS), ids=lambda seed: f"seed-{seed}")
def test_a_rollout_keeps_its_promises_whatever_happens_meanwhile(seed):
    Schedule(seed).run()
