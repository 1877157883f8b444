"""
Nomad, Vault or Consul away, each in every way it can be: frozen, killed, kept down, sealed.

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
from end_to_end.outages import down, frozen, sealed
from end_to_end.servers import Servers, status_of
from end_to_end.service_process import ServiceProcess, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300, func_only=True)]

MAX_AGE_SECONDS = 4


@pytest.fixture(scope="module")
def service(new_service: NewService) -> ServiceProcess:
    return new_service(
        resync_interval=1, observation_max_age=MAX_AGE_SECONDS, liveness_interval=1, upstream_timeout=3
    )


OUTAGES = [
    pytest.param(frozen, "nomad", id="nomad frozen"),
    pytest.param(down, "nomad", id="nomad down"),
    pytest.param(frozen, "vault", id="vault frozen"),
    pytest.param(down, "vault", id="vault down"),
    pytest.param(sealed, "vault", id="vault sealed"),
    pytest.param(frozen, "consul", id="consul frozen"),
    pytest.param(down, "consul", id="consul down"),
]
Outage = Callable[[RealCluster, str], Any]


async def seen_again(service: ServiceProcess, user: str) -> dict[str, Any]:
    return await service.until_stack(user, lambda stack: stack["health"] == "healthy", 90)


@pytest.mark.parametrize(("outage", "server"), OUTAGES)
async def test_an_outage_loses_nothing_and_ends_by_itself(
    service: ServiceProcess, servers: Servers, cluster: RealCluster, outage: Outage, server: str
):
    """One outage costs ten seconds, so what must hold during it is looked at together."""
    name = f"{outage.__name__}-{server}"
    running = await service.ensure(f"runs-{name}")
    leaving = await service.ensure(f"leaves-{name}")
    url, password = await service.address(running["user_id"]), await service.password(running["user_id"])

    async with outage(cluster, server):
        accepted = await service.call("PUT", f"/v1/stacks/new-{name}", {"labels": {"during": server}})
        deletion = await service.call("DELETE", f"/v1/stacks/{leaving['user_id']}", role="operator")
        readiness = await until(
            lambda: service.call("GET", "/readyz"), lambda answer: answer.status == 503, 30
        )
        held_up = await service.until_stack(f"new-{name}", lambda stack: bool(stack["message"]), 40)
        during = await service.call("GET", f"/v1/stacks/{running['user_id']}")
        listed = await service.call("GET", "/v1/stacks", limit="500")
        runtime_answers = await status_of(url, password), await status_of(url)

    after = await seen_again(service, running["user_id"])
    recovered = await service.ensure(f"new-{name}")
    receipt = await service.outcome(deletion.body["id"], seconds=120)

    assert (accepted.status, deletion.status) == (202, 202)
    [fault] = [
        each["name"]
        for each in readiness.body["dependencies"]
        if not each["ok"] and each["name"] != "observation"
    ]
    assert fault == server
    assert held_up["phase"] in {"pending", "starting"}
    assert (during.status, listed.status) == (200, 200)
    assert (during.body["desired"], during.body["phase"]) == ("running", "running")
    assert running["user_id"] in [each["user_id"] for each in listed.body["items"]]
    assert runtime_answers == (200, 401)
    assert after["runtime"]["allocation_id"] == running["runtime"]["allocation_id"]
    assert after["generation"] == running["generation"]
    assert len(await servers.live(running["job_id"])) == 1
    assert recovered["labels"] == {"during": server}
    assert (await servers.job(recovered["job_id"]))["Version"] == 0
    assert (await servers.secret_metadata(recovered["job_id"]))["current_version"] == 1
    assert receipt["state"] == "succeeded", receipt


async def test_while_nomad_is_frozen_reads_tell_how_old_they_are(service, cluster):
    running = await service.ensure("aged")

    async with frozen(cluster, "nomad"):
        unknown = await service.until_stack("aged", lambda stack: stack["health"] == "unknown", 30)
        later = await service.stack("aged")
        asked = await service.call("PUT", "/v1/stacks/aged", {})

    assert unknown["observed_at"] is not None
    assert later["observed_at"] == unknown["observed_at"]
    assert datetime.fromisoformat(unknown["observed_at"]) >= datetime.fromisoformat(running["created_at"])
    assert unknown["phase"] == "running"
    assert asked.status == 202
    assert asked.body["reason"] == "unknown"
    again = await seen_again(service, "aged")
    assert again["observed_at"] > unknown["observed_at"]


async def test_a_running_stack_is_ensured_from_memory_while_vault_and_consul_are_frozen(service, cluster):
    await service.ensure("hot")

    async with frozen(cluster, "vault"), frozen(cluster, "consul"):
        answer = await service.call("PUT", "/v1/stacks/hot", {})
        address = await service.call("GET", "/v1/stacks/hot/address")

    assert (answer.status, address.status) == (200, 200)


async def test_credentials_cannot_be_read_from_a_sealed_vault_and_can_again_when_it_is_open(service, cluster):
    await service.ensure("asks")
    password = await service.password("asks")

    async with sealed(cluster, "vault"):
        refused = await service.call("POST", "/v1/stacks/asks/credentials")

    assert refused.status == 503
    assert refused.body["code"] == "upstream-unavailable"
    assert await service.password("asks") == password


@pytest.mark.parametrize("server", ["nomad", "vault", "consul"])
async def test_a_server_that_is_killed_and_comes_back_costs_no_runtime(service, servers, cluster, server):
    before = await service.ensure("survivor")

    await cluster.kill(server)
    accepted = await service.accept(f"killed-{server}")
    await cluster.until_ready(server)

    assert (await service.ensure(accepted["user_id"]))["phase"] == "running"
    after = await seen_again(service, "survivor")
    assert after["runtime"]["allocation_id"] == before["runtime"]["allocation_id"]
    assert len(await servers.live(before["job_id"])) == 1


async def test_a_service_that_starts_while_nomad_is_frozen_serves_what_it_remembers(
    service, servers, cluster
):
    before = await service.ensure("remembered")

    async with frozen(cluster, "nomad"):
        await asyncio.to_thread(service.restart)
        during = await service.stack("remembered")
        accepted = await service.accept("asked-for-blindly")

    assert (during["phase"], during["health"]) == ("running", "unknown")
    assert (await service.ensure(accepted["user_id"]))["phase"] == "running"
    after = await seen_again(service, "remembered")
    assert after["runtime"]["allocation_id"] == before["runtime"]["allocation_id"]
    assert len(await servers.live(before["job_id"])) == 1
