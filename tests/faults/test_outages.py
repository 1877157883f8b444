"""
Nomad, Vault or Consul away, each in every way it can be: frozen, killed, kept down, sealed, unable to write.

What must hold is the same each time. What was accepted is kept, reads answer and say how old they are, nothing that runs
is touched, and all goes on by itself when the server is back.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from cluster_fixture import RealCluster
from end_to_end.conftest import NewService
from end_to_end.outages import audit_blocked, crashed, down, frozen, sealed
from end_to_end.runtimes import process_listening_as
from end_to_end.servers import Servers, both
from end_to_end.service_process import ServiceProcess, until
from faults.matrix import fault
from faults.trials import Trial
from faults.using import in_use

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300, func_only=True)]

MAX_AGE_SECONDS = 4
LONG_SECONDS = 60
"""How long one of many outages lasts. By then Nomad itself has given up its node for lost."""


@pytest.fixture(scope="module")
def service(new_service: NewService) -> ServiceProcess:
    return new_service(
        resync_interval=1, observation_max_age=MAX_AGE_SECONDS, liveness_interval=2, upstream_timeout=3
    )


OUTAGES = [
    pytest.param(frozen, "nomad", id="nomad frozen", marks=fault("F9")),
    pytest.param(crashed, "nomad", id="nomad killed and kept down", marks=fault("F10")),
    pytest.param(frozen, "vault", id="vault frozen", marks=fault("F29")),
    pytest.param(down, "vault", id="vault down", marks=fault("F29")),
    pytest.param(sealed, "vault", id="vault sealed", marks=fault("F29")),
    pytest.param(audit_blocked, "vault", id="vault unable to write its audit log", marks=fault("F29")),
    pytest.param(frozen, "consul", id="consul frozen", marks=fault("F33")),
    pytest.param(down, "consul", id="consul down", marks=fault("F33")),
]
Outage = Callable[[RealCluster, str], Any]


async def seen_again(service: ServiceProcess, user: str) -> dict[str, Any]:
    return await service.until_stack(user, lambda stack: stack["health"] == "healthy", 90)


@pytest.mark.parametrize(("outage", "server"), OUTAGES)
async def test_an_outage_loses_nothing_and_ends_by_itself(
    trial: Trial, service: ServiceProcess, cluster: RealCluster, outage: Outage, server: str
):
    """One outage costs ten seconds, so what must hold during it is looked at together."""
    servers = Servers(cluster)
    name = f"{outage.__name__}-{server}-{trial.number}"
    running, leaving = await both(service.ensure(f"runs-{server}"), service.ensure(f"leaves-{name}"))
    url, password = await service.address(running["user_id"]), await service.password(running["user_id"])

    async with in_use(url, password) as use:
        async with outage(cluster, server):
            began = asyncio.get_running_loop().time()
            accepted = await service.call("PUT", f"/v1/stacks/new-{name}", {"labels": {"during": server}})
            deletion = await service.call("DELETE", f"/v1/stacks/{leaving['user_id']}", role="operator")
            readiness = await until(
                lambda: service.call("GET", "/readyz"), lambda answer: answer.status == 503, 30
            )
            held_up = await service.until_stack(f"new-{name}", lambda stack: bool(stack["message"]), 40)
            if trial.is_the_long_one:
                # The length of the outage is what is put in here.
                await asyncio.sleep(began + LONG_SECONDS - asyncio.get_running_loop().time())
            during = await service.call("GET", f"/v1/stacks/{running['user_id']}")
            listed = await service.call("GET", "/v1/stacks", limit="500")
        with trial.recovery():
            after = await seen_again(service, running["user_id"])
            recovered = await service.ensure(f"new-{name}")
        receipt = await service.outcome(deletion.body["id"], seconds=120)

    assert (accepted.status, deletion.status) == (202, 202)
    [failing] = [
        each["name"]
        for each in readiness.body["dependencies"]
        if not each["ok"] and each["name"] != "observation"
    ]
    assert failing == server
    assert held_up["phase"] in {"pending", "starting"}
    assert (during.status, listed.status) == (200, 200)
    assert (during.body["desired"], during.body["phase"]) == ("running", "running")
    assert running["user_id"] in [each["user_id"] for each in listed.body["items"]]
    assert use.failures == []
    assert use.answered > 0
    assert after["runtime"]["allocation_id"] == running["runtime"]["allocation_id"]
    assert after["generation"] == running["generation"]
    assert len(await servers.live(running["job_id"])) == 1
    assert recovered["labels"] == {"during": server}
    assert (await servers.job(recovered["job_id"]))["Version"] == 0
    assert len(await servers.live(recovered["job_id"])) == 1
    assert (await servers.secret_metadata(recovered["job_id"]))["current_version"] == 1
    assert receipt["state"] == "succeeded", receipt
    assert (await service.do(f"new-{name}", "delete", workspace="delete"))["state"] == "succeeded"


@fault("F9")
async def test_while_nomad_is_frozen_reads_tell_how_old_they_are(
    trial: Trial, service: ServiceProcess, cluster: RealCluster
):
    running = await service.ensure("aged")

    async with frozen(cluster, "nomad"):
        unknown = await service.until_stack("aged", lambda stack: stack["health"] == "unknown", 30)
        later = await service.stack("aged")
        asked = await service.call("PUT", "/v1/stacks/aged", {})
    with trial.recovery():
        again = await seen_again(service, "aged")

    assert unknown["observed_at"] is not None
    assert later["observed_at"] == unknown["observed_at"]
    assert datetime.fromisoformat(unknown["observed_at"]) >= datetime.fromisoformat(running["created_at"])
    assert unknown["phase"] == "running"
    assert asked.status == 202
    assert asked.body["reason"] == "unknown"
    assert again["observed_at"] > unknown["observed_at"]


@fault("F9")
async def test_a_service_that_starts_while_nomad_is_frozen_serves_what_it_remembers(
    trial: Trial, service: ServiceProcess, servers: Servers, cluster: RealCluster
):
    user = f"asked-for-blindly-{trial.number}"
    before = await service.ensure("remembered")

    async with frozen(cluster, "nomad"):
        await asyncio.to_thread(service.restart)
        during = await service.stack("remembered")
        await service.accept(user)
    with trial.recovery():
        blind = await service.ensure(user)
        after = await seen_again(service, "remembered")

    assert (during["phase"], during["health"]) == ("running", "unknown")
    assert blind["phase"] == "running"
    assert after["runtime"]["allocation_id"] == before["runtime"]["allocation_id"]
    assert len(await servers.live(before["job_id"])) == 1
    assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"


@fault("F13")
async def test_a_runtime_is_used_on_while_nomads_client_is_dead_and_is_the_same_when_it_is_back(
    trial: Trial, service: ServiceProcess, servers: Servers, cluster: RealCluster
):
    """Server and client are one agent here. Its tasks are not its children, and it takes them up again."""
    before = await service.ensure("survivor")
    url, password = await service.address("survivor"), await service.password("survivor")
    process = process_listening_as(int(url.rsplit(":", 1)[1]))
    placed = [each["ID"] for each in await servers.allocations(before["job_id"])]

    async with in_use(url, password) as use:
        async with crashed(cluster, "nomad"):
            answered = use.answered
            await until(lambda: asyncio.sleep(0, use.answered), lambda count: count > answered + 20, 30)
            await service.until_stack("survivor", lambda stack: stack["health"] == "unknown", 30)
        with trial.recovery():
            after = await seen_again(service, "survivor")

    assert use.failures == []
    assert process_listening_as(int(url.rsplit(":", 1)[1])) == process
    assert [each["ID"] for each in await servers.allocations(before["job_id"])] == placed
    assert after["runtime"] == before["runtime"]
    assert await service.address("survivor") == url


@fault("F29")
async def test_a_running_stack_is_ensured_from_memory_while_vault_and_consul_are_frozen(
    trial: Trial, service: ServiceProcess, cluster: RealCluster
):
    await service.ensure("hot")

    async with frozen(cluster, "vault"), frozen(cluster, "consul"):
        answer = await service.call("PUT", "/v1/stacks/hot", {})
        address = await service.call("GET", "/v1/stacks/hot/address")

    assert (answer.status, address.status) == (200, 200)


@fault("F29")
async def test_credentials_cannot_be_read_from_a_sealed_vault_and_can_again_when_it_is_open(
    trial: Trial, service: ServiceProcess, cluster: RealCluster
):
    await service.ensure("asks")
    password = await service.password("asks")

    async with sealed(cluster, "vault"):
        refused = await service.call("POST", "/v1/stacks/asks/credentials")

    assert refused.status == 503
    assert refused.body["code"] == "upstream-unavailable"
    assert await service.password("asks") == password


@pytest.mark.parametrize(
    "server",
    [
        pytest.param("nomad", marks=fault("F10")),
        pytest.param("vault", marks=fault("F29")),
        pytest.param("consul", marks=fault("F33")),
    ],
)
async def test_a_server_that_is_killed_and_comes_back_costs_no_runtime(
    trial: Trial, service: ServiceProcess, servers: Servers, cluster: RealCluster, server: str
):
    user = f"killed-{server}-{trial.number}"
    before = await service.ensure("survivor")

    await cluster.kill(server)
    await service.accept(user)
    await cluster.until_ready(server)
    with trial.recovery():
        asked = await service.ensure(user)
        after = await seen_again(service, "survivor")

    assert asked["phase"] == "running"
    assert after["runtime"]["allocation_id"] == before["runtime"]["allocation_id"]
    assert len(await servers.live(before["job_id"])) == 1
    assert (await servers.secret_metadata(asked["job_id"]))["current_version"] == 1
    assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"
