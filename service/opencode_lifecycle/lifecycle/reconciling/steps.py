"""What a plan may look at, and the steps it can name."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.job_template import TemplateNeeds
from opencode_lifecycle.model.migration import Footing
from opencode_lifecycle.model.node import ClosedNode
from opencode_lifecycle.model.observation import Observation
from opencode_lifecycle.model.proof import Proof
from opencode_lifecycle.model.snapshot import DataReport
from opencode_lifecycle.model.stack import Stack, Status
from opencode_lifecycle.model.states import WhenStale
from opencode_lifecycle.ports.prober import Activity, Liveness, Reloaded
from opencode_lifecycle.ports.secrets import SecretSeen


class Part(StrEnum):
    """What has been seen to within this pass; all of it is safe to see to again."""

    SECRET = "secret"  # noqa: S105 - the name of a part
    WORKSPACE = "workspace"
    LIVE_FILES = "live_files"
    SERVICE = "service"
    LOOK = "look"
    """Nomad was asked in this pass what there is."""
    ACTIVITY = "activity"
    """The runtime was asked in this pass what its sessions do."""
    NODES = "nodes"
    """Nomad was asked in this pass which nodes take nothing new."""
    CHECK = "check"
    """Nomad was asked in this pass whether it would take the job that is wanted."""
    COMPARISON = "comparison"
    """Nomad was asked in this pass how the job differs from ours."""
    DELIVERY = "delivery"
    """It was looked whether the live files that were published have reached the runtime."""
    RELOAD = "reload"
    """The runtime was made to read its configuration anew in this pass."""
    ABORT = "abort"
    """The turns that were at work were ended in this pass, for a migration that waits no longer."""
    TURNS = "turns"
    """The runtime was asked in this pass which turns were cut off."""
    REPORT = "report"
    """It was read what the entrypoint said of the data, or tried to."""
    JOB = "job"
    """Registered in this pass: what was seen before speaks for it no more, and what comes will be told by a watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    start: timedelta
    stop: timedelta
    placement: timedelta = timedelta(seconds=20)
    """How long what is to take a runtime's place may find none, before the old one is stopped for it. Others that are
    ending hold their ports until they have: the templates give them 15 s."""
    retry: Backoff = field(default_factory=lambda: Backoff(first=5, most=300))
    outage: Backoff = field(default_factory=lambda: Backoff(first=0.5, most=10))
    """Between tries while a neighbour is away."""
    poll: timedelta = timedelta(seconds=5)
    """How soon to look again while waiting for something that a watch should tell us anyway."""
    silent_probes: int = 3
    """Unanswered probes in a row before a running runtime is called unresponsive."""
    wedged_probes: int = 6
    """Unanswered probes in a row before it is replaced: an agent at work may be slow, a wedge does not pass."""
    patience_when_busy: int = 3
    """How many times as long a runtime is waited for that was seen at work not long ago."""
    idle_after: timedelta = timedelta(minutes=5)
    """A runtime of which no session has changed for so long is idle."""
    idle_poll: timedelta = timedelta(seconds=30)
    """How long a look at the sessions is good for, and how soon a busy runtime is looked at again."""
    delivery: timedelta = timedelta(seconds=60)
    """How long live files may take to reach a runtime. Nomad's templates wait 5 s at most before they render."""
    delivery_poll: timedelta = timedelta(seconds=1)
    recycle_pause: timedelta = timedelta(minutes=15)
    """Between two replacements of a runtime for its own good: what that does not cure is a person's to look at."""
    recycle_age: timedelta | None = None
    """A runtime that is idle and older is started afresh; None for never."""
    recycle_memory: float | None = 0.9
    """The share of its largest memory at which an idle runtime is started afresh; None for never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """
    Everything a plan may look at.

    *observation* is None when the stack cannot be seen, or was last seen before our own last write to its job. *wanted*
    is what it should be registered with, with the secret version the row knows (0 when it knows none); *asked* is what
    its intent says, which differs only where that was tried and taken back.
    """

    stack: Stack
    observation: Observation | None
    proof: Proof | None
    liveness: Liveness | None
    silent_probes: int
    wanted: Facets
    asked: Facets
    building: Footing
    """What a job that is registered now is built of."""
    needs: TemplateNeeds
    installation: str
    activity: Activity | None = None
    """What its sessions did at `activity_at`; None when they could not be seen."""
    activity_at: datetime | None = None
    busy_at: datetime | None = None
    """When a session of it was last seen at work."""
    secret: SecretSeen | None = None
    """What Vault's metadata said last; None before the first look."""
    memory: int | None = None
    memory_max: int = 0
    """Bytes that its runtime uses and may use at most; what is not known is None."""
    doubt: str = ""
    """Why the proven address may not be its own any more; empty when nothing speaks against it."""
    when_stale: WhenStale = WhenStale.IDLE
    idle_stop_after: timedelta | None = None
    """How long it may be idle before it is stopped; None for ever."""
    frozen: frozenset[ConditionKind] = frozenset()
    """The conditions that stand unconfirmed."""
    closed_node: ClosedNode | None = None
    """The node that it runs on, or where its workspace lies, if that is known to take nothing new."""
    nodes_age: timedelta | None = None
    """How long ago it was seen which nodes are closed: any other was open then. None when that is not known."""
    delivered: bool | None = None
    """Whether the runtime has the live files that were published, as far as this pass has seen; None for unknown."""
    reloaded: Reloaded | None = None
    """What came of the reload of this pass."""
    report: DataReport | None = None
    """What the entrypoint reported, as far as this pass has read it; None when there is no report."""
    is_report_unknown: bool = False
    """Whether it could not be read in this pass."""
    done: frozenset[Part] = frozenset()


@dataclass(frozen=True, slots=True)
class Look:
    """Read the job directly, now."""


@dataclass(frozen=True, slots=True)
class LookAtNodes:
    """Ask Nomad which nodes take nothing new, now."""


@dataclass(frozen=True, slots=True)
class MakeSecret:
    pass


@dataclass(frozen=True, slots=True)
class RotateSecret:
    """Have a password newer than version *known*, 0 for none."""

    known: int


@dataclass(frozen=True, slots=True)
class MakeWorkspace:
    pass


@dataclass(frozen=True, slots=True)
class PublishLiveFiles:
    pass


@dataclass(frozen=True, slots=True)
class RegisterJob:
    expected_index: int
    facets: Facets


@dataclass(frozen=True, slots=True)
class CompareJob:
    """Ask how the job, which somebody else wrote last, differs from what we registered."""


@dataclass(frozen=True, slots=True)
class CheckJob:
    """Have Nomad check the job that is to take the place of the one that runs. What was seen of its use grows old meanwhile."""


@dataclass(frozen=True, slots=True)
class LookAtActivity:
    """Ask the runtime what its sessions do, now."""


@dataclass(frozen=True, slots=True)
class CheckDelivery:
    """Read back, through Nomad, whether the runtime has the live files."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Make the runtime read its configuration anew, in the same process."""


@dataclass(frozen=True, slots=True)
class AbortTurns:
    """End the turns that are at work, so that the history of their sessions stays true."""


@dataclass(frozen=True, slots=True)
class LookForCutTurns:
    """Ask a runtime that was restarted which turns the restart has cut off."""


@dataclass(frozen=True, slots=True)
class ReadReport:
    """Read what the entrypoint of the allocation said of the data, and remember its snapshots."""

    allocation_id: AllocationId


@dataclass(frozen=True, slots=True)
class StopJob:
    pass


@dataclass(frozen=True, slots=True)
class PurgeJob:
    pass


@dataclass(frozen=True, slots=True)
class DestroySecret:
    pass


@dataclass(frozen=True, slots=True)
class ClearLiveFiles:
    pass


@dataclass(frozen=True, slots=True)
class DestroyWorkspace:
    pass


@dataclass(frozen=True, slots=True)
class CheckServiceGone:
    pass


@dataclass(frozen=True, slots=True)
class Move:
    """
    Take on *status*. It is saved before the next step that has an effect.

    With *unless_busy* it is saved only if no backend has said that the agent is at work: in the same transaction.
    """

    status: Status
    unless_busy: bool = False


@dataclass(frozen=True, slots=True)
class FinishDeletion:
    """Everything the stack owned is proven gone."""


@dataclass(frozen=True, slots=True)
class Rest:
    """
    Nothing to do now. Look again after *wait*, or when something is seen to change (None: only then).

    *succeeded* finishes the operation that led here: True, False with the status' reason, or None while it goes on.
    """

    status: Status
    wait: timedelta | None
    succeeded: bool | None = None


Step = (
    Look
    | LookAtNodes
    | MakeSecret
    | RotateSecret
    | MakeWorkspace
    | PublishLiveFiles
    | RegisterJob
    | CompareJob
    | CheckJob
    | LookAtActivity
    | CheckDelivery
    | Reload
    | AbortTurns
    | LookForCutTurns
    | ReadReport
    | StopJob
    | PurgeJob
    | DestroySecret
    | ClearLiveFiles
    | DestroyWorkspace
    | CheckServiceGone
    | Move
    | FinishDeletion
    | Rest
)


def system_of(step: Step) -> str | None:
    """Return the neighbour that *step* asks, by the name that an `UpstreamError` has for it; None when it is none of them."""
    match step:
        case MakeSecret() | RotateSecret() | DestroySecret():
            return "vault"
        case CheckServiceGone():
            return "consul"
        case Move() | Rest() | FinishDeletion():
            return None
        case LookAtActivity() | Reload() | AbortTurns() | LookForCutTurns():
            return None
        case _:
            return "nomad"
