"""What is known of one stack, in memory."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.observation import Observation
from opencode_lifecycle.model.proof import Proof
from opencode_lifecycle.model.stack import Address, Stack, Status
from opencode_lifecycle.model.view import StackView
from opencode_lifecycle.ports.prober import Activity, Liveness
from opencode_lifecycle.ports.secrets import SecretSeen


@dataclass(slots=True, kw_only=True)
class Known:
    """One stack in memory. `view` caches how it is shown until something of it changes."""

    stack: Stack
    proof: Proof | None = None
    liveness: Liveness | None = None
    silent_probes: int = 0
    secret: SecretSeen | None = None
    """What Vault's metadata said last; None before the first look."""
    activity: Activity | None = None
    activity_at: datetime | None = None
    """What its sessions did, and when that was seen; an activity of None could not be seen."""
    busy_at: datetime | None = None
    """When a session of it was last seen at work, whatever could not be seen since."""
    memory: int | None = None
    """Bytes that its runtime used when last asked."""
    doubt: str = ""
    doubted: Address | None = None
    """An address that may be another's by now, and why; gone when that is settled."""
    answered: tuple[AllocationId, int] | None = None
    """The allocation, and which run of its task, that answered us as it must, in this life of the process. What an earlier life proved may be gone:
    a Nomad that was away itself still calls a dead allocation running."""
    view: StackView | None = None
    ready_until: float = 0.0
    """Until when, on the monotonic clock, `view` may be given to a hot ensure without a further look at anything."""
    waiters: list[asyncio.Event] = field(default_factory=list)

    def doubt_of(self, address: Address | None) -> str:
        """Return why *address* is in doubt; empty when it is not."""
        return self.doubt if address is not None and address == self.doubted else ""

    def has_answered(self) -> bool:
        """Whether the runtime that the row names has answered this process as it must."""
        runtime = self.stack.status.runtime
        return runtime is not None and self.answered == (runtime.allocation_id, runtime.restarts)


def run_of(status: Status) -> tuple[AllocationId, int] | None:
    """Return the allocation of the runtime, and which run of its task it is; None where there is none."""
    runtime = status.runtime
    return (runtime.allocation_id, runtime.restarts) if runtime is not None else None


def node_of(stack: Stack, seen: Observation | None) -> str | None:
    """Return the id of the node that the stack runs on, or else the one that its workspace lies on; None for none known."""
    if seen is not None and seen.live:
        return seen.live[0].node_id
    workspace = stack.status.workspace
    return workspace.node_id if workspace is not None else None


def is_lease_alone(before: Stack, after: Stack) -> bool:
    """
    Whether nothing but the lease of a stack was written since.

    With every user at work renewing twice a minute, most of what is written may be that.
    """
    return (
        before.busy_until != after.busy_until
        and before.intent == after.intent
        and before.status == after.status
    )
