"""
The states of a stack, and the one table of legal moves for each.

*desired* is what was asked for, *phase* is how far we are, *health* is what the runtime itself shows. `reason` is for
code to branch on, `message` (kept beside it) is prose for people and is never parsed.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from opencode_lifecycle.model.errors import IllegalTransition


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
    UNKNOWN = "unknown"
    """It cannot be seen at the moment."""
    RECREATE = "recreate"
    """It is stopped in order to be started afresh."""
    CRASH_LOOP = "crash_loop"
    """The runtime was proven and exited since; the message has the exit code. Nomad starts it again."""
    OUT_OF_MEMORY = "out_of_memory"
    """The runtime was killed for want of memory."""
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


FINAL_REASONS: Final = frozenset(
    {
        Reason.FOREIGN_JOB,
        Reason.JOB_REJECTED,
        Reason.OPEN_WITHOUT_PASSWORD,
        Reason.WORKSPACE_UNAVAILABLE,
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
    Phase.PENDING: frozenset(
        {Phase.STARTING, Phase.RUNNING, Phase.FAILED, Phase.STOPPING, Phase.STOPPED, Phase.DELETING}
    ),
    Phase.STARTING: frozenset(
        {Phase.PENDING, Phase.RUNNING, Phase.FAILED, Phase.STOPPING, Phase.STOPPED, Phase.DELETING}
    ),
    Phase.RUNNING: frozenset(
        {Phase.PENDING, Phase.STARTING, Phase.FAILED, Phase.STOPPING, Phase.STOPPED, Phase.DELETING}
    ),
    Phase.STOPPING: frozenset({Phase.PENDING, Phase.STOPPED, Phase.FAILED, Phase.DELETING}),
    Phase.STOPPED: frozenset({Phase.PENDING, Phase.FAILED, Phase.STOPPING, Phase.DELETING}),
    Phase.FAILED: frozenset(
        {Phase.PENDING, Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.STOPPED, Phase.DELETING}
    ),
    Phase.DELETING: frozenset({Phase.PENDING}),
}
"""
From each phase, where it may go. Staying is always legal. A deleting stack ends by leaving the table, or begins
anew as pending when an ensure came in meanwhile.
"""


def check_move(job_id: str, current: Phase, to: Phase) -> None:
    """Raise `IllegalTransition` unless a stack may go from *current* to *to*."""
    if to is not current and to not in PHASE_MOVES[current]:
        raise IllegalTransition(f"{job_id} cannot go from {current} to {to}")
