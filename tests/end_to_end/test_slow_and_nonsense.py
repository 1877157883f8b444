"""Nomad, Vault or Consul there, but slow, or answering what makes no sense. The service reaches it through a relay."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cluster_fixture import RealCluster
from end_to_end.conftest import NewService
from end_to_end.relay import Relay, relay_to
from end_to_end.service_process import ServiceProcess, path_of, until
from hostile_server import HostileServer, Misbehaviour, hostile_server, reply

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120, func_only=True)]

SERVERS = ("nomad", "vault", "consul")
NONSENSE = {
    "a page": reply(200, b"<html>Welcome to the proxy</html>", content_type="text/html"),
    "half of JSON": reply(200, b'{"Data": [{"ID"'),
    "JSON of another shape": reply(200, {"surprise": [1, 2, 3]}),
    "an error of its own": reply(500, b"goroutine 1 [running]:", content_type="text/plain"),
    "no HTTP": Misbehaviour.GARBLE,
    "a reset": Misbehaviour.RESET,
}


@asynccontextmanager
async def relayed(
    new_service: NewService, cluster: RealCluster, server: str
) -> AsyncIterator[tuple[ServiceProcess, Relay]]:
    """Give a service that reaches *server* through a relay. It ends before the relay does."""
    async with relay_to(getattr(cluster, f"{server}_address")) as relay:
        service = await asyncio.to_thread(
            new_service,
            **{f"{server}_address": relay.url},
            resync_interval=1,
            observation_max_age=4,
            liveness_interval=1,
            upstream_timeout=3,
        )
        try:
            yield service, relay
        finally:
            await asyncio.to_thread(service.kill)


async def requests_to(hostile: HostileServer) -> int:
    return len(hostile.requests)


@pytest.mark.parametrize("server", SERVERS)
async def test_nonsense_from_a_server_is_believed_in_nothing(new_service, servers, cluster, server):
    """All kinds of it, one after the other, so that a service is started once for each server only."""
    async with (
        relayed(new_service, cluster, server) as (service, relay),
        hostile_server() as hostile,
    ):
        before = await service.ensure("runs")
        leaving = await service.ensure("leaves")
        async with relay.leading_to(hostile.url):
            hostile.always(NONSENSE["a page"])
            accepted = await service.accept("new", {"labels": {"during": server}})
            deletion = await service.call("DELETE", path_of("leaves"), role="operator")
            for kind, answer in NONSENSE.items():
                hostile.always(answer)
                asked = len(hostile.requests)
                readiness = await service.call("GET", "/readyz")
                assert readiness.status == 503, kind
                assert {each["name"] for each in readiness.body["dependencies"] if not each["ok"]} >= {server}
                await until(lambda: requests_to(hostile), lambda count, asked=asked: count > asked + 1, 20)
            during = await service.stack("runs")
            held_up = await service.stack("new")
        after = await service.until_stack("runs", lambda stack: stack["health"] == "healthy", 60)
        recovered = await service.ensure("new")
        receipt = await service.outcome(deletion.body["id"], seconds=60)

    assert accepted["phase"] == "pending"
    assert during["phase"] == "running"
    assert held_up["phase"] in {"pending", "starting"}
    assert after["runtime"]["allocation_id"] == before["runtime"]["allocation_id"]
    assert (after["generation"], recovered["labels"]) == (1, {"during": server})
    assert receipt["state"] == "succeeded", receipt
    assert (await servers.job(before["job_id"]))["Version"] == 0
    assert (await servers.job(recovered["job_id"]))["Version"] == 0
    assert await servers.job(leaving["job_id"]) is None
    assert (await servers.secret_metadata(recovered["job_id"]))["current_version"] == 1


@pytest.mark.parametrize("server", SERVERS)
async def test_a_slow_server_makes_everything_slow_and_nothing_fail(new_service, servers, cluster, server):
    async with relayed(new_service, cluster, server) as (service, relay):
        before = await service.ensure("runs")
        relay.delay = 0.7
        started = await service.ensure("new")
        recreated = await service.do("new", "recreate")
        hot = await service.call("PUT", path_of("runs"), {})
        readiness = await until(
            lambda: service.call("GET", "/readyz"), lambda answer: answer.status == 200, 20
        )
        relay.delay = 0.0
        after = await service.stack("new")

    assert started["phase"] == "running"
    assert recreated["state"] == "succeeded", recreated
    assert hot.status == 200
    assert hot.body["runtime"]["allocation_id"] == before["runtime"]["allocation_id"]
    assert {each["ok"] for each in readiness.body["dependencies"]} == {True}
    assert after["runtime"]["allocation_id"] != started["runtime"]["allocation_id"]
    assert len(await servers.live(after["job_id"])) == 1
