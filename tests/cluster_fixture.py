"""
The fixture `cluster`: a private real Consul, Vault and Nomad for one test session.

With OPENCODE_LIFECYCLE_TEST_CLUSTER=DIR the servers stay up in DIR between sessions, for quick rounds while working;
end them with `opencode-lifecycle cluster destroy --directory DIR`. Of several workers (`pytest -n 2`) each has servers of
its own, in DIR-gw0, DIR-gw1 and so on.
"""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from opencode_lifecycle.cluster import port_choice, processes, status
from opencode_lifecycle.cluster import record as record_file
from opencode_lifecycle.cluster import state as state_file
from opencode_lifecycle.cluster.bootstrap_vault import root_token
from opencode_lifecycle.cluster.layout import Layout
from opencode_lifecycle.cluster.processes import Process
from opencode_lifecycle.cluster.record import Record

REUSED = "OPENCODE_LIFECYCLE_TEST_CLUSTER"
COMMAND = (sys.executable, "-m", "opencode_lifecycle", "cluster")
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
"""Which of several workers this is: gw0, gw1 and so on; empty where there is only one."""
SESSION_SECONDS = 1800
"""The first start on a machine may have to build the servers."""


@dataclass(frozen=True)
class RealCluster:
    """
    Real servers, and power over each of them by name: `consul`, `vault`, `nomad`.

    Tokens named here are management tokens; the `*_token_file` paths hold the service's own, least privileged ones.
    The node claims to be huge, so hundreds of `mock_driver` jobs fit.
    """

    layout: Layout
    record: Record

    @property
    def directory(self) -> Path:
        return self.layout.root

    @property
    def ports(self) -> Mapping[str, int]:
        return self.record.ports

    @property
    def nomad_address(self) -> str:
        return self.record.address("nomad")

    @property
    def consul_address(self) -> str:
        return self.record.address("consul")

    @property
    def vault_address(self) -> str:
        return self.record.address("vault")

    @property
    def nomad_token(self) -> str:
        return self._secrets["nomad_management"]

    @property
    def consul_token(self) -> str:
        return self._secrets["consul_management"]

    @property
    def vault_token(self) -> str:
        return root_token(self.layout)

    @property
    def nomad_token_file(self) -> Path:
        return self.layout.token("nomad")

    @property
    def consul_token_file(self) -> Path:
        return self.layout.token("consul")

    @property
    def vault_token_file(self) -> Path:
        return self.layout.token("vault")

    @property
    def _secrets(self) -> dict[str, str]:
        return record_file.load_or_make_secrets(self.layout)

    def data(self, server: str) -> Path:
        return self.layout.data(server)

    def log(self, server: str) -> Path:
        return self.layout.log(server)

    def program(self, server: str) -> Path:
        return self.record.program(server)

    def process(self, server: str) -> Process:
        """Return the server's process, which must be running."""
        process = state_file.load(self.layout).servers[server].process
        assert process is not None, f"{server} is not running"
        return process

    def is_ready(self, server: str) -> bool:
        """Tell whether the server does its work: has a leader, is unsealed, has a node that takes allocations."""
        return status.works(server, self.layout, self.record)

    async def until_ready(self, server: str, seconds: float = 90) -> None:
        await self._until(f"{server} is ready", lambda: self.is_ready(server), seconds)

    async def kill(self, server: str) -> None:
        """Kill the server outright. Its supervisor starts it again."""
        await self._signal(server, signal.SIGKILL)

    async def stop(self, server: str) -> None:
        """Stop the server; it stays down until `start`."""
        await asyncio.to_thread(self.layout.held(server).touch)
        await self._until(f"{server} is down", lambda: self._state_of(server) == "held", 30)

    async def start(self, server: str) -> None:
        """Start the server again after `stop` and wait until it is ready."""
        await asyncio.to_thread(self.layout.held(server).unlink, missing_ok=True)
        await self.until_ready(server)

    async def restart(self, server: str) -> None:
        await self.stop(server)
        await self.start(server)

    async def pause(self, server: str) -> None:
        """Freeze the server: its ports stay open and nothing answers."""
        await self._signal(server, signal.SIGSTOP)

    async def resume(self, server: str) -> None:
        await self._signal(server, signal.SIGCONT)

    async def _signal(self, server: str, number: signal.Signals) -> None:
        process = await asyncio.to_thread(self.process, server)
        os.kill(process.pid, number)

    def _state_of(self, server: str) -> str:
        return state_file.load(self.layout).servers[server].state

    @staticmethod
    async def _until(condition: str, holds: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not await asyncio.to_thread(holds):
            assert time.monotonic() < end, f"waited {seconds} s in vain until {condition}"
            await asyncio.sleep(0.05)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests with real servers time for the start of the cluster, and the marker that selects them."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.servers)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(SESSION_SECONDS, func_only=False))


def bring_up(directory: Path, *options: str, environment: Mapping[str, str] | None = None) -> RealCluster:
    """Bring up a private cluster of servers alone in *directory*, or fail with what the command says."""
    keep_apart(directory)
    answer = subprocess.run(
        [
            *COMMAND,
            "up",
            "--directory",
            str(directory),
            "--servers-only",
            "--private",
            "--roomy",
            "--require-mock-driver",
            *options,
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if answer.returncode != 0:
        pytest.fail(f"The test cluster did not come up.\n{answer.stderr}", pytrace=False)
    layout = Layout(directory)
    record = record_file.load(layout)
    assert record is not None
    return RealCluster(layout, record)


def keep_apart(directory: Path, *, is_of_the_session: bool = False) -> None:
    """
    Choose the ports of a new cluster where several workers have clusters at the same time.

    Left to itself each draws at random. Of two that draw the same thousand for their jobs both would sooner or later give
    away the same port, and one job would not start.
    """
    layout = Layout(directory)
    if not WORKER or record_file.load(layout) is not None:
        return
    number, workers = int(WORKER.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    run = int(os.environ["PYTEST_XDIST_TESTRUNUID"], 16)
    place = run + 2 * number + (0 if is_of_the_session else 1)
    record = Record(
        id=secrets.token_hex(16),
        ports=port_choice.choose(
            private=True, free=lambda port: port % workers == number and port_choice.is_free(port)
        ),
        dynamic_ports=port_choice.PRIVATE_DYNAMIC[place % len(port_choice.PRIVATE_DYNAMIC)],
    )
    record.save(layout)


def take_down(directory: Path) -> None:
    """Stop the cluster in *directory*, remove its data, and fail if anything of it still runs."""
    layout = Layout(directory)
    record = record_file.load(layout)
    if record is None:
        shutil.rmtree(directory)
        return
    subprocess.run([*COMMAND, "destroy", "--directory", str(directory)], check=True, capture_output=True)
    left = processes.bearing(record.id)
    assert left == [], f"these processes of the cluster still run: {left}"


@pytest.fixture(scope="session")
def cluster() -> Iterator[RealCluster]:
    """Yield real servers of this session's own, and leave nothing running."""
    reused = os.environ.get(REUSED)
    if reused:
        directory = Path(f"{reused}-{WORKER}" if WORKER else reused).absolute()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        keep_apart(directory, is_of_the_session=True)
        yield bring_up(directory)
        return
    # Short, because sockets below it must not have names longer than 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="oc-", dir="/tmp"))
    keep_apart(directory, is_of_the_session=True)
    try:
        yield bring_up(directory)
    finally:
        take_down(directory)
