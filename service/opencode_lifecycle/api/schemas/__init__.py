"""
What goes over the wire, exactly as the API contract says. Bodies that come in are strict and closed; each shape that goes
out is made from the domain by its `from_domain`. One module for each subject; this one has all of their shapes.
"""

from opencode_lifecycle.api.schemas.data import DataBody
from opencode_lifecycle.api.schemas.groups import GroupBody, GroupShape
from opencode_lifecycle.api.schemas.health import (
    DependencyShape,
    LivenessShape,
    ReadinessShape,
    WatchShape,
)
from opencode_lifecycle.api.schemas.leases import LeaseBody, LeaseShape
from opencode_lifecycle.api.schemas.operations import (
    EventShape,
    OperationShape,
    PhaseEnteredShape,
)
from opencode_lifecycle.api.schemas.oversight import (
    ConditionShape,
    NextLookShape,
    OrphanPlanShape,
    OrphanShape,
    ReconcileShape,
    StackPlanShape,
    StaleCountShape,
    StalenessSummaryShape,
)
from opencode_lifecycle.api.schemas.problems import (
    FaultShape,
    ProblemShape,
)
from opencode_lifecycle.api.schemas.releases import (
    MadeReleaseShape,
    PinBody,
    ReleaseBody,
    ReleaseShape,
    WholeReleaseShape,
)
from opencode_lifecycle.api.schemas.rollout_specification import (
    GateBody,
    GateShape,
    RolloutBody,
    SelectorBody,
    SelectorShape,
    SpecificationShape,
    StartRolloutBody,
    StrategyBody,
    StrategyShape,
)
from opencode_lifecycle.api.schemas.rollouts import (
    MemberShape,
    PlannedStackShape,
    PlanTotalsShape,
    RolloutDetailShape,
    RolloutPlanShape,
    RolloutShape,
    WaveShape,
)
from opencode_lifecycle.api.schemas.shapes import (
    Incoming,
    ListShape,
    Mirror,
    NothingBody,
    Outgoing,
)
from opencode_lifecycle.api.schemas.snapshots import (
    MigrationsShape,
    SnapshotFileShape,
    SnapshotShape,
    SnapshotsShape,
    StartRefusedShape,
)
from opencode_lifecycle.api.schemas.stacks import (
    AddressesShape,
    AddressShape,
    CredentialsShape,
    EnsureBody,
    MigrationShape,
    OrderShape,
    RuntimeShape,
    StackShape,
    StalenessShape,
    WrappedCredentialsShape,
    credentials_from_domain,
)
from opencode_lifecycle.api.schemas.tokens import (
    IssuedTokenShape,
    TokenBody,
    TokenShape,
)

__all__ = [
    "AddressShape",
    "AddressesShape",
    "ConditionShape",
    "CredentialsShape",
    "DataBody",
    "DependencyShape",
    "EnsureBody",
    "EventShape",
    "FaultShape",
    "GateBody",
    "GateShape",
    "GroupBody",
    "GroupShape",
    "Incoming",
    "IssuedTokenShape",
    "LeaseBody",
    "LeaseShape",
    "ListShape",
    "LivenessShape",
    "MadeReleaseShape",
    "MemberShape",
    "MigrationShape",
    "MigrationsShape",
    "Mirror",
    "NextLookShape",
    "NothingBody",
    "OperationShape",
    "OrderShape",
    "OrphanPlanShape",
    "OrphanShape",
    "Outgoing",
    "PhaseEnteredShape",
    "PinBody",
    "PlanTotalsShape",
    "PlannedStackShape",
    "ProblemShape",
    "ReadinessShape",
    "ReconcileShape",
    "ReleaseBody",
    "ReleaseShape",
    "RolloutBody",
    "RolloutDetailShape",
    "RolloutPlanShape",
    "RolloutShape",
    "RuntimeShape",
    "SelectorBody",
    "SelectorShape",
    "SnapshotFileShape",
    "SnapshotShape",
    "SnapshotsShape",
    "SpecificationShape",
    "StackPlanShape",
    "StackShape",
    "StaleCountShape",
    "StalenessShape",
    "StalenessSummaryShape",
    "StartRefusedShape",
    "StartRolloutBody",
    "StrategyBody",
    "StrategyShape",
    "TokenBody",
    "TokenShape",
    "WatchShape",
    "WaveShape",
    "WholeReleaseShape",
    "WrappedCredentialsShape",
    "credentials_from_domain",
]
