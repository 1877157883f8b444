"""The machines of one stack: its phase, health and migration, the order by which it migrates, and what was asked of it."""

from typing import Final

from opencode_lifecycle.api.schemas import leases
from opencode_lifecycle.lifecycle import retention
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model import node
from opencode_lifecycle.model.migration import ORDER_MOVES, OrderState
from opencode_lifecycle.model.operation import OPERATION_MOVES, OperationState
from opencode_lifecycle.model.rollout_specification import Strategy
from opencode_lifecycle.model.states import (
    FINAL_REASONS,
    HEALTH_MOVES,
    MIGRATION_MOVES,
    PHASE_MOVES,
    Health,
    MigrationState,
    Phase,
    Reason,
)
from opencode_lifecycle.state_machines.parts import Exit, Machine, constant, default, setting

START, STOP = setting("start_deadline"), setting("stop_deadline")
CALL: Final = setting("upstream_timeout")
LISTING, PROBE = setting("resync_interval"), setting("liveness_interval")
CLAIM: Final = setting("claim_lifetime")
QUIET: Final = setting("idle_after")
OUTAGE, RETRY = default(Limits, "outage"), default(Limits, "retry")
SILENT, WEDGED = default(Limits, "silent_probes"), default(Limits, "wedged_probes")
PATIENCE: Final = default(Limits, "patience_when_busy")
RECYCLE_PAUSE: Final = default(Limits, "recycle_pause")
LOOK: Final = default(Limits, "idle_poll")
DELIVERY: Final = default(Limits, "delivery")
PLACE: Final = default(Limits, "placement")
ORDER: Final = default(Strategy, "deadline", "strategy.deadline")
DRAIN: Final = constant(node, "DRAIN_MARGIN")
LEASE: Final = constant(leases, "LONGEST_LEASE_SECONDS")
KEPT: Final = constant(retention, "RECEIPTS_KEPT")


def _named(reasons: frozenset[Reason]) -> str:
    return ", ".join(f"`{reason}`" for reason in sorted(reasons))


_A_NEIGHBOUR_IS_AWAY: Final = (
    "each step is one call, which has its time, and is tried again after a pause that grows"
)

PHASE: Final = Machine(
    title="Phase",
    about="How far a stack is. Stopping and deleting are legal from every phase.",
    moves=PHASE_MOVES,
    entries=(Phase.PENDING,),
    ends=frozenset({Phase.DELETING}),
    exits={
        Phase.PENDING: (
            Exit(to=(Phase.STARTING,), within=(CALL, OUTAGE), how=_A_NEIGHBOUR_IS_AWAY),
            Exit(to=(Phase.FAILED,), within=(START,), how="a neighbour is away for longer"),
            Exit(
                to=(Phase.STARTING,),
                within=(STOP,),
                how="an earlier allocation that does not end is waited for; after that the operation fails and says which "
                "node is waited for, and the wait goes on, since two servers must never share a workspace",
            ),
        ),
        Phase.STARTING: (
            Exit(
                to=(Phase.RUNNING, Phase.FAILED),
                within=(START,),
                how="it is proven, or fails with the reason",
            ),
            Exit(
                to=(Phase.RUNNING,),
                within=(OUTAGE,),
                how="while Vault or Consul is away nothing can be proven, and it may be as healthy as can be: it is looked at "
                "again and again until that neighbour is back",
            ),
        ),
        Phase.RUNNING: (
            Exit(rest=True, how="it is what was asked for"),
            Exit(
                to=(Phase.PENDING, Phase.STARTING, Phase.FAILED),
                within=(PROBE, LISTING),
                how="what ended, or was taken away, is missed",
            ),
            Exit(
                to=(Phase.STOPPING,),
                within=(WEDGED, PROBE, PATIENCE),
                how="a wedge is replaced after so many unanswered probes in a row; where it was seen at work or is leased, "
                "after so many times as many",
            ),
        ),
        Phase.STOPPING: (
            Exit(
                to=(Phase.STOPPED, Phase.PENDING),
                within=(STOP,),
                how="Nomad says that the last allocation ended, or that its node is lost; after that the operation fails and "
                "says which node is waited for, and the stop goes on",
            ),
            Exit(
                to=(Phase.STARTING, Phase.PENDING),
                within=(PLACE,),
                how="what is to take its place has found none for so long: the old one is stopped all the same",
            ),
        ),
        Phase.STOPPED: (
            Exit(
                to=(Phase.PENDING,),
                asked=("ensure", "start", "recover"),
                how="it is what was asked for, or it was stopped since nobody used it. What runs nevertheless is stopped again",
            ),
            Exit(
                to=(Phase.PENDING,),
                within=(LISTING,),
                how=f"with reason `{Reason.NODE_DRAINING}`: its node is listed as taking jobs again",
            ),
        ),
        Phase.FAILED: (
            Exit(to=(Phase.PENDING,), within=(RETRY,), how="it is tried again"),
            Exit(to=(Phase.PENDING,), within=(OUTAGE,), how="the same, where an outage is the reason"),
            Exit(
                to=(Phase.PENDING,),
                asked=("ensure", "start", "recover", "recreate"),
                how=f"trying cannot help: {_named(FINAL_REASONS)}",
            ),
        ),
        Phase.DELETING: (
            Exit(within=(CALL, OUTAGE), how=_A_NEIGHBOUR_IS_AWAY),
            Exit(within=(STOP,), how="Consul is waited for until it has forgotten the service"),
            Exit(
                within=(LISTING,),
                how="a last allocation is waited for until Nomad says that it ended or its node is lost, since nothing is "
                "destroyed that it may still use",
            ),
            Exit(to=(Phase.PENDING,), asked=("ensure",), how="an ensure that came meanwhile begins anew"),
        ),
    },
)

HEALTH: Final = Machine(
    title="Health",
    about="What the runtime itself shows.",
    moves=HEALTH_MOVES,
    entries=(Health.UNKNOWN,),
    exits={
        Health.UNKNOWN: (
            Exit(rest=True, how="nothing runs whose health could be shown"),
            Exit(
                to=(Health.HEALTHY,),
                within=(PROBE, LISTING),
                how="what runs and could not be seen is looked at",
            ),
        ),
        Health.STARTING: (
            Exit(to=(Health.HEALTHY, Health.UNKNOWN), within=(START,), how="it is proven, or fails"),
        ),
        Health.HEALTHY: (Exit(rest=True, how="it is as it should be"),),
        Health.DEGRADED: (
            Exit(
                to=(Health.HEALTHY, Health.UNRESPONSIVE),
                within=(PROBE, SILENT),
                how="the next probe is answered, or so many in a row are not",
            ),
        ),
        Health.UNRESPONSIVE: (
            Exit(to=(Health.HEALTHY,), within=(PROBE,), how="a probe is answered"),
            Exit(
                to=(Health.UNKNOWN,),
                within=(WEDGED, PROBE, RECYCLE_PAUSE),
                how="it is replaced after so many unanswered probes, at most once in so long",
            ),
        ),
    },
)

MIGRATION: Final = Machine(
    title="Migration state",
    about="How far a stack is on its way to what it should run. Before it is interrupted it is *queued* while nobody can\n"
    "see whether its agent works, and *draining* while the agent does or a backend holds a lease; it is *held* where its\n"
    "node, or an order whose deadline has passed, keeps it as it is. Stopping it makes every state current.",
    moves=MIGRATION_MOVES,
    entries=(MigrationState.CURRENT,),
    exits={
        MigrationState.CURRENT: (Exit(rest=True, how="it is as it should be"),),
        MigrationState.STALE: (
            Exit(
                to=(MigrationState.QUEUED, MigrationState.DRAINING, MigrationState.REPLACING),
                within=(LOOK,),
                how="it is put right by itself, unless `when_stale` is `report`",
            ),
            Exit(
                to=(MigrationState.QUEUED, MigrationState.DRAINING, MigrationState.REPLACING),
                asked=("recreate", "start_rollout"),
                how="`when_stale` is `report`: it is shown",
            ),
        ),
        MigrationState.QUEUED: (
            Exit(
                to=(MigrationState.DRAINING, MigrationState.REPLACING),
                within=(LOOK,),
                how="it is looked at again until it is seen what its agent does, or its node takes jobs again",
            ),
            Exit(
                to=(MigrationState.STALE, MigrationState.HELD, MigrationState.REPLACING),
                within=(ORDER,),
                how="the deadline of its order passes: it is skipped, held, or moved by force, as was ordered",
            ),
            Exit(
                to=(MigrationState.HELD, MigrationState.REPLACING),
                within=(DRAIN,),
                how="its node is drained, with a deadline: it is moved by force so long before that",
            ),
            Exit(
                to=(MigrationState.REPLACING,),
                asked=("recreate",),
                how="without an order or a deadline of a drain nothing forces it",
            ),
        ),
        MigrationState.DRAINING: (
            Exit(
                to=(MigrationState.REPLACING,),
                within=(QUIET, LOOK, LEASE),
                how="its agent has been idle, and no lease has held, for so long; it is looked at again meanwhile. A lease "
                "lasts at most so long, unless it is renewed",
            ),
            Exit(
                to=(MigrationState.STALE, MigrationState.HELD, MigrationState.REPLACING),
                within=(ORDER,),
                how="the deadline of its order passes: it is skipped, held, or moved by force, as was ordered",
            ),
            Exit(
                to=(MigrationState.HELD, MigrationState.REPLACING),
                within=(DRAIN,),
                how="its node is drained, with a deadline: it is moved by force so long before that",
            ),
            Exit(
                to=(MigrationState.REPLACING,),
                asked=("recreate",),
                how="without an order or a deadline of a drain an agent at work is never forced",
            ),
        ),
        MigrationState.REPLACING: (
            Exit(
                to=(MigrationState.VERIFYING, MigrationState.HELD),
                within=(PLACE, STOP, START),
                how="what follows is registered and has a place, and what ran has ended, in the phases stopping and pending; or "
                "its node is closed by then",
            ),
            Exit(
                to=(MigrationState.FAILED,),
                within=(START,),
                how="what follows cannot be started: what ran before is started again",
            ),
            Exit(
                to=(MigrationState.VERIFYING, MigrationState.CURRENT),
                within=(CALL, OUTAGE),
                how="live files are published, or the process has read its configuration anew",
            ),
        ),
        MigrationState.VERIFYING: (
            Exit(
                to=(MigrationState.CURRENT, MigrationState.FAILED),
                within=(START,),
                how="what was started is proven, or what ran before is started again",
            ),
            Exit(
                to=(MigrationState.CURRENT, MigrationState.FAILED),
                within=(DELIVERY,),
                how=f"its live files have arrived; that they are seen not to be there is `{Reason.NOT_DELIVERED}`",
            ),
        ),
        MigrationState.FAILED: (
            Exit(
                to=(MigrationState.QUEUED, MigrationState.DRAINING, MigrationState.REPLACING),
                asked=("recover", "recreate", "start", "start_rollout"),
                how="what was refused or taken back is not tried again before somebody asks, or asks for something else",
            ),
        ),
        MigrationState.HELD: (
            Exit(
                to=(MigrationState.QUEUED, MigrationState.DRAINING, MigrationState.REPLACING),
                asked=("recover", "recreate", "start_rollout"),
                how="its agent was at work until the deadline of an order that says `hold`",
            ),
            Exit(
                to=(MigrationState.CURRENT, MigrationState.REPLACING),
                within=(LISTING,),
                how=f"with reason `{Reason.NODE_DRAINING}`: its node is listed as taking jobs again",
            ),
        ),
    },
)

ORDERS: Final = Machine(
    title="Order",
    about="How an order to migrate stands in the row of a stack, and what came of it. Whoever asks for something else calls it "
    "off.",
    moves=ORDER_MOVES,
    entries=(OrderState.STANDING,),
    ends=frozenset(OrderState),
    exits={
        OrderState.STANDING: (
            Exit(
                to=(OrderState.DONE, OrderState.SKIPPED, OrderState.HELD),
                within=(ORDER,),
                how="it is carried out at the gate, or its deadline passes: skipped, held, or carried out by force",
            ),
            Exit(
                to=(OrderState.DONE, OrderState.FAILED),
                within=(STOP, START, DELIVERY),
                how="what it has begun has come to its end; a neighbour that is away is waited for",
            ),
            Exit(to=(OrderState.HELD,), within=(LISTING,), how="its node is listed as being drained"),
            Exit(
                asked=(
                    "stop",
                    "pin",
                    "recreate",
                    "rotate_password",
                    "delete",
                    "pause_rollout",
                    "abort_rollout",
                ),
                how="it is called off",
            ),
        ),
        **{
            outcome: (Exit(rest=True, how="it is final"),)
            for outcome in OrderState
            if outcome is not OrderState.STANDING
        },
    },
)

OPERATION: Final = Machine(
    title="Operation",
    about="What became of a request. A later request supersedes one that has no outcome.",
    moves=OPERATION_MOVES,
    entries=(OperationState.ACCEPTED, OperationState.SUCCEEDED),
    ends=frozenset(state for state in OperationState if state.is_finished),
    exits={
        OperationState.ACCEPTED: (
            Exit(
                to=(OperationState.RUNNING, OperationState.SUCCEEDED),
                within=(CLAIM,),
                how="its stack is taken up at once; where the replica that has it died, by another after that",
            ),
            Exit(
                to=(OperationState.SUPERSEDED,), asked=("stop", "delete"), how="another request supersedes it"
            ),
        ),
        OperationState.RUNNING: (
            Exit(
                to=(OperationState.SUCCEEDED, OperationState.FAILED),
                within=(START, STOP),
                how="its stack comes to where it was asked to be, or fails; a deletion goes on until all is proven gone",
            ),
            Exit(
                to=(OperationState.SUCCEEDED,),
                within=(OUTAGE,),
                how="while Vault or Consul is away what starts cannot be proven: it is looked at again and again until that "
                "neighbour is back",
            ),
            Exit(
                to=(OperationState.SUCCEEDED,),
                within=(LISTING,),
                how="its stack is held by a node, which is listed as taking jobs again",
            ),
            Exit(
                to=(OperationState.SUPERSEDED,), asked=("stop", "delete"), how="another request supersedes it"
            ),
        ),
        **{
            state: (Exit(rest=True, within=(KEPT,), how="it is final, and forgotten after that"),)
            for state in OperationState
            if state.is_finished
        },
    },
)
