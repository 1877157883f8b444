"""
The states of a stack, and the one table of legal moves for each.

*desired* is what was asked for, *phase* is how far we are, *health* is what the runtime itself shows. `reason` is for
code to branch on, `message` (kept beside it) is prose for people and is never parsed.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

from opencode_lifecycle.model.transitions import check_transition


class Desired(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


class Phase(StrEnum):
    PENDING = "pending"
    """Accepted; nothing of it runs and its job is not registered yet."""
    STARTING = "starting"
    """The job is registered; no address of it is proven yet."""
    RUNNING = "running"
    """An allocation runs and its address was proven."""
    STOPPING = "stopping"
    """The job was told to stop; an allocation of it may still run."""
    STOPPED = "stopped"
    """Nothing of it runs; the workspace waits."""
    FAILED = "failed"
    """It could not be started or kept; the reason says why. It is retried with backoff unless the reason is final."""
    DELETING = "deleting"
    """A tombstone until everything it owned is proven gone."""


class Health(StrEnum):
    UNKNOWN = "unknown"
    STARTING = "starting"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNRESPONSIVE = "unresponsive"


class MigrationState(StrEnum):
    CURRENT = "current"
    STALE = "stale"
    QUEUED = "queued"
    DRAINING = "draining"
    REPLACING = "replacing"
    VERIFYING = "verifying"
    FAILED = "failed"
    HELD = "held"


class WhenStale(StrEnum):
    """What is done about a running runtime that is stale."""

    REPORT = "report"
    """Nothing: it is shown."""
    IDLE = "idle"
    """It is put right when it is idle; what needs no restart is put right at once."""
    NOW = "now"


class Reason(StrEnum):
    """Why a stack is in its phase. Absent when nothing needs saying."""

    NO_CAPACITY = "no_capacity"
    """Nomad can place the job on no node; the message carries its own account."""
    DRIVER_FAILED = "driver_failed"
    """The task driver could not start the task, or the task exits again and again."""
    SECRET_MISSING = "secret_missing"  # noqa: S105 - a reason, not a password
    """The secret or the version that the job names is not in Vault."""
    NEVER_HEALTHY = "never_healthy"
    """The allocation ran until the start deadline without passing the proof."""
    WRONG_VERSION = "wrong_version"
    """The server that answered is another OpenCode version than the stack should run."""
    OPEN_WITHOUT_PASSWORD = "open_without_password"  # noqa: S105
    """The server answered without credentials. It was stopped at once."""
    FOREIGN_JOB = "foreign_job"
    """A job of this name exists that is not provably ours. It is not touched."""
    JOB_REJECTED = "job_rejected"
    """Nomad refused the job."""
    WORKSPACE_UNAVAILABLE = "workspace_unavailable"
    """The workspace volume is lost, or its node is."""
    NOMAD_UNAVAILABLE = "nomad_unavailable"
    VAULT_UNAVAILABLE = "vault_unavailable"
    CONSUL_UNAVAILABLE = "consul_unavailable"
    LOST = "lost"
    """The runtime ended without being asked to; it is being started again."""
    CONTESTED = "contested"
    """Its address is listed for another runtime as well, so it was withdrawn until that is settled."""
    UNKNOWN = "unknown"
    """It cannot be seen at the moment."""
    RECREATE = "recreate"
    """It is stopped in order to be started afresh."""
    NOT_ENDED = "not_ended"
    """Its last allocation has not ended within the stop deadline. Nothing else may use its workspace before it has."""
    CRASH_LOOP = "crash_loop"
    """The runtime was proven and exited since; the message has the exit code. Nomad starts it again."""
    OUT_OF_MEMORY = "out_of_memory"
    """The runtime was killed for want of memory."""
    DATA_NEWER = "data_newer"
    """The data in its workspace is newer than the version that should start on it, and that was not started."""
    DISK_FULL = "disk_full"
    """There was no room for the snapshot that is taken before another version starts on the data."""
    UNRESPONSIVE = "unresponsive"
    """The runtime took connections and answered none; it is replaced."""
    STALE = "stale"
    """It is stopped in order to be started as it should be."""
    RECYCLE = "recycle"
    """It was idle and too old or too large, and is started afresh."""
    BRAKE = "brake"
    """It is not where it should be, and nothing is done about it while a condition stands that an operator must confirm."""
    IDLE = "idle"
    """It was stopped because nobody used it."""
    TAKEN_BACK = "taken_back"
    """What was asked for did not become healthy: what ran before runs again. It is tried anew when somebody says so."""
    NOT_DELIVERED = "not_delivered"
    """Its live files did not reach the runtime in time. A recreate brings them with a restart."""
    BAD_CONFIG = "bad_config"
    """The runtime cannot load its configuration: the managed one that it was given, or one of its user's."""
    AT_WORK = "at_work"
    """Its agent was at work until the deadline of its migration, which is held therefore."""
    NODE_DRAINING = "node_draining"
    """The node of its workspace takes nothing new. It goes on by itself when the node does again."""


TAKEN_BACK: Final = frozenset({Reason.TAKEN_BACK, Reason.DATA_NEWER, Reason.DISK_FULL, Reason.BAD_CONFIG})
"""Why what was asked for is stopped again, and what ran before is started. The last three say what to do about it."""

FINAL_REASONS: Final = frozenset(
    {
        Reason.FOREIGN_JOB,
        Reason.JOB_REJECTED,
        Reason.OPEN_WITHOUT_PASSWORD,
        Reason.WORKSPACE_UNAVAILABLE,
        Reason.DATA_NEWER,
    }
)
"""Reasons that a retry cannot cure: the stack stays failed until somebody asks again."""


OUTAGES: Final = frozenset({Reason.NOMAD_UNAVAILABLE, Reason.VAULT_UNAVAILABLE, Reason.CONSUL_UNAVAILABLE})
"""Reasons that lie with a neighbour: nothing is concluded about the runtime while one of them holds."""

UNAVAILABLE: Final[Mapping[str, Reason]] = {
    "nomad": Reason.NOMAD_UNAVAILABLE,
    "vault": Reason.VAULT_UNAVAILABLE,
    "consul": Reason.CONSUL_UNAVAILABLE,
}
"""By the system that an `UpstreamError` names."""


PHASE_MOVES: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.PENDING: frozenset({Phase.STARTING, Phase.FAILED, Phase.STOPPING, Phase.STOPPED, Phase.DELETING}),
    Phase.STARTING: frozenset(
        {Phase.PENDING, Phase.RUNNING, Phase.FAILED, Phase.STOPPING, Phase.STOPPED, Phase.DELETING}
    ),
    Phase.RUNNING: frozenset(
        {Phase.PENDING, Phase.STARTING, Phase.FAILED, Phase.STOPPING, Phase.STOPPED, Phase.DELETING}
    ),
    Phase.STOPPING: frozenset({Phase.PENDING, Phase.STARTING, Phase.STOPPED, Phase.FAILED, Phase.DELETING}),
    Phase.STOPPED: frozenset({Phase.PENDING, Phase.FAILED, Phase.STOPPING, Phase.DELETING}),
    Phase.FAILED: frozenset({Phase.PENDING, Phase.STOPPING, Phase.STOPPED, Phase.DELETING}),
    Phase.DELETING: frozenset({Phase.PENDING}),
}
"""
From each phase, where it may go. Staying is always legal. A deleting stack ends by leaving the table, or begins
anew as pending when an ensure came in meanwhile. A stack that is not there any more needs no stop.
"""


HEALTH_MOVES: Final[Mapping[Health, frozenset[Health]]] = {
    Health.UNKNOWN: frozenset({Health.STARTING, Health.HEALTHY}),
    Health.STARTING: frozenset({Health.UNKNOWN, Health.HEALTHY}),
    Health.HEALTHY: frozenset({Health.UNKNOWN, Health.STARTING, Health.DEGRADED, Health.UNRESPONSIVE}),
    Health.DEGRADED: frozenset({Health.UNKNOWN, Health.STARTING, Health.HEALTHY, Health.UNRESPONSIVE}),
    Health.UNRESPONSIVE: frozenset({Health.UNKNOWN, Health.STARTING, Health.HEALTHY, Health.DEGRADED}),
}
"""
From each health, where it may go. Staying is always legal.

Only a proof makes healthy what was not known to be, and only probes tell the last three apart. An end or a failure makes
every health unknown, a new run makes it starting.
"""


_WAITING: Final = frozenset({MigrationState.QUEUED, MigrationState.DRAINING, MigrationState.HELD})
_ANYTIME: Final = frozenset({MigrationState.CURRENT, MigrationState.STALE, MigrationState.FAILED})

MIGRATION_MOVES: Final[Mapping[MigrationState, frozenset[MigrationState]]] = {
    MigrationState.CURRENT: (_ANYTIME | _WAITING | {MigrationState.REPLACING}) - {MigrationState.CURRENT},
    MigrationState.STALE: (_ANYTIME | _WAITING | {MigrationState.REPLACING}) - {MigrationState.STALE},
    MigrationState.QUEUED: (_ANYTIME | _WAITING | {MigrationState.REPLACING}) - {MigrationState.QUEUED},
    MigrationState.DRAINING: (_ANYTIME | _WAITING | {MigrationState.REPLACING}) - {MigrationState.DRAINING},
    MigrationState.REPLACING: _ANYTIME | _WAITING | {MigrationState.VERIFYING},
    MigrationState.VERIFYING: _ANYTIME | _WAITING | {MigrationState.REPLACING},
    MigrationState.FAILED: (_ANYTIME | _WAITING | {MigrationState.REPLACING}) - {MigrationState.FAILED},
    MigrationState.HELD: (_ANYTIME | _WAITING | {MigrationState.REPLACING}) - {MigrationState.HELD},
}
"""
From each state of a migration, where it may go. Staying is always legal, and a stop or a deletion makes every one current:
what does not run starts as it should be.

*queued* waits for its turn, *draining* for its agent to finish, *verifying* for what its runtime must show, *held* for an
operator, or with reason `node_draining` for its node. Only what is being replaced is verified, be it by a restart or by new files under the same process; where the latter
have arrived, their process is waited for as before. A wedged runtime is replaced whatever its migration waits for.
"""


State = TypeVar("State", Phase, Health, MigrationState)

_MOVES: Final[Mapping[type[StrEnum], tuple[str, Mapping[Any, frozenset[Any]]]]] = {
    Phase: ("phase", PHASE_MOVES),
    Health: ("health", HEALTH_MOVES),
    MigrationState: ("migration state", MIGRATION_MOVES),
}


def check_move(job_id: str, current: State, to: State) -> None:
    """Raise `IllegalTransition` unless a stack may go from *current* to *to*, by the table of what they are states of."""
    kind, moves = _MOVES[type(current)]
    check_transition(job_id, kind, moves, current, to)
