"""Everything outside that the control plane works with."""

from dataclasses import dataclass, field
from typing import Protocol

from opencode_lifecycle.lifecycle.observing.watching import ChangeFeed
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.ports.config_check import ConfigCheck, NoConfigCheck
from opencode_lifecycle.ports.orchestrator import ClusterMark, LiveFiles, Orchestrator, Workspaces
from opencode_lifecycle.ports.prober import RuntimeProber
from opencode_lifecycle.ports.rollouts import RolloutStore
from opencode_lifecycle.ports.runtime_events import RuntimeEvents
from opencode_lifecycle.ports.secrets import PasswordStore
from opencode_lifecycle.ports.service_catalog import ServiceCatalog
from opencode_lifecycle.ports.stores import (
    ConditionStore,
    EventStore,
    GroupStore,
    IdempotencyStore,
    InstallationStore,
    LeaseStore,
    OperationStore,
    OrphanStore,
    ReleaseStore,
    SnapshotStore,
    StackStore,
    TokenStore,
)


class Store(
    StackStore,
    LeaseStore,
    OperationStore,
    EventStore,
    TokenStore,
    ReleaseStore,
    GroupStore,
    SnapshotStore,
    IdempotencyStore,
    ConditionStore,
    OrphanStore,
    RolloutStore,
    InstallationStore,
    ChangeFeed,
    Protocol,
):
    """The whole database."""

    async def ping(self, deadline: Deadline) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Each behind its port."""

    store: Store
    orchestrator: Orchestrator
    workspaces: Workspaces
    live_files: LiveFiles
    cluster_mark: ClusterMark
    passwords: PasswordStore
    catalog: ServiceCatalog
    prober: RuntimeProber
    events: RuntimeEvents
    config_check: ConfigCheck = field(default_factory=NoConfigCheck)
