"""
A node is drained with Nomad's own command while the agent of a real runtime is at work on it.

There is one node, which others use after us: whatever happens, it takes jobs again at the end.
"""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator

import pytest

from cluster_fixture import RealCluster
from end_to_end.conftest import NewService
from end_to_end.runtimes import Runtime
from end_to_end.servers import Servers
from end_to_end.service_process import ServiceProcess
from opencode_session import ask, open_session

pytestmark = [pytest.mark.servers, pytest.mark.opencode, pytest.mark.timeout(600, func_only=True)]

USER = "drained"
HELD = ("stopped", "held", "node_draining")
Nomad = Callable[..., str]


@pytest.fixture(scope="module")
def service(new_service: NewService, opencode_path, model, tmp_path_factory) -> ServiceProcess:
    managed = tmp_path_factory.mktemp("managed") / "opencode.json"
    managed.write_text(json.dumps(model.configuration()))
    return new_service(
        opencode_path=str(opencode_path), managed_config_file=managed, idle_after=1, start_deadline=90
    )


@pytest.fixture
def nomad(cluster: RealCluster) -> Iterator[Nomad]:
    """Give Nomad's command line, with the token of an operator; `NODE` stands for the node's id."""

    def run(*arguments: str) -> str:
        environment = {"NOMAD_ADDR": cluster.nomad_address, "NOMAD_TOKEN": cluster.nomad_token}
        done = subprocess.run(
            [cluster.program("nomad"), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (node,) = run("node", "status", "-quiet").split()

    def nomad(*arguments: str) -> str:
        return run(*(node if each == "NODE" else each for each in arguments))

    try:
        yield nomad
    finally:
        nomad("node", "drain", "-disable", "-yes", "NODE")


async def runtime_of(service: ServiceProcess) -> Runtime:
    return Runtime(await service.address(USER), await service.password(USER))


def said_of(stack) -> tuple[str, str, str | None]:
    return stack["phase"], stack["migration_state"], stack["reason"]


async def kinds_of_events(service: ServiceProcess) -> list[str]:
    events = (await service.call("GET", f"/v1/stacks/{USER}/events", role="operator", limit="200")).body
    return [event["kind"] for event in events["items"]]


async def test_a_drained_node_empties_when_the_agent_has_finished_and_is_filled_again_when_the_drain_ends(
    service: ServiceProcess, servers: Servers, nomad: Nomad, model
):
    before = await service.ensure(USER)
    busy = await runtime_of(service)
    directory = await busy.directory()
    session = await open_session(busy.url, busy.password, directory)
    hold = model.hold("Count slowly")
    turn = asyncio.create_task(
        ask(busy.url, busy.password, directory, "Count slowly", session=session, seconds=300)
    )
    await asyncio.wait_for(hold.reached.wait(), 180)

    nomad("node", "drain", "-enable", "-deadline", "1h", "-detach", "-yes", "NODE")
    waiting = await service.until_stack(USER, lambda found: found["reason"] == "node_draining", 120)
    explained = service.command("explain", USER).stdout
    hold.release()
    assert await turn == "You said: Count slowly"
    held = await service.until_stack(USER, lambda found: said_of(found) == HELD, 120)

    assert waiting["runtime"]["allocation_id"] == before["runtime"]["allocation_id"]
    assert waiting["migration"]["node"]["draining"]
    assert "its running turns are aborted" in explained
    (allocation,) = await servers.allocations(held["job_id"])
    assert (allocation["ClientStatus"], allocation["DesiredStatus"]) == ("complete", "stop")
    answer = await service.call("PUT", f"/v1/stacks/{USER}", {}, wait="30s")
    assert (answer.status, said_of(answer.body)) == (202, HELD)
    assert await servers.live(held["job_id"]) == []

    service.restart()
    assert said_of(await service.stack(USER)) == HELD
    nomad("node", "drain", "-disable", "-yes", "NODE")
    await service.ensure(USER)

    after = await service.until_stack(USER, lambda found: found["migration_state"] == "current", 120)
    assert after["migration"] is None
    assert "You said: Count slowly" in await (await runtime_of(service)).said(session)


async def test_two_minutes_before_the_deadline_what_runs_is_aborted_and_stopped_by_us(
    service: ServiceProcess, nomad: Nomad, model
):
    await service.ensure(USER)
    busy = await runtime_of(service)
    directory = await busy.directory()
    session = await open_session(busy.url, busy.password, directory)
    hold = model.hold("Never end")
    turn = asyncio.create_task(
        ask(busy.url, busy.password, directory, "Never end", session=session, seconds=300)
    )
    await asyncio.wait_for(hold.reached.wait(), 180)

    nomad("node", "drain", "-enable", "-deadline", "2m5s", "-detach", "-yes", "NODE")
    await service.until_stack(USER, lambda found: said_of(found) == HELD, 120)
    hold.release()
    await asyncio.gather(turn, return_exceptions=True)

    kinds = await kinds_of_events(service)
    assert "stack.turns_aborted" in kinds
    nomad("node", "drain", "-disable", "-yes", "NODE")
    await service.ensure(USER)
    assert "stack.turns_cut_off" not in await kinds_of_events(service)
    assert "MessageAbortedError" in await (await runtime_of(service)).said(session)
