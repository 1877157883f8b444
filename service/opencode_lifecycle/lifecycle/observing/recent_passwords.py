"""Passwords that were read a moment ago."""

from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Final

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.ports.secrets import PasswordStore

KEPT_SECONDS: Final = 15.0
"""About as long as a migration takes from the last look at the agent to the proof of what follows."""

_Key = tuple[JobId, datetime, int]
"""Of which stack, since when it lives, and the version."""


class RecentPasswords:
    """
    Reads each version of a stack's password at most once in `KEPT_SECONDS`.

    A version never changes; but a secret that was destroyed begins with the first one again. So each life of a stack has its
    own, and whoever finds that a password is refused has it forgotten.

    Whoever looks at an agent, proves the runtime that follows and asks it for turns that were cut off needs the same one
    within seconds. It is for what we ask of runtimes ourselves: whoever hands a password out reads it in Vault, and whoever
    has to know that it is there, `read_now`.
    """

    def __init__(self, passwords: PasswordStore, *, now: Callable[[], float] = monotonic) -> None:
        self._passwords = passwords
        self._now = now
        self._read: dict[_Key, tuple[Password, float]] = {}
        """With the time until which it is kept, in the order of that."""

    async def read(self, stack: Stack, version: int, deadline: Deadline) -> Password:
        """Return the password of *version*, or raise as `PasswordStore.read` does."""
        self._forget_old()
        found = self._read.get(_key_of(stack, version))
        return found[0] if found is not None else await self.read_now(stack, version, deadline)

    async def read_now(self, stack: Stack, version: int, deadline: Deadline) -> Password:
        """As `read`, but in Vault itself, whatever is remembered; whoever needs it next has it from here."""
        key = _key_of(stack, version)
        password = await self._passwords.read(stack.job_id, version, deadline)
        self._read.pop(key, None)
        self._read[key] = password, self._now() + KEPT_SECONDS
        return password

    def forget(self, stack: Stack, version: int) -> None:
        """Have the password read anew by whoever needs it next."""
        self._read.pop(_key_of(stack, version), None)

    def _forget_old(self) -> None:
        now = self._now()
        while self._read:
            oldest = next(iter(self._read))
            if self._read[oldest][1] > now:
                return
            del self._read[oldest]


def _key_of(stack: Stack, version: int) -> _Key:
    return stack.job_id, stack.created_at, version
