"""
What Nomad says now about one stack, in our words.

Every part is present, absent or unknown, and the three are never confused: absent is a statement of the system that
owns the truth, unknown is the lack of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum

from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.stack import Address


class Blind(Enum):
    """What is said of a thing that is not seen."""

    UNKNOWN = "unknown"
    ABSENT = "absent"


UNKNOWN = Blind.UNKNOWN
ABSENT = Blind.ABSENT


class ClientStatus(StrEnum):
    """Nomad's client status of an allocation."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    LOST = "lost"
    UNKNOWN = "unknown"

    @property
    def is_terminal(self) -> bool:
        """Whether the client says that nothing of it runs any more."""
        return self in {ClientStatus.COMPLETE, ClientStatus.FAILED, ClientStatus.LOST}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSeen:
    """A job as Nomad has it. `meta` is the job's meta; who owns it and which facets it has stand there."""

    job_id: JobId
    version: int
    modify_index: int
    """`JobModifyIndex`: changes only when the specification does."""
    stopped: bool
    meta: Mapping[str, str]
    submitted_at: datetime | None = field(default=None, compare=False)
    """When this version was submitted; None where that is not known. Stopping a job submits a version, too."""

    def belongs_to(self, installation: str) -> bool:
        return (
            self.meta.get("managed_by") == "opencode-lifecycle"
            and self.meta.get("installation") == installation
        )


class TaskTrouble(StrEnum):
    """Why a task does not run, as far as Nomad's task events say."""

    DRIVER = "driver"
    SECRET = "secret"  # noqa: S105 - a kind of trouble
    EXITED = "exited"
    OUT_OF_MEMORY = "out_of_memory"
    DATA_NEWER = "data_newer"
    DISK_FULL = "disk_full"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationSeen:
    id: AllocationId
    job_version: int
    modify_index: int
    create_index: int
    desired_status: str
    client_status: ClientStatus
    node_id: str
    node_name: str
    address: Address | None = None
    """Host and port labelled `http` that Nomad gave it; None for a job without that port or before placement."""
    restarts: int = 0
    started_at: datetime | None = None
    trouble: TaskTrouble | None = None
    trouble_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """
    One stack as Nomad shows it at `index`, seen at `observed_at`.

    `allocations` are all that Nomad still lists, newest first. `placement_failure` is the scheduler's own account of
    why it can place nothing, None when it can or has. `job_index` is set where only the rest was heard of since: as of that
    index the job is known.
    """

    job: JobSeen | Blind
    allocations: Sequence[AllocationSeen] = ()
    placement_failure: str | None = None
    index: int
    job_index: int | None = None
    observed_at: datetime

    @property
    def job_known_to(self) -> int:
        """The index as of which the job itself is known."""
        return self.index if self.job_index is None else self.job_index

    @property
    def live(self) -> Sequence[AllocationSeen]:
        """Allocations of which something may still run, newest first."""
        return [a for a in self.allocations if not a.client_status.is_terminal]

    @property
    def newest(self) -> AllocationSeen | None:
        return self.allocations[0] if self.allocations else None
