"""Jobs: rendering, registering, stopping and seeing them. Nomad in production."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId, JobId, UserId
from opencode_lifecycle.model.node import ClosedNode
from opencode_lifecycle.model.observation import AllocationSeen, JobSeen, Observation
from opencode_lifecycle.model.orphan import Find
from opencode_lifecycle.model.stack import FieldEdit

Variables = Mapping[str, str | int | bool | Sequence[str] | Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedJob:
    """A job as the orchestrator parsed it. `specification` is opaque to everyone but the adapter that made it."""

    job_id: JobId
    specification: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """
    Everything the namespace holds under our name prefix, complete as of `index`.

    A listing is whole or it is not returned: a page that fails fails the listing.
    """

    index: int
    observed_at: datetime
    stacks: Mapping[JobId, Observation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The event stream is open: what it says from now on follows `index` without our knowing of any gap."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChanged:
    """`job` is None when the job was purged."""

    index: int
    job_id: JobId
    job: JobSeen | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationChanged:
    index: int
    job_id: JobId
    allocation: AllocationSeen


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementChanged:
    """The scheduler's account of why it could not place the job, or None when it could."""

    index: int
    job_id: JobId
    failure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesChanged:
    """Something about a node changed: which ones are closed is to be read again."""

    index: int


Change = Connected | JobChanged | AllocationChanged | PlacementChanged | NodesChanged


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How the job that is registered differs from another one, field by field, and whether changing it restarts the task."""

    edits: Sequence[FieldEdit]
    restart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Whether the scheduler could place a job now. `failure` is its account of why it could not, None when it could."""

    failure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the tasks of an allocation use. `memory` is in bytes, None where the client cannot tell (no cgroups)."""

    memory: int | None


class Orchestrator(Protocol):
    """Every call raises `UpstreamError` of system `nomad` or `DeadlineExceeded`; never a vendor's exception."""

    async def render(self, template: str, variables: Variables, deadline: Deadline) -> RenderedJob:
        """
        Parse HCL *template* with *variables*, sent as JSON and never pasted into the text.

        Every variable must be declared by the template, else `UpstreamRejected` before anything is sent.
        """
        ...

    async def register(self, job: RenderedJob, *, expected_index: int, deadline: Deadline) -> int:
        """
        Register *job* if it is at *expected_index* now (0: must not exist) and return its `JobModifyIndex`.

        Raises `IndexConflict` when it is at another index and `UpstreamRejected` when the job is refused. Nomad 1.11
        checks the index before it commits and not within, so two writers can both succeed: exclusivity is ours to keep.
        """
        ...

    async def compare(self, job: RenderedJob, deadline: Deadline) -> Comparison:
        """
        Have the scheduler plan *job* against what is registered under its id now. Nothing is changed.

        `have` is what is registered, `want` what *job* says. What Nomad fills in by itself, or what is no part of the
        specification, is no difference. A job that is not registered at all is `UpstreamRejected`.
        """
        ...

    async def validate(self, job: RenderedJob, deadline: Deadline) -> None:
        """
        Have Nomad check *job*, registered or not, as it does before it takes one. Nothing is changed or scheduled.

        A job that Nomad would refuse is `UpstreamRejected`, with its words. That it is not says nothing of a place for it.
        """
        ...

    async def plan_placement(self, job: RenderedJob, deadline: Deadline) -> Placement:
        """
        Have the scheduler plan *job*, registered or not, and say whether it could place it now. Nothing is changed.

        What the job that is registered uses counts as free. A job that Nomad would refuse is `UpstreamRejected`, with
        its words.
        """
        ...

    async def submitted(self, job: JobSeen, deadline: Deadline) -> Variables | None:
        """
        Return the values with which the newest version of *job* was submitted of which they are known, or None.

        They are what somebody said, we or an operator: nothing holds the job to them.
        """
        ...

    async def usage(self, allocation_id: AllocationId, deadline: Deadline) -> Usage | None:
        """Return what the allocation uses now, or None when its client does not know it."""
        ...

    async def deregister(self, job_id: JobId, *, purge: bool, deadline: Deadline) -> int:
        """Stop the job (and forget it, with *purge*), returning the index after. A job that is gone is no error."""
        ...

    async def observe(self, job_id: JobId, deadline: Deadline) -> Observation:
        """Read job, allocations and placement failure now, consistently with everything written before."""
        ...

    async def list_all(self, deadline: Deadline) -> Listing:
        """Read the whole namespace, page by page."""
        ...

    async def closed_nodes(self, deadline: Deadline) -> Sequence[ClosedNode]:
        """
        Return every node on which nothing is placed now, drained or not. All others take what fits.

        The list is whole or it is not returned.
        """
        ...

    def follow(self, index: int | None) -> AsyncIterator[Change]:
        """
        Yield changes after *index*, beginning with `Connected`, until the connection ends; then raise
        `UpstreamUnavailable`. Gaps are silent: a stream is a hint, the listing is the guarantee.

        Without an *index* it begins about now: whatever a listing lacks that is begun at `Connected` is told.
        """
        ...

    def read_log(
        self, allocation_id: AllocationId, *, kind: str, tail: int, follow: bool, deadline: Deadline
    ) -> AsyncIterator[bytes]:
        """Yield the last *tail* lines of `stdout` or `stderr`, and with *follow* all that comes after."""
        ...

    async def read_file(
        self, allocation_id: AllocationId, path: str, *, limit: int, deadline: Deadline
    ) -> bytes | None:
        """
        Return the file at *path* in the directory of the allocation, as `server/local/live/instructions/AGENTS.md`, or
        None when there is provably no such file or allocation.

        More than *limit* bytes are `UpstreamNonsense`. A client that cannot be reached, or a file that changes while it
        is read, is an error that passes.
        """
        ...

    async def ping(self, deadline: Deadline) -> None:
        """Return when a leader is known and our token is accepted; raise otherwise."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose a thing is: written on what we make, where its system has a place for it."""

    installation: str
    user_id: UserId


class Workspaces(Protocol):
    """Persistent volumes, one per stack, bearing the job's name. Nomad dynamic host volumes in production."""

    async def ensure(
        self, job_id: JobId, deadline: Deadline, *, avoid: Collection[str] = ()
    ) -> "WorkspaceFound":
        """
        Return the volume of *job_id*, creating it where there is none. Safe to repeat.

        A new one is made on none of the nodes to *avoid*; where no other can take it, `NoCapacity`.
        """
        ...

    async def find(self, job_id: JobId, deadline: Deadline) -> "WorkspaceFound | None":
        """Return the volume of *job_id*, or None when there is provably none."""
        ...

    async def list_all(self, deadline: Deadline) -> Sequence[Find]:
        """
        Return every volume that bears a name with our prefix, and when it was made; `reference` is its volume id.

        Nomad has no place for an owner's name in a volume: whose it is only its own name says.
        """
        ...

    async def destroy(self, volume_id: str, deadline: Deadline) -> None:
        """Delete the volume with its data. One that is gone is no error; one still claimed is `UpstreamRejected`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceFound:
    volume_id: str
    node_id: str
    path: str


class LiveFiles(Protocol):
    """Texts that change under a running process. Nomad variables in production."""

    async def publish(self, text: str, deadline: Deadline) -> str:
        """Store *text* by its content and return its digest (SHA-256, hex). Repeating it writes nothing."""
        ...

    async def point(
        self, job_id: JobId, owner: Owner, *, instructions: str, managed: str, deadline: Deadline
    ) -> None:
        """Make the stack's pointer name the two digests. Repeating it writes nothing."""
        ...

    async def clear(self, job_id: JobId, deadline: Deadline) -> None:
        """Delete the stack's pointer. One that is gone is no error."""
        ...

    async def list_all(self, deadline: Deadline) -> Sequence[Find]:
        """Return every pointer of a job with our prefix, and when it was written, without saying whose it is."""
        ...

    async def owner_of(self, job_id: JobId, deadline: Deadline) -> Owner | None:
        """Return whose the pointer is, or None when there is none or it does not say."""
        ...


class ClusterMark(Protocol):
    """A mark that an installation leaves in its cluster, to know it again. A Nomad variable in production."""

    async def read(self, installation: str, deadline: Deadline) -> str | None:
        """Return the mark of *installation*, or None when there is provably none."""
        ...

    async def write(self, installation: str, mark: str, *, replace: bool = False, deadline: Deadline) -> str:
        """Leave *mark*, unless there is one and not *replace*; return the one that stands there now."""
        ...
