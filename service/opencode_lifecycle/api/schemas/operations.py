"""Operations and events."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from opencode_lifecycle.api.schemas.shapes import Mirror
from opencode_lifecycle.model.operation import OperationKind, OperationState
from opencode_lifecycle.model.states import Phase, Reason


class PhaseEnteredShape(Mirror):
    phase: Phase
    at: datetime


class OperationShape(Mirror):
    id: str
    kind: OperationKind
    user_id: str
    state: OperationState
    phases: Sequence[PhaseEnteredShape]
    reason: Reason | None
    message: str
    receipt: Mapping[str, Any] | None
    created_at: datetime
    finished_at: datetime | None


class EventShape(Mirror):
    id: str
    user_id: str
    kind: str
    actor: str
    at: datetime
    generation: int
    data: Mapping[str, Any]
