"""Rollouts over a toy fleet, driven without a database: what was saved, and what a driver holds in memory."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random

from opencode_lifecycle.lifecycle.rollouts.engine import next_turn
from opencode_lifecycle.lifecycle.rollouts.orders import decision_of
from opencode_lifecycle.lifecycle.rollouts.pace import Sights
from opencode_lifecycle.lifecycle.rollouts.standing import observed, rests
from opencode_lifecycle.lifecycle.rollouts.turns import Ask, Quiet, Turn, UseRelease, entered
from opencode_lifecycle.lifecycle.rollouts.waves import Candidate, in_waves, turn_of
from opencode_lifecycle.model.identifiers import ReleaseId, RolloutId, UserId
from opencode_lifecycle.model.rollout import (
    Member,
    MemberState,
    PromptVerdict,
    Rollout,
    RolloutReason,
    RolloutState,
)
from opencode_lifecycle.model.rollout_specification import RolloutSpecification, Strategy
from toy_fleet import NEW, START, ToyFleet, a_running_stack


def users(count: int) -> list[UserId]:
    return [UserId(f"user-{number:03}") for number in range(count)]


def a_fleet(count: int = 10, *, seed: int = 1, **values) -> ToyFleet:
    stacks = {user: a_running_stack(user) for user in users(count)}
    return ToyFleet(stacks=stacks, random=Random(seed), **values)


def a_specification(*, release=NEW, **strategy) -> RolloutSpecification:
    values = {"soak": timedelta(0), **strategy}
    return RolloutSpecification(release=release, strategy=Strategy(**values))


def a_stored_rollout(number: int = 1, **changes) -> Rollout:
    """Give one that is under way, as it is stored."""
    values = {
        "id": RolloutId(f"ro_{number}"),
        "specification": RolloutSpecification(),
        "entered_at": START,
        "created_by": "olga",
        "created_at": START,
        "updated_at": START,
    }
    return Rollout(**{**values, **changes})


class Crashed(Exception):
    """The process that drove the rollout is gone, and what it had not saved with it."""


@dataclass
class ToyDriver:
    """Takes turns on a fleet. *crash* is asked before each effect and each save, and may raise `Crashed`."""

    fleet: ToyFleet
    rollout: Rollout
    saved: dict[UserId, Member]
    answers: PromptVerdict = PromptVerdict.ANSWERED
    asked: list[UserId] = field(default_factory=list)
    pins: dict[str, ReleaseId] = field(default_factory=dict)
    quiet: Quiet = field(default_factory=Quiet)
    crash: object = lambda: None
    check: object = lambda turn: None

    @classmethod
    def of(cls, fleet: ToyFleet, specification: RolloutSpecification, **values) -> "ToyDriver":
        candidates = [
            Candidate(
                user_id=stack.user_id,
                group=stack.intent.group,
                rests=rests(specification, stack),
                busy=fleet.sight(stack.user_id),
            )
            for stack in fleet.stacks.values()
        ]
        waves = in_waves(candidates, specification.strategy, specification.release)
        rollout = Rollout(
            id=RolloutId("ro_1"),
            specification=specification,
            entered_at=fleet.now,
            target_before=fleet.target,
            waves=waves.count,
            created_by="olga",
            created_at=fleet.now,
            updated_at=fleet.now,
        )
        members = {
            user: Member(
                rollout_id=rollout.id,
                user_id=user,
                stack_created_at=fleet.stacks[user].created_at,
                wave=wave,
                migration_class=fleet.migration_class,
                release_before=fleet.stacks[user].intent.wanted_release,
                generation=fleet.stacks[user].intent.generation,
                changed_at=fleet.now,
            )
            for user, wave in waves.of.items()
        }
        return cls(fleet=fleet, rollout=rollout, saved=members, **values)

    @property
    def members(self) -> list[Member]:
        return sorted(self.saved.values(), key=lambda each: turn_of(self.rollout.release, each.user_id))

    def states(self) -> dict[UserId, MemberState]:
        return {user: member.state for user, member in self.saved.items()}

    def in_state(self, state: MemberState) -> list[UserId]:
        return sorted(user for user, member in self.saved.items() if member.state is state)

    def look(self) -> Turn:
        fleet = self.fleet
        sights = Sights(stack=fleet.stacks.get, busy=fleet.sight, target=fleet.target, pins=self.pins)
        turn = next_turn(self.rollout, self.members, sights, self.fleet.now, self.quiet)
        assert turn == next_turn(self.rollout, self.members, sights, self.fleet.now), "it remembers wrongly"
        return turn

    def take_turn(self) -> Turn:
        """Take one turn: do what is to be done, then save what came of it."""
        turn = self.look()
        self.check(turn)
        rollout, changed = turn.rollout, {member.user_id: member for member in turn.members}
        for action in turn.actions:
            self.crash()
            rollout = self._act(action, rollout, changed)
        self.crash()
        self.rollout = rollout
        self.saved |= changed
        return turn

    def _act(self, action, rollout: Rollout, changed: dict[UserId, Member]) -> Rollout:
        now = self.fleet.now
        if isinstance(action, UseRelease):
            self.fleet.target = action.release
            self.crash()
            return replace(rollout, promoted_at=None if action.back else now)
        member = changed.get(action.member.user_id, action.member)
        if isinstance(action, Ask):
            self.asked.append(member.user_id)
            changed[member.user_id] = replace(member, prompt=self.answers, changed_at=now)
            return rollout
        self.fleet.decide(member.user_id, decision_of(action, rollout, now))
        stack = self.fleet.stacks.get(member.user_id)
        changed[member.user_id] = observed(rollout, member, stack, now)
        return rollout

    def run(self, *, seconds: float = 7 * 24 * 3600, stop=lambda: False) -> None:
        """Go on until the rollout has ended or waits for a person, or *stop* says so; time passes where nothing happens."""
        until = self.fleet.now + timedelta(seconds=seconds)
        while self.rollout.is_active and self.rollout.state is not RolloutState.PAUSED and not stop():
            turn = self.take_turn()
            for user in list(self.fleet.stacks):
                self.fleet.step(user)
            if not turn.actions and not turn.members:
                self.fleet.pass_time(1)
            assert self.fleet.now < until, f"nothing came of it: {self.rollout}"

    # --- people

    def pause(self) -> None:
        self._enter(RolloutState.PAUSED, RolloutReason.OPERATOR)

    def resume(self) -> None:
        back = self.rollout.goes_back
        failed = [m for m in self.saved.values() if m.state is MemberState.FAILED and m.goes_back is back]
        self._enter(RolloutState.ROLLING_BACK if back else RolloutState.RUNNING)
        self.rollout = replace(self.rollout, forgiven=len(failed))

    def abort(self) -> None:
        self._enter(RolloutState.ABORTED, RolloutReason.OPERATOR)

    def roll_back(self) -> None:
        self._enter(RolloutState.ROLLING_BACK, RolloutReason.OPERATOR)

    def _enter(self, state: RolloutState, reason: RolloutReason | None = None) -> None:
        self.rollout = entered(self.rollout, state, now=self.fleet.now, reason=reason)


def driven(fleet: ToyFleet | None = None, **strategy) -> ToyDriver:
    return ToyDriver.of(fleet or a_fleet(4), a_specification(**strategy))
