"""Looks for secrets where an error or a log record could carry one."""

import logging
import traceback
from collections.abc import Iterable

from opencode_lifecycle.model.errors import LifecycleError


def carried_by(error: BaseException) -> str:
    """Everything that a log, an answer or a debugger would show of *error* and of what it was raised from."""
    seen: list[str] = traceback.format_exception(error)
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is None:
            continue
        seen += [str(link), repr(link), repr(link.args), repr(vars(link))]
        if isinstance(link, LifecycleError):
            seen.append(repr(dict(link.facts)))
        pending += [link.__cause__, link.__context__]
    return "\n".join(seen)


def written(records: Iterable[logging.LogRecord]) -> str:
    """Everything in the log records."""
    return "\n".join(f"{record.getMessage()} {vars(record)!r}" for record in records)
