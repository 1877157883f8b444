"""Whether OpenCode would take a managed configuration, by its own check in a process that is thrown away."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from opencode_lifecycle.model.deadline import Deadline


class Outcome(StrEnum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    """OpenCode read it and does not take it."""
    NO_SUCH_PROGRAM = "no_such_program"
    """Runtimes are started from a program of this machine, and there is none of that version."""
    NOT_CHECKED = "not_checked"
    """Nothing here could check it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigVerdict:
    """`message` is what OpenCode says, or why it was not asked. It quotes nothing but the configuration."""

    outcome: Outcome
    message: str


class ConfigCheck(Protocol):
    async def check(self, *, version: str, managed: str, deadline: Deadline) -> ConfigVerdict:
        """
        Have OpenCode *version* read the text *managed* as its managed configuration. Nothing stays of that.

        Raises `UpstreamError` of system `opencode` when the program breaks, or `DeadlineExceeded`.
        """
        ...


class NoConfigCheck:
    """For where there is no OpenCode to ask."""

    async def check(self, *, version: str, managed: str, deadline: Deadline) -> ConfigVerdict:
        del version, managed, deadline
        return ConfigVerdict(
            outcome=Outcome.NOT_CHECKED, message="no OpenCode program is set up to check it with"
        )
