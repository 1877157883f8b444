"""Asking a runtime for itself. OpenCode's HTTP API in production."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.proof import Proof
from opencode_lifecycle.model.stack import Address

ReadPassword = Callable[[], Awaitable[Password]]


class Liveness(StrEnum):
    ALIVE = "alive"
    """It refused an unauthenticated request, as it must."""
    OPEN = "open"
    """It answered an unauthenticated request: it has no password."""
    SILENT = "silent"
    """Nothing listens there."""
    HUNG = "hung"
    """It did not answer in time, or not even take the connection; but nobody refused it."""
    STRANGE = "strange"
    """Something answered as OpenCode would not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """
    What the sessions of a runtime show. `busy`: one of them works now, or waits for its user. `changed_at` is when any of
    them last changed, which the end of a turn does and an abort does not; None when there is none.
    """

    busy: bool
    changed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """
    What an agent was doing when it was stopped: the session, and the directory that it works in.

    *began_at* is when its last answer began, where that was looked for; it tells two turns of one session apart.
    """

    session_id: str
    directory: str
    began_at: datetime | None = field(default=None, compare=False)


class ReloadResult(StrEnum):
    RELOADED = "reloaded"
    """It read its configuration anew, and every directory that was asked answers."""
    BAD_CONFIG = "bad_config"
    """It cannot load the configuration it has now. That sticks: only another start of the process heals it."""
    NOT_ASKED = "not_asked"
    """It could not be asked, so nothing was reloaded."""
    UNKNOWN = "unknown"
    """It was asked, and what came of it could not be seen. Asking again is safe as long as nothing is at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """
    What came of a reload. `detail` is prose and holds no secret.

    `broken` are the directories that answer no more because of a file of their own, which is their user's. The others
    answer, so that this alone is no `BAD_CONFIG`.
    """

    result: ReloadResult
    detail: str = ""
    broken: Sequence[str] = ()


class PromptOutcome(StrEnum):
    ANSWERED = "answered"
    """An answer came, whole and without an error."""
    FAILED = "failed"
    """It was refused, or its answer bears an error. `detail` says with which status, or which error by its name."""
    TIMED_OUT = "timed_out"
    NOT_ASKED = "not_asked"
    """The runtime could not be asked: it is not there, is not what it should be, or refuses the password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptResult:
    """What came of a prompt. `detail` is prose and holds nothing of the answer."""

    outcome: PromptOutcome
    detail: str = ""


class RuntimeProber(Protocol):
    """Never raises for what a runtime does: that is the result. `UpstreamError` comes only from *read_password*."""

    async def prove(
        self,
        *,
        address: Address,
        allocation_id: AllocationId,
        expected_version: str,
        directory: str | None,
        read_password: ReadPassword,
        deadline: Deadline,
    ) -> Proof:
        """
        Look once whether *address* may be handed out.

        In this order: a request without credentials must get 401, and only then is the password read and sent; health
        must be JSON, healthy and of *expected_version*; the configuration of *directory* (the server's own when None)
        must answer 200 with JSON. Redirects are never followed, answers are read up to a bound.
        """
        ...

    async def activity(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> Activity | None:
        """
        Look at the sessions of all directories, or return None when that could not be seen.

        As in `prove` the password is sent only after a request without credentials got 401.
        """
        ...

    async def liveness(self, address: Address, deadline: Deadline) -> Liveness:
        """Look once, without credentials."""
        ...

    async def reload(self, *, address: Address, read_password: ReadPassword, deadline: Deadline) -> Reloaded:
        """
        Let the runtime read its configuration anew, in the same process, and look whether it can load it.

        It aborts every turn that is at work: the caller has proven that none is. As in `prove` the password is sent
        only after a request without credentials got 401.
        """
        ...

    async def abort_turns(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> Sequence[Turn] | None:
        """
        End every turn that is at work or waits for its user, and return these, or None when that could not be seen.

        Returns when each of them has ended, so that the history says truly that it was aborted. None does not mean that
        nothing was aborted. The password is treated as in `prove`.
        """
        ...

    async def interrupted_turns(
        self, *, address: Address, read_password: ReadPassword, since: datetime, deadline: Deadline
    ) -> Sequence[Turn] | None:
        """
        Return the turns that were cut off, of the latest 50 sessions that changed at or after *since*, or None when
        that could not be seen.

        A turn that is at work looks the same: ask a runtime that has just started. One that was cut off bears the time of
        its beginning, so *since* is how long ago it may have begun; it is found again until its session goes on. The directories are loaded for it, and one that cannot
        be leaves all unknown. The password is treated as in `prove`.
        """
        ...

    async def prompt(
        self, *, address: Address, read_password: ReadPassword, text: str, deadline: Deadline
    ) -> PromptResult:
        """
        Say *text* in a session of its own, in the directory of the server, and look whether an answer comes.

        The session may use no tools and is deleted again, whatever happens; that may take a few seconds beyond *deadline*.
        The password is treated as in `prove`.
        """
        ...

    async def session_count(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> int | None:
        """
        Count the sessions of all directories, archived ones as well, or return None when that could not be seen or they
        are more than 10,000. The password is treated as in `prove`.
        """
        ...
