"""What a runtime tells of itself while somebody listens. OpenCode's event stream in production."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.prober import ReadPassword


class EventKind(StrEnum):
    OPENED = "opened"
    """It is listened to from now on. What happened before is told to nobody: it has to be looked for."""
    WORKS = "works"
    """A session works, a terminal was opened, or somebody is asked something and waited for."""
    CHANGED = "changed"
    """Something ended, was answered, or could not be read. Whether anything works still only a look can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeEvent:
    """*directory* is where it happened, None where that was not said."""

    kind: EventKind
    directory: str | None = None


class RuntimeEvents(Protocol):
    def follow(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> AsyncIterator[RuntimeEvent]:
        """
        Yield `OPENED`, then what happens in any directory, and raise `UpstreamError` at the end, which says why.

        Nothing is told twice and nothing is told again: whoever opens it anew has to look what happened meanwhile. The
        stream counts as ended when nothing was heard for longer than three of its heartbeats. *deadline* is for the answer
        to begin, else `DeadlineExceeded`. As in `prove` the password is sent only after a request without credentials got
        401; what *read_password* raises is passed on.
        """
        ...
