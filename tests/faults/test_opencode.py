"""
The real OpenCode killed and frozen while a session of it is in use.

A start of it costs seconds of CPU, so that one repetition does all to the same stack, and only the last removes it.
"""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from end_to_end.conftest import NewService
from end_to_end.runtimes import Runtime, signal_runtime
from end_to_end.servers import Servers, status_of
from end_to_end.service_process import ServiceProcess, path_of
from fakes.model_server import ModelServer
from faults.matrix import fault
from faults.trials import Trial
from faults.using import events_of
from opencode_session import ask

KILLED = "137"
"""The exit code of what SIGKILL ended, as shells and Nomad count it."""

pytestmark = [pytest.mark.servers, pytest.mark.opencode, pytest.mark.timeout(300, func_only=True)]


@pytest.fixture(scope="module")
def service(
    new_service: NewService, opencode_path: Path, model: ModelServer, tmp_path_factory: Any
) -> ServiceProcess:
    managed = tmp_path_factory.mktemp("managed") / "opencode.json"
    managed.write_text(json.dumps(model.configuration()))
    return new_service(
        opencode_path=opencode_path,
        managed_config_file=managed,
        resync_interval=1,
        observation_max_age=6,
        liveness_interval=2,
        upstream_timeout=3,
    )


async def runtime_of(service: ServiceProcess, user: str) -> Runtime:
    return Runtime(await service.address(user), await service.password(user))


def is_running(stack: dict[str, Any]) -> bool:
    return (stack["phase"], stack["health"]) == ("running", "healthy")


async def is_as_it_was(runtime: Runtime, session: str) -> None:
    """Hold that file and session are there, and that it answers a prompt."""
    assert await runtime.read("kept.txt") == "kept"
    assert session in await runtime.sessions()
    assert "remember-this" in await runtime.said(session)
    answer = await ask(runtime.url, runtime.password, await runtime.directory(), "Are you there?")
    assert answer == "You said: Are you there?"


@fault("crash")
async def test_a_killed_opencode_is_withdrawn_started_again_and_has_its_files_and_sessions(
    trial: Trial, service: ServiceProcess, servers: Servers
):
    user = f"used-{trial.number}"
    before = await service.ensure(user)
    runtime = await runtime_of(service, user)
    session = await runtime.run("echo kept > kept.txt && echo remember-this")

    signal_runtime(runtime.url, signal.SIGKILL)
    # Nomad waits ten seconds before it starts it again.
    withdrawn = await service.until_stack(user, lambda stack: stack["reason"] == "crash_loop", 30)
    refused = await service.call("GET", f"{path_of(user)}/address")
    with trial.recovery():
        after = await service.until_stack(user, is_running, 90)

    assert withdrawn["phase"] == "starting"
    assert KILLED in withdrawn["message"]
    assert (refused.status, refused.body["code"]) == (409, "runtime-not-ready")
    assert after["generation"] == before["generation"]
    assert len(await servers.live(before["job_id"])) == 1
    assert await status_of(await service.address(user)) == 401
    await is_as_it_was(await runtime_of(service, user), session)


@fault("F25")
async def test_a_frozen_opencode_is_replaced_and_has_its_files_and_sessions(
    trial: Trial, service: ServiceProcess, servers: Servers
):
    user = f"used-{trial.number}"
    before = await service.ensure(user)
    runtime = await runtime_of(service, user)
    session = await runtime.run("echo kept > kept.txt && echo remember-this")

    signal_runtime(runtime.url, signal.SIGSTOP)
    await service.until_stack(user, lambda stack: stack["phase"] != "running", 90)
    with trial.recovery():
        after = await service.until_stack(user, is_running, 90)

    assert after["runtime"]["allocation_id"] != before["runtime"]["allocation_id"]
    assert len(await servers.allocations(before["job_id"])) == 2
    assert len(await servers.live(before["job_id"])) == 1
    [stopping] = [each for each in await events_of(service, user) if each["kind"] == "phase.stopping"]
    assert stopping["data"]["reason"] == "unresponsive"
    await is_as_it_was(await runtime_of(service, user), session)
    assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"
