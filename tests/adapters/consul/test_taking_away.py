"""How an instance is taken away for good, and nothing else with it."""

import asyncio
import json
import uuid
from dataclasses import replace

import pytest

from hostile_server import HostileServer, reply
from opencode_lifecycle.model.errors import (
    UpstreamDenied,
    UpstreamNonsense,
    UpstreamRejected,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.stack import Address
from scripted_consul import INSTANCE, SERVICE_ID, Catalogue, service, soon


def writes(consul: HostileServer) -> list[tuple[str, bytes]]:
    return [(request.path, request.body) for request in consul.requests if request.method == "PUT"]


IN_CATALOGUE = json.dumps({"Node": "node-1", "ServiceID": SERVICE_ID}).encode()
UNKNOWN = reply(500, b"Unknown service ID", content_type="text/plain")


async def test_what_our_agent_has_is_taken_from_it(consul, catalog):
    consul.script = Catalogue(instead={"/v1/agent/service": reply(200)})

    await catalog.deregister(replace(INSTANCE, service_id="a b/c?"), soon())

    assert writes(consul) == [("/v1/agent/service/deregister/a%20b%2Fc%3F", b"")]


async def test_what_our_agent_does_not_have_any_more_is_taken_from_the_catalogue(consul, catalog):
    consul.script = Catalogue(instead={"/v1/agent/service": reply(404, b"Unknown service ID")})

    await catalog.deregister(INSTANCE, soon())

    assert writes(consul)[1:] == [("/v1/catalog/deregister", IN_CATALOGUE)]


async def test_what_is_on_another_node_is_taken_from_the_catalogue_alone(consul, catalog):
    consul.script = Catalogue(instead={"/v1/agent/self": reply(200, {"Config": {"NodeName": "node-2"}})})

    await catalog.deregister(INSTANCE, soon())

    assert writes(consul) == [("/v1/catalog/deregister", IN_CATALOGUE)]


@pytest.mark.parametrize("nameless", [{"service_id": ""}, {"node": ""}], ids=str)
async def test_a_whole_node_is_never_taken_away(consul, catalog, nameless):
    with pytest.raises(UpstreamRejected):
        await catalog.deregister(replace(INSTANCE, **nameless), soon())

    assert consul.requests == []


async def test_what_the_catalogue_does_not_know_is_taken_away_already(consul, catalog):
    consul.script = Catalogue(
        {"node-1": [service(ID="other")]},
        instead={"/v1/agent/service": reply(404), "/v1/catalog/deregister": UNKNOWN},
    )

    await catalog.deregister(INSTANCE, soon())


async def test_a_failure_is_told_as_long_as_the_instance_is_listed(consul, catalog):
    consul.script = Catalogue(instead={"/v1/agent/service": reply(404), "/v1/catalog/deregister": UNKNOWN})

    with pytest.raises(UpstreamUnavailable):
        await catalog.deregister(INSTANCE, soon())


@pytest.mark.parametrize("answer", [reply(200, b"<html>"), reply(200, False), reply(200, [])], ids=str)
@pytest.mark.parametrize("path", ["/v1/agent/service", "/v1/catalog/deregister"])
async def test_an_answer_that_consul_does_not_give_to_a_write_is_no_success(consul, catalog, path, answer):
    consul.script = Catalogue(instead={"/v1/agent/service": reply(404)} | {path: answer})

    with pytest.raises(UpstreamNonsense):
        await catalog.deregister(INSTANCE, soon())


@pytest.mark.parametrize("agent", [[], {}, {"Config": None}, {"Config": {"NodeName": 7}}], ids=str)
async def test_an_agent_that_does_not_say_where_it_is_has_nothing_taken_away(consul, catalog, agent):
    consul.script = Catalogue(instead={"/v1/agent/self": reply(200, agent)})

    with pytest.raises(UpstreamNonsense):
        await catalog.deregister(INSTANCE, soon())

    assert writes(consul) == []


# The real server


@pytest.fixture
def job_id() -> JobId:
    return JobId(f"oc-ada-{uuid.uuid4().hex[:20]}")


@pytest.mark.servers
async def test_a_real_agent_gives_up_what_is_taken_away(real_consul, job_id):
    allocation = AllocationId(str(uuid.uuid4()))
    await real_consul.register(job_id, allocation, Address(host="127.0.0.1", port=24001))
    async with asyncio.timeout(10):
        while not (found := await real_consul.catalog.instances(job_id, soon())):
            pass

    await real_consul.catalog.deregister(found[0], soon())

    assert found[0].service_id not in await real_consul.services_of_agent()


@pytest.mark.servers
async def test_a_service_that_is_not_of_ours_cannot_be_taken_away(real_consul):
    await real_consul.register_service("foreign-1", "foreign", 24001)
    foreign = replace(INSTANCE, service_id="foreign-1", node="opencode")

    with pytest.raises(UpstreamDenied):
        await real_consul.catalog.deregister(foreign, soon())

    assert "foreign-1" in await real_consul.services_of_agent()
