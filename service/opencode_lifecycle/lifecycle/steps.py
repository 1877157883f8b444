"""What a plan may look at, and the steps it can name."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.job_template import TemplateNeeds
from opencode_lifecycle.model.observation import Observation
from opencode_lifecycle.model.proof import Proof
from opencode_lifecycle.model.stack import Stack, Status
from opencode_lifecycle.ports.prober import Liveness


class Part(StrEnum):
    """What has been seen to within this pass; all of it is safe to see to again."""

    SECRET = "secret"  # noqa: S105 - the name of a part
    WORKSPACE = "workspace"
    LIVE_FILES = "live_files"
    SERVICE = "service"
    LOOK = "look"
    """Nomad was asked in this pass what there is."""
    JOB = "job"
    """Registered in this pass: what was seen before speaks for it no more, and what comes will be told by a watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    start: timedelta
    stop: timedelta
    retry: Backoff = field(default_factory=lambda: Backoff(first=5, most=300))
    outage: Backoff = field(default_factory=lambda: Backoff(first=0.5, most=10))
    """Between tries while a neighbour is away."""
    poll: timedelta = timedelta(seconds=5)
    """How soon to look again while waiting for something that a watch should tell us anyway."""
    silent_probes: int = 3
    """Unanswered probes in a row before a running runtime is called unresponsive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """
    Everything a plan may look at.

    *observation* is None when the stack cannot be seen, or was last seen before our own last write to its job. *wanted*
    is what it should be registered with, with the secret version the row knows (0 when it knows none).
    """

    stack: Stack
    observation: Observation | None
    proof: Proof | None
    liveness: Liveness | None
    silent_probes: int
    wanted: Facets
    needs: TemplateNeeds
    installation: str
    done: frozenset[Part] = frozenset()


@dataclass(frozen=True, slots=True)
class Look:
    """Read the job directly, now."""


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
    """Take on *status*. It is saved before the next step that has an effect."""

    status: Status


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
    | MakeSecret
    | RotateSecret
    | MakeWorkspace
    | PublishLiveFiles
    | RegisterJob
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
