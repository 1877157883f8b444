"""The machines of the whole: rollouts and who is in them, and standing conditions."""

from typing import Final

from opencode_lifecycle.lifecycle.braking import conditions
from opencode_lifecycle.lifecycle.rollouts import engine, gates, pace
from opencode_lifecycle.model.condition import CONDITION_MOVES, ConditionStatus
from opencode_lifecycle.model.rollout import MEMBER_MOVES, ROLLOUT_MOVES, MemberState, RolloutState
from opencode_lifecycle.model.rollout_specification import Strategy
from opencode_lifecycle.state_machines.of_stacks import KEPT, LISTING, ORDER, START, STOP
from opencode_lifecycle.state_machines.parts import Exit, Machine, constant, default, setting

SOAK: Final = default(Strategy, "soak", "strategy.soak")
STALLED: Final = constant(engine, "STALLED_AFTER")
BLOCKED: Final = constant(engine, "BLOCKED_AFTER")
GATE: Final = constant(gates, "GATE_PATIENCE")
PLACE: Final = constant(pace, "MOST_PATIENCE")
ANSWERED: Final = constant(conditions, "LEASE")
SECRETS, COMPARISON = setting("secret_sweep_interval"), setting("comparison_interval")
PROBE: Final = setting("liveness_interval")
CLAIM: Final = setting("claim_lifetime")

_STEERING: Final = ("resume_rollout", "abort_rollout", "rollback_rollout")
_GOES_BACK: Final = Exit(
    to=(MemberState.ORDERED, MemberState.TAKEN_BACK),
    asked=("rollback_rollout",),
    how="it is brought back where it is not as it was before",
)

ROLLOUT: Final = Machine(
    title="Rollout",
    about="How far a rollout is. One that is paused goes on in the direction that it had.",
    moves=ROLLOUT_MOVES,
    entries=(RolloutState.RUNNING,),
    ends=frozenset(RolloutState) - {RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ROLLING_BACK},
    exits={
        RolloutState.RUNNING: (
            Exit(
                to=(RolloutState.SUCCEEDED,),
                within=(SOAK,),
                how="everybody was seen to, wave by wave, and each wave has soaked",
            ),
            Exit(
                to=(RolloutState.PAUSED,),
                within=(ORDER, STALLED),
                how="nothing comes of an order for so long after its deadline",
            ),
            Exit(
                to=(RolloutState.PAUSED,),
                within=(GATE,),
                how="what was moved can be called neither healthy nor failed",
            ),
            Exit(
                to=(RolloutState.PAUSED,),
                within=(BLOCKED,),
                how="too many stacks are without a working runtime to move another",
            ),
            Exit(
                to=(RolloutState.ROLLING_BACK, RolloutState.PAUSED),
                within=(CLAIM,),
                how="a canary failed, or more stacks did than may: that is seen at once, or when another replica has taken over "
                "from one that died",
            ),
        ),
        RolloutState.PAUSED: (
            Exit(
                to=(RolloutState.RUNNING, RolloutState.ABORTED, RolloutState.ROLLING_BACK),
                asked=_STEERING,
                how="it goes on when a person says so",
            ),
        ),
        RolloutState.ABORTED: (
            Exit(
                within=(START, STOP),
                how="whoever is being replaced has come to the end of that; whoever waits is called off",
            ),
            Exit(
                to=(RolloutState.ROLLING_BACK,),
                asked=("rollback_rollout",),
                how="whoever was moved goes back",
            ),
        ),
        RolloutState.ROLLING_BACK: (
            Exit(
                to=(RolloutState.ROLLED_BACK, RolloutState.FAILED),
                within=(ORDER,),
                how="everybody is back; it has failed where its canaries did",
            ),
            Exit(
                to=(RolloutState.PAUSED,),
                within=(ORDER, STALLED),
                how="nothing comes of an order for so long after its deadline, or more stacks fail than may",
            ),
        ),
        RolloutState.ROLLED_BACK: (Exit(rest=True, how="it is final"),),
        RolloutState.SUCCEEDED: (
            Exit(rest=True, how="everybody was seen to"),
            Exit(
                to=(RolloutState.ROLLING_BACK,),
                asked=("rollback_rollout",),
                how="whoever was moved goes back",
            ),
        ),
        RolloutState.FAILED: (Exit(rest=True, how="it is final"),),
    },
)

MEMBER: Final = Machine(
    title="Member of a rollout",
    about="What became of one stack in a rollout. Whoever was moved is ordered once more to go back, and so is who came to its\n"
    "release by another way meanwhile.",
    moves=MEMBER_MOVES,
    entries=(MemberState.WAITING, MemberState.LEFT_OUT, MemberState.MIGRATED),
    ends=frozenset(MemberState) - {MemberState.WAITING, MemberState.ORDERED},
    exits={
        MemberState.WAITING: (
            Exit(
                to=(MemberState.ORDERED, MemberState.MIGRATED, MemberState.LEFT_OUT),
                within=(ORDER, STALLED, BLOCKED),
                how="its turn comes when a place is free; no order keeps one for longer than that, and a rollout that can move "
                "nobody pauses",
            ),
            Exit(
                to=(MemberState.LEFT_OUT,),
                asked=("abort_rollout", "rollback_rollout"),
                how="the rollout ends",
            ),
        ),
        MemberState.ORDERED: (
            Exit(
                to=(MemberState.WAITING,),
                within=(PLACE,),
                how="its agent is at work: it gives its place to another, and is moved after all waves",
            ),
            Exit(
                to=(
                    MemberState.MIGRATED,
                    MemberState.SKIPPED,
                    MemberState.HELD,
                    MemberState.FAILED,
                    MemberState.TAKEN_BACK,
                ),
                within=(ORDER, START, STOP),
                how="its order is seen to the end, whose outcome is in its row",
            ),
            Exit(
                to=(MemberState.LEFT_OUT,),
                within=(ORDER, STALLED),
                asked=("stop",),
                how="nothing comes of its order: the rollout pauses, and a person sees to the stack",
            ),
        ),
        MemberState.MIGRATED: (
            Exit(rest=True, how="it runs as it was to run"),
            Exit(
                to=(MemberState.FAILED,),
                within=(SOAK, GATE),
                how="it is not healthy, or does not answer the prompt, before the gate lets its wave pass",
            ),
            _GOES_BACK,
        ),
        MemberState.SKIPPED: (Exit(rest=True, how="it was left as it is"), _GOES_BACK),
        MemberState.HELD: (
            Exit(
                rest=True,
                asked=("recover", "recreate"),
                how="for the rollout it was seen to; its stack waits for a person",
            ),
            _GOES_BACK,
        ),
        MemberState.FAILED: (Exit(rest=True, how="it counts against the failure budget"), _GOES_BACK),
        MemberState.LEFT_OUT: (
            Exit(rest=True, how="it is none of the rollout's business any more"),
            _GOES_BACK,
        ),
        MemberState.TAKEN_BACK: (
            Exit(rest=True, how="it is as it was before"),
            Exit(
                to=(MemberState.ORDERED, MemberState.LEFT_OUT),
                within=(CLAIM,),
                how="it came to the release again before all are taken back: it goes back once more, or its group keeps it there",
            ),
        ),
    },
)

_PASSES: Final = "what is seen is not so any more, as the next look at it tells"
_ABANDONED: Final = (
    "the replica that raised it answers for it no more: others clear it where they do not see it"
)

CONDITION: Final = Machine(
    title="Condition",
    about="How a condition of the whole stands, and what it holds back by that.",
    moves=CONDITION_MOVES,
    entries=(ConditionStatus.STANDING, ConditionStatus.CONFIRMED),
    ends=frozenset({ConditionStatus.CLEARED}),
    exits={
        ConditionStatus.STANDING: (
            Exit(to=(ConditionStatus.CLEARED,), within=(LISTING, PROBE, SECRETS), how=_PASSES),
            Exit(to=(ConditionStatus.CLEARED,), within=(ANSWERED,), how=_ABANDONED),
            Exit(
                to=(ConditionStatus.CONFIRMED,),
                asked=("confirm_condition",),
                how="what is seen is the truth: what was held back goes on",
            ),
        ),
        ConditionStatus.CONFIRMED: (
            Exit(to=(ConditionStatus.CLEARED,), within=(LISTING, PROBE, SECRETS), how=_PASSES),
            Exit(to=(ConditionStatus.CLEARED,), within=(ANSWERED,), how=_ABANDONED),
            Exit(
                to=(ConditionStatus.STANDING,),
                within=(LISTING, PROBE, SECRETS),
                how="it grew far beyond what was confirmed",
            ),
        ),
        ConditionStatus.CLEARED: (
            Exit(rest=True, within=(KEPT,), how="it is final, and forgotten after that"),
        ),
    },
)
