"""Passwords: made, read, rotated and destroyed by reference. Vault KV v2 in production."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import JobId, UserId
from opencode_lifecycle.model.password import Password, WrappedPassword


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSeen:
    """
    What Vault's metadata says of a stack's secret, without reading it.

    `version` is the latest one, None when that was deleted or destroyed. `installation` and `user_id` are its custom
    metadata, None where they were never written. `written_at` is when anything of it was last written, its metadata
    too, None where that is not known.
    """

    version: int | None
    installation: str | None = None
    user_id: UserId | None = None
    written_at: datetime | None = field(default=None, compare=False)


class PasswordStore(Protocol):
    """Every call raises `UpstreamError` of system `vault` or `DeadlineExceeded`; never a vendor's exception."""

    async def ensure(self, job_id: JobId, deadline: Deadline) -> int:
        """
        Return the current version of the stack's password, making a random one where there is none.

        Written with check-and-set 0, so of two writers one wins and the other adopts what it wrote. A write whose
        reply was lost is found again on the next try. A latest version that was deleted is replaced by a new one.
        """
        ...

    async def latest_version(self, job_id: JobId, deadline: Deadline) -> int | None:
        """
        Return the latest version, or None when there is provably none or it was deleted.

        An older one is never fallen back to: it may have been rotated away.
        """
        ...

    async def look(self, job_id: JobId, deadline: Deadline) -> SecretSeen | None:
        """Return what the metadata says, or None when there is provably no secret. One read."""
        ...

    async def mark(self, job_id: JobId, *, installation: str, user_id: UserId, deadline: Deadline) -> None:
        """Write whose the secret is into its custom metadata, so that it is known again without a row."""
        ...

    async def list_all(self, deadline: Deadline) -> Sequence[JobId]:
        """Return the name of every secret under our prefix, whoever's it is."""
        ...

    async def rotate(self, job_id: JobId, *, expected: int, deadline: Deadline) -> int:
        """Write a new random password on top of version *expected*, keeping the `env` beside it; return its version."""
        ...

    async def read(self, job_id: JobId, version: int, deadline: Deadline) -> Password:
        """Return the password of *version*, or raise `SecretMissing`, also where it has none."""
        ...

    async def wrap(
        self, job_id: JobId, version: int, *, ttl_seconds: int, deadline: Deadline
    ) -> WrappedPassword:
        """Return a one-time token that opens to `{"username", "password"}` of *version*."""
        ...

    async def destroy(self, job_id: JobId, deadline: Deadline) -> None:
        """Destroy all versions and the metadata. What is gone already is no error."""
        ...

    async def ping(self, deadline: Deadline) -> None:
        """Return when Vault is unsealed and takes our token; raise otherwise."""
        ...
