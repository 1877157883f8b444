"""Passwords that were read a moment ago."""

from collections.abc import Callable
from time import monotonic
from typing import Final

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.ports.secrets import PasswordStore

KEPT_SECONDS: Final = 15.0
"""About as long as a migration takes from the last look at the agent to the proof of what follows."""


class RecentPasswords:
    """
    Reads each version of a password at most once in `KEPT_SECONDS`; a version never changes.

    Whoever looks at an agent, proves the runtime that follows and asks it for turns that were cut off needs the same one
    within seconds. It is for what we ask of runtimes ourselves: whoever hands a password out, or has to know that it is
    there, reads it in Vault.
    """

    def __init__(self, passwords: PasswordStore, *, now: Callable[[], float] = monotonic) -> None:
        self._passwords = passwords
        self._now = now
        self._read: dict[tuple[JobId, int], tuple[Password, float]] = {}
        """With the time until which it is kept, in the order of that."""

    async def read(self, job_id: JobId, version: int, deadline: Deadline) -> Password:
        """Return the password of *version*, or raise as `PasswordStore.read` does."""
        self._forget()
        found = self._read.get((job_id, version))
        if found is not None:
            return found[0]
        password = await self._passwords.read(job_id, version, deadline)
        self._read.pop((job_id, version), None)
        self._read[job_id, version] = password, self._now() + KEPT_SECONDS
        return password

    def _forget(self) -> None:
        now = self._now()
        while self._read:
            oldest = next(iter(self._read))
            if self._read[oldest][1] > now:
                return
            del self._read[oldest]
