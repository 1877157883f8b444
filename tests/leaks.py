"""Looks for secrets where an error or a log record could carry one."""

import logging
import traceback
from collections.abc import Iterable

from opencode_lifecycle.model.errors import LifecycleError


def chain(error: BaseException) -> list[BaseException]:
    """Return *error* and everything it was raised from or during."""
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is not None and link not in seen:
            seen.append(link)
            pending += [link.__cause__, link.__context__]
    return seen


def carried_by(error: BaseException) -> str:
    """Everything that a log, an answer or a debugger would show of *error* and of what it was raised from."""
    shown: list[str] = traceback.format_exception(error)
    for link in chain(error):
        shown += [str(link), repr(link), repr(link.args), repr(vars(link))]
        if isinstance(link, LifecycleError):
            shown.append(repr(dict(link.facts)))
    return "\n".join(shown)


def written(records: Iterable[logging.LogRecord]) -> str:
    """Everything in the log records."""
    return "\n".join(f"{record.getMessage()} {vars(record)!r}" for record in records)
