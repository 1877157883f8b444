"""Bringing a cluster up: programs, ports, the supervisor in the background, and following it until all runs."""

import asyncio
import fcntl
import os
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from opencode_lifecycle.cluster import binaries, opencode_package, port_choice, shutdown
from opencode_lifecycle.cluster import record as record_file
from opencode_lifecycle.cluster import state as state_file
from opencode_lifecycle.cluster.errors import ClusterError
from opencode_lifecycle.cluster.layout import Layout
from opencode_lifecycle.cluster.processes import terminate
from opencode_lifecycle.cluster.progress import Progress
from opencode_lifecycle.cluster.record import Record
from opencode_lifecycle.cluster.service_settings import write_environment

_PATIENCE: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """
    How a cluster is brought up.

    `servers_only` leaves the service out. `private` keeps off the customary ports, `roomy` makes the node claim more
    than it has, `require_mock_driver` insists on a Nomad for tests.
    """

    servers_only: bool = False
    private: bool = False
    roomy: bool = False
    require_mock_driver: bool = False
    opencode_version: str = ""


async def up(layout: Layout, options: Options, progress: Progress, supervise: Sequence[str]) -> Record:
    """
    Bring the cluster up and return its record once everything answers. One that is up already is left as it is.

    *supervise* is the command line of the supervisor. It outlives this process, whatever happens to it.
    """
    running = _running(layout, options)
    if running is not None:
        await _follow(layout, progress)
        return running
    programs = dict(
        await binaries.find_servers(progress=progress, require_mock_driver=options.require_mock_driver)
    )
    if not options.servers_only:
        programs["opencode"] = await opencode_package.ensure_opencode(
            options.opencode_version, progress=progress
        )
    layout.prepare()
    supervisor = None
    async with _changing(layout):
        # Another one may have brought it up meanwhile.
        record = _running(layout, options)
        if record is None:
            record, supervisor = await _begin(layout, options, programs, supervise)
    await _follow(layout, progress, supervisor)
    return record


def _running(layout: Layout, options: Options) -> Record | None:
    """Return the record of the cluster if it is supervised already, as *options* say."""
    known = record_file.load(layout)
    if known is None or not state_file.load(layout).is_supervised():
        return None
    if known.servers_only != options.servers_only:
        raise ClusterError("It runs with other options; run `opencode-lifecycle cluster down` first.")
    return known


async def _begin(
    layout: Layout, options: Options, programs: Mapping[str, Path], supervise: Sequence[str]
) -> tuple[Record, "subprocess.Popen[bytes]"]:
    """Start the supervisor and return when it has said that it is there: from then on another `up` follows it."""
    record = replace(
        record_file.load_or_choose(layout, private=options.private, roomy=options.roomy),
        servers_only=options.servers_only,
        programs={name: str(path) for name, path in programs.items()},
        opencode_version=options.opencode_version,
    )
    await asyncio.to_thread(shutdown.stop_servers, layout)
    ports = {
        name: port for name, port in record.ports.items() if name != "service" or not options.servers_only
    }
    port_choice.require_free(ports)
    record.save(layout)
    write_environment(layout, record)
    if options.servers_only:
        supervise = [*supervise, "--servers-only"]
    supervisor = _start(layout, supervise)
    while supervisor.poll() is None and not state_file.load(layout).is_supervised():  # noqa: ASYNC110 - it is another process that tells us, by a file
        await asyncio.sleep(0.05)
    return record, supervisor


@asynccontextmanager
async def _changing(layout: Layout) -> AsyncIterator[None]:
    """
    Be the only one that starts or stops the supervisor.

    1. Two `up` at once find no supervisor.
    2. The first starts one, which starts Consul.
    3. Without this, the second would find the port taken, by a process that no record names yet; or stop it.
    """
    with layout.change_lock.open("w") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield


def _start(layout: Layout, supervise: Sequence[str]) -> "subprocess.Popen[bytes]":
    layout.state.unlink(missing_ok=True)
    with layout.supervisor_log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603  (this program itself)
            supervise,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=layout.root,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        )


async def _follow(
    layout: Layout, progress: Progress, supervisor: "subprocess.Popen[bytes] | None" = None
) -> None:
    end = time.monotonic() + _PATIENCE.total_seconds()
    while time.monotonic() < end:
        state = state_file.load(layout)
        if state.phase == state_file.RUNNING and state.is_supervised():
            return
        if state.phase == state_file.FAILED:
            raise ClusterError(state.error)
        ended = supervisor is not None and supervisor.poll() is not None
        if ended and not state_file.load(layout).is_supervised() and state.phase != state_file.FAILED:
            raise ClusterError(f"The supervisor ended; see {layout.supervisor_log}")
        if state.step:
            progress.step(state.step)
        await asyncio.sleep(0.1)
    raise ClusterError(f"The cluster is not up after {_PATIENCE}; see {layout.root}/*/log")


def down(layout: Layout, progress: Progress) -> bool:
    """Stop everything, keep all data, and tell whether anything ran."""
    record = record_file.load(layout)
    if record is None:
        return False
    with layout.change_lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        state = state_file.load(layout)
        was_up = state.is_supervised()
        if state.supervisor is not None and was_up:
            progress.step("stopping the service, Nomad, the runtimes, Vault and Consul")
            terminate([state.supervisor], timedelta(minutes=2))
        shutdown.stop(layout, record, progress.step)
    return was_up
