"""Operations and events: what was asked, what came of it, and who did it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from opencode_lifecycle.model.identifiers import EventId, OperationId, UserId
from opencode_lifecycle.model.states import Phase, Reason


class OperationKind(StrEnum):
    ENSURE = "ensure"
    START = "start"
    STOP = "stop"
    RECREATE = "recreate"
    ROTATE_PASSWORD = "rotate_password"  # noqa: S105 - the name of a kind
    RECOVER = "recover"
    DELETE = "delete"
    PIN = "pin"
    UNPIN = "unpin"
    ADOPT = "adopt"
    """A row was made for what was found without one."""


class OperationState(StrEnum):
    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUPERSEDED = "superseded"

    @property
    def is_finished(self) -> bool:
        return not OPERATION_MOVES[self]


OPERATION_MOVES: Final[Mapping[OperationState, frozenset[OperationState]]] = {
    OperationState.ACCEPTED: frozenset(
        {
            OperationState.RUNNING,
            OperationState.SUCCEEDED,
            OperationState.FAILED,
            OperationState.SUPERSEDED,
        }
    ),
    OperationState.RUNNING: frozenset(
        {OperationState.SUCCEEDED, OperationState.FAILED, OperationState.SUPERSEDED}
    ),
    OperationState.SUCCEEDED: frozenset(),
    OperationState.FAILED: frozenset(),
    OperationState.SUPERSEDED: frozenset(),
}
"""
From each state of an operation, where it may go. An outcome is final: what is tried again after a failure is not the
operation that failed any more. A request that changes nothing begins as one that has succeeded.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEntered:
    phase: Phase
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One accepted request, durable, with progress and an outcome."""

    id: OperationId
    kind: OperationKind
    user_id: UserId
    generation: int
    state: OperationState
    phases: Sequence[PhaseEntered] = ()
    reason: Reason | None = None
    message: str = ""
    receipt: Mapping[str, Any] | None = None
    principal: str = ""
    created_at: datetime
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of history. `actor` is a token's name, or `service` for what the reconciler did."""

    id: EventId
    user_id: UserId
    kind: str
    actor: str
    at: datetime
    generation: int
    data: Mapping[str, Any] = field(default_factory=dict)
