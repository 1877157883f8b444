"""Ending a cluster in the right order, from what is recorded and by the cluster's mark."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final

from opencode_lifecycle.cluster import state as state_file
from opencode_lifecycle.cluster.errors import ClusterError
from opencode_lifecycle.cluster.layout import Layout
from opencode_lifecycle.cluster.processes import Process, bearing, terminate
from opencode_lifecycle.cluster.record import Record

_SERVER_GRACE: Final = timedelta(seconds=20)
_RUNTIME_GRACE: Final = timedelta(seconds=15)


def stop(layout: Layout, record: Record, report: Callable[[str], None] = lambda _: None) -> None:
    """
    End the service, Nomad, all runtimes, Vault and Consul, in this order. What is not running is skipped.

    Jobs stay registered: Nomad is gone before their processes are, so it does not see them end.
    """
    known = state_file.load(layout).servers
    stubborn: list[Process] = []
    for server in ("service", "nomad"):
        stubborn += _end(known, server, report)
    foundation = {
        known[name].process
        for name in ("vault", "consul")
        if name in known and known[name].process is not None
    }
    runtimes = [process for process in bearing(record.id) if process not in foundation]
    if runtimes:
        report(f"ending the runtimes ({len(runtimes)} processes)")
        stubborn += terminate(runtimes, _RUNTIME_GRACE)
    for server in ("vault", "consul"):
        stubborn += _end(known, server, report)
    stubborn += terminate(bearing(record.id), _SERVER_GRACE)
    if stubborn:
        numbers = ", ".join(str(process.pid) for process in stubborn)
        raise ClusterError(f"These processes cannot be ended: {numbers}.")


def remove(layout: Layout) -> None:
    """
    Remove everything of a cluster that is stopped.

    Run by root, Nomad mounts memory for secrets and binds workspaces below its data; what is mounted is let go first.
    """
    for point in reversed(_mounted_below(layout.root.resolve())):
        subprocess.run(["umount", str(point)], check=False, capture_output=True)  # noqa: S603, S607  (the system's own)
    left = _mounted_below(layout.root.resolve())
    if left:
        raise ClusterError(f"{left[-1]} is mounted and cannot be let go; unmount it and repeat.")
    shutil.rmtree(layout.root)


def _mounted_below(root: Path) -> list[Path]:
    """Return mount points below *root*, in the order in which they were mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [
        Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[4])) for line in lines
    ]
    return [point for point in points if point.is_relative_to(root)]


def stop_servers(layout: Layout) -> None:
    """End servers that outlived their supervisor, and leave the runtimes running."""
    known = state_file.load(layout).servers
    for server in ("service", "nomad", "vault", "consul"):
        _end(known, server, lambda _: None)


def _end(
    known: dict[str, state_file.ServerState], server: str, report: Callable[[str], None]
) -> Iterable[Process]:
    process = known[server].process if server in known else None
    if process is None or not process.is_alive():
        return []
    report(f"stopping {server}")
    return terminate([process], _SERVER_GRACE)
