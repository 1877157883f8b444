"""
Nomad, Vault or Consul cut off from the service, and from nobody else: they and the runtimes work on, and Nomad with them.

Every connection breaks, also those that are open, and no new one comes about.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from end_to_end.conftest import NewService
from end_to_end.servers import Servers, both
from end_to_end.service_process import ServiceProcess, path_of, until
from faults.interceptor import Interceptor, addresses
from faults.matrix import fault
from faults.trials import Trial
from faults.using import conditions, in_use

pytestmark = [
    pytest.mark.servers,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180, func_only=True),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(new_service: NewService, ways: dict[str, Interceptor]) -> AsyncIterator[ServiceProcess]:
    service = await asyncio.to_thread(
        new_service,
        **addresses(ways),
        resync_interval=1,
        observation_max_age=4,
        liveness_interval=1,
        upstream_timeout=3,
    )
    yield service
    await asyncio.to_thread(service.kill)


SERVED = {"nomad": (202, "unknown"), "vault": (200, None), "consul": (200, None)}
"""How a running stack is ensured meanwhile: only of one that cannot be seen it is not known whether it runs."""


@pytest.mark.parametrize(
    "server",
    [
        pytest.param("nomad", marks=fault("F9")),
        pytest.param("vault", marks=fault("F29")),
        pytest.param("consul", marks=fault("F33")),
    ],
)
async def test_a_server_that_is_cut_off_costs_no_runtime_and_what_is_new_waits_with_the_reason(
    trial: Trial, service: ServiceProcess, servers: Servers, ways: dict[str, Interceptor], server: str
):
    runs, new, leaves = (f"{name}-{server}-{trial.number}" for name in ("runs", "new", "leaves"))
    before, leaving = await both(service.ensure(runs), service.ensure(leaves))
    url, password = await service.address(runs), await service.password(runs)

    async with in_use(url, password) as use:
        async with ways[server].cut():
            accepted = await service.call("PUT", path_of(new), {})
            deletion = await service.call("DELETE", path_of(leaves), role="operator", workspace="delete")
            readiness = await until(
                lambda: service.call("GET", "/readyz"), lambda answer: answer.status == 503, 30
            )
            held_up = await service.until_stack(
                new, lambda stack: stack["reason"] == f"{server}_unavailable", 30
            )
            if server == "nomad":
                await service.until_stack(runs, lambda stack: stack["health"] == "unknown", 30)
            during = await service.call("PUT", path_of(runs), {})
        with trial.recovery():
            recovered = await service.ensure(new)
            after = await service.until_stack(runs, lambda stack: stack["health"] == "healthy", 60)
        receipt = await service.outcome(deletion.body["id"])

    assert (accepted.status, deletion.status) == (202, 202)
    assert server in [each["name"] for each in readiness.body["dependencies"] if not each["ok"]]
    assert held_up["phase"] in {"pending", "starting"}
    assert (during.status, during.body["reason"]) == SERVED[server]
    assert during.body["phase"] == "running"
    assert use.failures == []
    assert use.answered > 0
    assert after["runtime"] == before["runtime"]
    assert [each["ID"] for each in await servers.allocations(before["job_id"])] == [
        before["runtime"]["allocation_id"]
    ]
    assert (await servers.job(recovered["job_id"]))["Version"] == 0
    assert (await servers.secret_metadata(recovered["job_id"]))["current_version"] == 1
    assert receipt["state"] == "succeeded", receipt
    assert await servers.job(leaving["job_id"]) is None
    assert await conditions(service) == {}
    for user in (runs, new):
        assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"
