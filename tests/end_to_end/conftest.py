"""Real servers, the real service as a process, and runtimes: OpenCode itself or a stub of it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_fixture import RealCluster
from end_to_end.servers import Servers
from end_to_end.service_process import ServiceProcess, StubProgram, apart
from fakes.model_server import ModelServer, model_server
from real_opencode import opencode_program

__all__ = ["opencode_program"]

NewService = Callable[..., ServiceProcess]


@pytest.fixture(scope="session")
def servers(cluster: RealCluster) -> Servers:
    return Servers(cluster)


@pytest.fixture(scope="module")
def new_service(
    cluster: RealCluster, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NewService]:
    """Give a function that starts a service with stubs for OpenCode, or with what its settings say."""
    services: list[ServiceProcess] = []

    def start(*, manner: str = "sound", version: str = "1.18.34", **settings: Any) -> ServiceProcess:
        directory = tmp_path_factory.mktemp("service")
        program = StubProgram(directory / "opencode")
        program.behave(manner, version)
        service = ServiceProcess(cluster=cluster, directory=directory, program=program, settings=settings)
        services.append(service)
        service.prepare()
        service.start()
        return service

    try:
        yield start
    finally:
        for service in services:
            service.kill()
            apart(servers.remove(service.installation))


@pytest.fixture(scope="session")
def model() -> Iterator[ModelServer]:
    """Give a language model that outlives single tests, as the runtimes that use it do."""
    ready = threading.Event()
    found: list[ModelServer] = []
    loop = asyncio.new_event_loop()
    end = asyncio.Event()

    async def serve() -> None:
        async with model_server() as server:
            found.append(server)
            ready.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="model server")
    thread.start()
    ready.wait(10)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def opencode_path(opencode_program: Path) -> Path:
    """Give the real program, so that a service can be told to run it."""
    return opencode_program
