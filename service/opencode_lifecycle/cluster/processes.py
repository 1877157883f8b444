"""
Processes, recognised beyond doubt.

A number alone does not name a process: numbers are used again, at the latest after a reboot. A process is known by its
number, its start time and the boot it lives in; and the descendants of a cluster's servers by a mark in their
environment that only descendants can carry.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

MARK: Final = "LIFECYCLE_CLUSTER"
"""Environment variable that holds the cluster's random id in everything that its servers start."""
_PROC: Final = Path("/proc")
_START_TIME: Final = 19
"""Index of the start time among the fields of /proc/PID/stat that follow the command's name."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of one boot of this machine."""

    pid: int
    started: int
    boot: str

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "started": self.started, "boot": self.boot}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Process":
        return cls(int(value["pid"]), int(value["started"]), str(value["boot"]))

    def is_alive(self) -> bool:
        """Tell whether this very process, not a later one of the same number, still runs."""
        return self.boot == boot_id() and _start_time(self.pid) == self.started


def boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Process | None:
    """Return the process that has this number now, or None when there is none."""
    started = _start_time(pid)
    return None if started is None else Process(pid, started, boot_id())


def _stat(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _start_time(pid: int) -> int | None:
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return int(fields[_START_TIME])


def _all() -> Iterable[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def bearing(mark: str) -> list[Process]:
    """Return all processes that carry *mark*, and all descendants of those, whatever their environment is."""
    wanted = f"{MARK}={mark}".encode()
    marked: set[int] = set()
    children: dict[int, list[int]] = {}
    for pid in _all():
        fields = _stat(pid)
        if fields is None:
            continue
        children.setdefault(int(fields[1]), []).append(pid)
        with contextlib.suppress(OSError):
            if wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                marked.add(pid)
    reached = list(marked)
    while reached:
        for child in children.get(reached.pop(), []):
            if child not in marked:
                marked.add(child)
                reached.append(child)
    return [process for pid in sorted(marked) if (process := identify(pid)) is not None]


def terminate(processes: Iterable[Process], grace: timedelta) -> list[Process]:
    """
    End *processes*: ask them, and after *grace* kill them. Return those that are still there (there should be none).

    Each is held by a descriptor before it is compared, so a number that is used again meanwhile is never hit.
    """
    held: dict[int, Process] = {}
    for process in processes:
        try:
            descriptor = os.pidfd_open(process.pid)
        except OSError:
            continue
        if process.is_alive():
            held[descriptor] = process
        else:
            os.close(descriptor)
    try:
        _signal(held, signal.SIGTERM)
        # A stopped process gets the request only once it runs again.
        _signal(held, signal.SIGCONT)
        left = _wait(held, grace)
        _signal({fd: held[fd] for fd in left}, signal.SIGKILL)
        return [held[fd] for fd in _wait({fd: held[fd] for fd in left}, timedelta(seconds=10))]
    finally:
        for descriptor in held:
            os.close(descriptor)


def _signal(held: Mapping[int, Process], number: signal.Signals) -> None:
    for descriptor in held:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(descriptor, number)


def _wait(held: Mapping[int, Process], limit: timedelta) -> set[int]:
    """Return the descriptors of those that did not end within *limit*."""
    end = time.monotonic() + limit.total_seconds()
    poll = select.poll()
    left = set(held)
    for descriptor in left:
        poll.register(descriptor, select.POLLIN)
    while left and (seconds := end - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(seconds * 1000):
            poll.unregister(descriptor)
            left.discard(descriptor)
    return left


def holder_of(port: int) -> str:
    """Name the process that listens on the TCP *port* of this machine, as far as we may see it."""
    inodes = {f"socket:[{inode}]" for inode in _listening(port)}
    if not inodes:
        return "nobody that can be seen"
    for pid in _all():
        with contextlib.suppress(OSError):
            for descriptor in (_PROC / str(pid) / "fd").iterdir():
                if str(descriptor.readlink()) in inodes:
                    return f"{(_PROC / str(pid) / 'comm').read_text().strip()} (process {pid})"
    return "a process of another user"


def _listening(port: int) -> Iterable[str]:
    listen_state = "0A"
    for table in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == listen_state and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
