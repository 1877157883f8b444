"""What steers the control plane, as plain values."""

from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from opencode_lifecycle.lifecycle.orphans.judgement import OrphanLimits
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.lifecycle.reconciling.wanted import Site
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.states import WhenStale


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Durations, not seconds."""

    site: Site
    limits: Limits
    namespace: str
    region: str
    default_resources: str
    allowed_environment: frozenset[str] = frozenset()
    """Names of variables that a release may set."""
    opencode_floor: str = "1.18.15"
    """No release is of an older version."""
    observation_max_age: timedelta = timedelta(seconds=30)
    resync_interval: timedelta = timedelta(seconds=10)
    liveness_interval: timedelta = timedelta(seconds=10)
    secret_sweep_interval: timedelta = timedelta(minutes=5)
    usage_interval: timedelta = timedelta(minutes=5)
    comparison_interval: timedelta = timedelta(minutes=5)
    """Between full comparisons: Consul's catalogue with what was proven, and every neighbour with the rows."""
    orphan_limits: OrphanLimits = field(default_factory=OrphanLimits)
    when_stale: WhenStale = WhenStale.IDLE
    events_kept: timedelta = timedelta(days=90)
    claim_lifetime: timedelta = timedelta(seconds=60)
    workers: int = 64
    upstream_timeout: timedelta = timedelta(seconds=10)
    shutdown_grace: timedelta = timedelta(seconds=10)
    shares_database: bool = False
    """Whether others write to the database too, so that memory must follow it."""
    clock: Clock = utc_now
    random: Random = field(default_factory=Random)
