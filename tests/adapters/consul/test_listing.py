"""What is made of the lists of a whole catalogue, and of a token that may not see all of it."""

import uuid
from dataclasses import replace

import pytest

from hostile_server import Misbehaviour, reply
from opencode_lifecycle.adapters.consul.service_catalog import ConsulServiceCatalog
from opencode_lifecycle.model.errors import UpstreamDenied, UpstreamNonsense, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.stack import Address
from scripted_consul import (
    ALLOCATION,
    AUTHORIZE,
    CRITICAL,
    INSTANCE,
    JOB,
    NODE_SERVICES,
    Catalogue,
    asked,
    follow,
    node,
    service,
    soon,
)

FAR_NODE = "far node/x"


async def test_the_services_of_every_node_are_listed(consul, catalog):
    other = JobId("oc-bob-aaaaaaaaaaaaaaaaaaaa")
    consul.script = Catalogue(
        {"node-1": [service()], "node-2": [service(Service=other, Address="")], "n": []}
    )

    assert await catalog.list_all(soon()) == {
        JOB: [INSTANCE],
        other: [replace(INSTANCE, node="node-2", address=Address(host="10.0.0.9", port=24001))],
    }


async def test_a_node_with_an_odd_name_is_asked_by_that_name(consul, catalog):
    consul.script = Catalogue({"far node/x?%20": [service()]})

    listed = await catalog.list_all(soon())

    assert [each.node for each in listed[JOB]] == ["far node/x?%20"]
    assert asked(consul, NODE_SERVICES)[0][1].startswith(f"{NODE_SERVICES}far%20node%2Fx%3F%2520?filter=")


@pytest.mark.parametrize("gone", [{"Node": None, "Services": None}, {"Node": None, "Services": []}])
async def test_a_node_that_went_meanwhile_has_no_services(consul, catalog, gone):
    consul.script = Catalogue(instead={NODE_SERVICES: reply(200, gone)})

    assert await catalog.list_all(soon()) == {}


@pytest.mark.parametrize(
    "others",
    [
        service(Service="postgres"),
        service(Service="OC-ada"),
        service(Port=0),
        service(ID="zombie", Meta=None),
        service(ID="zombie", Meta={}),
        service(ID="_nomad-task-no-uuid-at-all", Meta={}),
    ],
    ids=str,
)
async def test_services_of_others_are_left_out_whatever_the_filter_lets_through(consul, catalog, others):
    consul.script = Catalogue({"node-1": [others, service()]})

    assert await catalog.list_all(soon()) == {JOB: [INSTANCE]}


async def test_what_was_registered_by_hand_in_the_name_of_an_installation_is_of_no_allocation(
    consul, catalog
):
    consul.script = Catalogue({"node-1": [service(ID="by-hand", Meta={"installation": "main"})]})

    ((listed,),) = (await catalog.list_all(soon())).values()

    assert (listed.service_id, listed.installation, listed.allocation_id) == ("by-hand", "main", "")


@pytest.mark.parametrize(
    "wrong",
    [
        7,
        [],
        {},
        service(Service=None),
        service(ID=None),
        service(Port=None),
        service(Port="24001"),
        service(Port=True),
        service(Port=False),
        service(Port=-1),
        service(Port=65536),
        service(Address=7),
        service(Meta="x"),
        service(Meta={"installation": 7}),
    ],
    ids=str,
)
async def test_a_list_with_one_wrong_service_is_refused_whole(consul, catalog, wrong):
    consul.script = Catalogue({"node-1": [service(), wrong]})

    with pytest.raises(UpstreamNonsense):
        await catalog.list_all(soon())


@pytest.mark.parametrize(
    "answer",
    [[], 7, None, {}, {"Services": []}, {"Node": node("n"), "Services": {}}, {"Node": None, "Services": 0},
     {"Node": None, "Services": ""}, {"Node": None, "Services": [service(Address="")]}],
    ids=str,
)  # fmt: skip
async def test_an_answer_that_is_no_list_is_not_taken_for_an_empty_node(consul, catalog, answer):
    consul.script = Catalogue(instead={NODE_SERVICES: reply(200, answer)})

    with pytest.raises(UpstreamNonsense):
        await catalog.list_all(soon())


@pytest.mark.parametrize("nodes", [None, {}, [7], [{}], [{"Node": 7}], [node("a"), {"Node": None}]], ids=str)
async def test_a_list_of_nodes_that_is_none_is_not_taken_for_an_empty_cluster(consul, catalog, nodes):
    consul.script = Catalogue(instead={"/v1/catalog/nodes": reply(200, nodes)})

    with pytest.raises(UpstreamNonsense):
        await catalog.list_all(soon())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply(500, b"no leader", content_type="text/plain"), UpstreamUnavailable),
        (reply(403, b"denied", content_type="text/plain"), UpstreamDenied),
        (Misbehaviour.RESET, UpstreamUnavailable),
        (Misbehaviour.CUT, UpstreamUnavailable),
    ],
    ids=str,
)
async def test_a_list_is_whole_or_an_error(consul, catalog, answer, expected):
    consul.script = Catalogue(
        {"node-1": [service()], "node-2": [service()]}, instead={f"{NODE_SERVICES}node-2": answer}
    )

    with pytest.raises(expected):
        await catalog.list_all(soon())


async def test_the_services_of_a_large_node_are_read_whole(consul, catalog):
    tags = ["x" * 600]
    consul.script = Catalogue(
        {"node-1": [service(Service=f"{JOB}-{number}", Tags=tags) for number in range(10_000)]}
    )

    assert len(await catalog.list_all(soon())) == 10_000


# What our token may not see


async def test_nodes_that_were_withheld_are_not_taken_for_none(consul, catalog):
    withheld = reply(200, [], X_Consul_Results_Filtered_By_ACLs="true")
    consul.script = Catalogue(instead={"/v1/catalog/nodes": withheld})

    with pytest.raises(UpstreamDenied, match="may not see"):
        await catalog.list_all(soon())


@pytest.mark.parametrize("answer", [[{"Allow": False}], [{"Allow": True}, {"Allow": False}]], ids=str)
async def test_services_that_our_token_may_not_see_are_not_taken_for_none(consul, catalog, answer):
    consul.script = Catalogue(
        {"node-1": []}, instead={AUTHORIZE: reply(200, answer), CRITICAL: reply(200, [])}
    )

    with pytest.raises(UpstreamDenied, match="may not see"):
        await catalog.list_all(soon())
    with pytest.raises(UpstreamDenied, match="may not see"):
        await follow(catalog, 1)


@pytest.mark.parametrize("answer", [[], {}, None, True, [True], [{}], [{"Allow": None}], [{"Allow": "yes"}]])
async def test_an_answer_that_names_no_right_gives_none(consul, catalog, answer):
    consul.script = Catalogue(instead={AUTHORIZE: reply(200, answer), CRITICAL: reply(200, [])})

    with pytest.raises(UpstreamNonsense):
        await catalog.list_all(soon())
    with pytest.raises(UpstreamNonsense):
        await follow(catalog, 1)


async def test_without_access_control_everything_may_be_seen(consul, catalog):
    consul.script = Catalogue(instead={AUTHORIZE: reply(401, b"ACL support disabled")})

    assert await catalog.list_all(soon()) == {JOB: [INSTANCE]}


# The real server


@pytest.fixture
def job_id() -> JobId:
    return JobId(f"oc-ada-{uuid.uuid4().hex[:20]}")


@pytest.fixture
async def far_instance(real_consul, job_id):
    """Yield an instance on a node without an agent, and with an odd name."""
    service_id = f"_nomad-task-{ALLOCATION}-group-opencode-{job_id}-http"
    far = {"ID": service_id, "Service": job_id, "Port": 24001, "Address": "127.0.0.1"}
    await real_consul.put("catalog/register", {"Node": FAR_NODE, "Address": "10.0.0.9", "Service": far})
    yield replace(INSTANCE, service_id=service_id, node=FAR_NODE, installation=None)
    await real_consul.put("catalog/deregister", {"Node": FAR_NODE})


@pytest.mark.servers
async def test_a_real_node_with_an_odd_name_is_listed_and_cleared(real_consul, far_instance, job_id):
    assert (await real_consul.catalog.list_all(soon()))[job_id] == [far_instance]

    await real_consul.catalog.deregister(far_instance, soon())
    assert job_id not in await real_consul.catalog.list_all(soon())

    await real_consul.catalog.deregister(far_instance, soon())


@pytest.mark.servers
@pytest.mark.parametrize(
    "rules",
    [
        'service_prefix "oc-b" { policy = "read" } node_prefix "" { policy = "read" }',
        'service_prefix "oc-" { policy = "read" }',
        'node_prefix "" { policy = "read" }',
    ],
)
async def test_a_real_token_that_may_not_see_all_of_ours_sees_nothing(real_consul, job_id, tmp_path, rules):
    await real_consul.register_service(f"seen-{job_id}", job_id, 24001)
    (tmp_path / "token").write_text(await real_consul.make_token(rules))
    catalog = ConsulServiceCatalog(address=real_consul.url, token_file=tmp_path / "token")

    with pytest.raises(UpstreamDenied):
        await catalog.list_all(soon())
    await catalog.close()
