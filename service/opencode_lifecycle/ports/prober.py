"""Asking a runtime for itself. OpenCode's HTTP API in production."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
    them last changed, None when there is none.
    """

    busy: bool
    changed_at: datetime | None


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
