"""What the exit codes of the command line mean. Scripts may rely on them."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_ALLOWED = 4
    NOT_FOUND = 5
    NOT_IN_TIME = 6


MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.OK: "done; of a command that does not wait: accepted; of `rollout plan`: nothing to do",
    ExitCode.FAILED: "the operation failed, or the answer is no; of `rollout plan`: there are changes",
    ExitCode.USAGE: "wrong usage or settings; nothing was asked for; of `rollout plan`: any problem",
    ExitCode.UNREACHABLE: "the service cannot be reached, or something else answers there",
    ExitCode.NOT_ALLOWED: "no valid token (401), or its role does not allow it (403)",
    ExitCode.NOT_FOUND: "no such stack, operation, token, condition, orphan, release, rollout or plan",
    ExitCode.NOT_IN_TIME: "not ready yet, or not in the time given with --wait; the work goes on",
}


def exit_code_of(status: int | None, code: str) -> ExitCode:
    """Return the exit code for an answer with HTTP *status* (None: there was no answer) and problem *code*."""
    if status is None:
        return ExitCode.UNREACHABLE
    if code == "runtime-not-ready":
        return ExitCode.NOT_IN_TIME
    by_status = {
        400: ExitCode.USAGE,
        401: ExitCode.NOT_ALLOWED,
        403: ExitCode.NOT_ALLOWED,
        404: ExitCode.NOT_FOUND,
        413: ExitCode.USAGE,
        422: ExitCode.USAGE,
    }
    return by_status.get(status, ExitCode.FAILED)


def table() -> str:
    """Return the codes as a block for a help text, which click must not wrap."""
    return "\b\nExit codes:\n" + "\n".join(f"  {code.value}  {text}" for code, text in MEANINGS.items())
