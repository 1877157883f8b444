"""Looks for secrets wherever one could come to light: errors, log records, files, processes."""

import base64
import contextlib
import logging
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

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


def forms_of(secret: str) -> list[bytes]:
    """Return what *secret* looks like as it is, in a URL, and in the basic credentials of our runtimes' user."""
    credentials = base64.b64encode(f"opencode:{secret}".encode())
    return list(dict.fromkeys([secret.encode(), quote(secret, safe="").encode(), credentials]))


def found_in(secrets: Mapping[str, str], places: Mapping[str, bytes]) -> list[str]:
    """Name each secret with each place that shows it, in any of its forms. Never quotes the secret."""
    return [
        f"{name} in {place}"
        for name, secret in secrets.items()
        for place, content in places.items()
        if any(form in content for form in forms_of(secret))
    ]


def of_processes(kind: str) -> dict[str, bytes]:
    """Return `cmdline` or `environ`, as *kind* says, of every process that lets us see it, by process id."""
    seen: dict[str, bytes] = {}
    for path in Path("/proc").glob(f"[0-9]*/{kind}"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            seen[f"{kind} of {path.parent.name}"] = path.read_bytes()
    return seen


@contextlib.contextmanager
def command_lines_meanwhile() -> Iterator[set[bytes]]:
    """Yield what fills, until the end, with every command line that a process of the machine shows, as `ps` would."""
    seen: set[bytes] = set()
    end = threading.Event()

    def look() -> None:
        while not end.wait(0.05):
            seen.update(of_processes("cmdline").values())

    thread = threading.Thread(target=look, name="process list")
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()


def of_files(directory: Path, *, but: Callable[[Path], bool] = lambda _: False) -> dict[str, bytes]:
    """Return the content of every file below *directory*, as it stands, except of those that are *but*."""
    contents: dict[str, bytes] = {}
    for path in directory.rglob("*"):
        if path.is_file() and not but(path):
            with contextlib.suppress(FileNotFoundError):  # it went meanwhile, as files of a server at work do
                contents[str(path)] = path.read_bytes()
    return contents
