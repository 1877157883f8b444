"""
What is remembered, and how work on it is claimed. SQLite or PostgreSQL in production.

Every write is one transaction. A write that returned survives a power cut. No call of another system is ever awaited
inside a transaction.
"""

from opencode_lifecycle.ports.stores.access import (
    IdempotencyStore,
    IdempotentAnswer,
    TokenStore,
)
from opencode_lifecycle.ports.stores.history import (
    EventStore,
    OperationStore,
    SnapshotStore,
)
from opencode_lifecycle.ports.stores.stacks import (
    Claimed,
    Decision,
    Due,
    LeaseStore,
    OperationOutcome,
    Progress,
    Situation,
    StackChange,
    StackQuery,
    StackStore,
)
from opencode_lifecycle.ports.stores.wanted import (
    GroupStore,
    ReleaseStore,
)
from opencode_lifecycle.ports.stores.whole import (
    ClaimedOrphan,
    ConditionStore,
    InstallationStore,
    OrphanStore,
)

__all__ = [
    "Claimed",
    "ClaimedOrphan",
    "ConditionStore",
    "Decision",
    "Due",
    "EventStore",
    "GroupStore",
    "IdempotencyStore",
    "IdempotentAnswer",
    "InstallationStore",
    "LeaseStore",
    "OperationOutcome",
    "OperationStore",
    "OrphanStore",
    "Progress",
    "ReleaseStore",
    "Situation",
    "SnapshotStore",
    "StackChange",
    "StackQuery",
    "StackStore",
    "TokenStore",
]
