"""Passwords: made, read, rotated and destroyed by reference. Vault KV v2 in production."""

from typing import Protocol

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.password import Password, WrappedPassword


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

    async def rotate(self, job_id: JobId, *, expected: int, deadline: Deadline) -> int:
        """Write a new random password on top of version *expected*, keeping the `env` beside it; return its version."""
        ...

    async def read(self, job_id: JobId, version: int, deadline: Deadline) -> Password:
        """Return the password of *version*, or raise `SecretMissing`."""
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
