"""One claimed stack on its way through a pass."""

from dataclasses import dataclass, field

from opencode_lifecycle.lifecycle.reconciling.steps import Work
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.ports.orchestrator import RenderedJob, Variables
from opencode_lifecycle.ports.stores import Claimed


@dataclass(slots=True)
class Pass:
    """One claimed stack on its way. `saved` is its status as the database has it."""

    claimed: Claimed
    work: Work
    saved: Status
    receipt: dict[str, object]
    notes: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    """Events of this pass that are not moves, until the next save writes them down: their kind and data."""
    unless_busy: bool = False
    """Whether the next save must not be made while a backend says that the agent is at work."""
    moved: Status | None = None
    """What the latest move that gave a reason led to, until the next save: what a stack waits for next may hide why it moved."""
    rendered: tuple[ReleaseId, Variables, RenderedJob] | None = None
    """The job that was rendered last, and of what: it is planned and registered in one pass."""

    def note(self, kind: str, **data: object) -> None:
        """Have an event of *kind* written with the next save."""
        self.notes.append((kind, data))
