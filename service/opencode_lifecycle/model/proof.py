"""What a runtime shows of itself, and what is needed before its address may be handed out."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.model.states import Reason


class ProofResult(StrEnum):
    PROVEN = "proven"
    """401 without credentials; with them healthy, of the expected version, and its workspace answers."""
    NOT_LISTENING = "not_listening"
    NOT_READY = "not_ready"
    """It answers, but not yet as it must."""
    OPEN = "open"
    """It answered a request without credentials: it has no password."""
    WRONG_VERSION = "wrong_version"
    REFUSES_PASSWORD = "refuses_password"  # noqa: S105 - a result
    """It does not take the password that its job was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One look at one address. `detail` is prose and holds no secret."""

    result: ProofResult
    address: Address
    allocation_id: AllocationId
    restarts: int = 0
    """How often the task of the allocation had restarted when it was looked at: what an earlier run of it showed proves
    nothing of this one."""
    version: str = ""
    detail: str = ""
    reason: Reason | None = None
    """
    What kept it from being looked at, when that is known: a neighbour that is away, or a missing secret. Or what is the
    matter with it: a configuration that it cannot load.
    """
    at: datetime
