"""What the catalogue makes of a Consul that fails, lies, or holds what is not ours."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from hostile_server import HostileServer, Misbehaviour, SeenRequest, hostile_server, reply
from leaks import carried_by, chain, written
from opencode_lifecycle.adapters.consul.service_catalog import ConsulServiceCatalog
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    LifecycleError,
    UpstreamDenied,
    UpstreamError,
    UpstreamNonsense,
    UpstreamRejected,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.service_catalog import ServiceInstance

TOKEN = "planted-1111-2222-3333-token"
JOB = JobId("oc-ada-aaaaaaaaaaaaaaaaaaaa")
ALLOCATION = "11111111-2222-3333-4444-555555555555"
INSTANCE = ServiceInstance(
    allocation_id=AllocationId(ALLOCATION),
    address=Address(host="127.0.0.1", port=24001),
    passing=True,
    service_id=f"_nomad-task-{ALLOCATION}-group-opencode-{JOB}-http",
    node="node-1",
)

Call = Callable[[ConsulServiceCatalog, Deadline], Awaitable[object]]
CALLS: dict[str, Call] = {
    "instances": lambda catalog, deadline: catalog.instances(JOB, deadline),
    "list_all": lambda catalog, deadline: catalog.list_all(deadline),
    "deregister": lambda catalog, deadline: catalog.deregister(INSTANCE, deadline),
    "ping": lambda catalog, deadline: catalog.ping(deadline),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def soon() -> Deadline:
    return Deadline.after(5, "test")


def listing(*entries: object) -> bytes:
    return reply(200, list(entries), X_Consul_Index="7")


def entry(**service: object) -> dict[str, object]:
    known = {
        "ID": f"_nomad-task-{ALLOCATION}-group-opencode-{JOB}-http",
        "Service": JOB,
        "Address": "127.0.0.1",
        "Port": 24001,
        "Meta": {},
    }
    return {
        "Node": {"Node": "node-1", "Address": "10.0.0.9"},
        "Service": known | service,
        "Checks": [{"Status": "passing"}, {"Status": "passing"}],
    }


@pytest.fixture
async def consul() -> AsyncIterator[HostileServer]:
    async with hostile_server() as server:
        yield server


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture
async def catalog(consul, token_file):
    catalog = ConsulServiceCatalog(address=consul.url, token_file=token_file)
    yield catalog
    await catalog.close()


@every_call
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply(500, b"No cluster leader", content_type="text/plain"), UpstreamUnavailable),
        (reply(503, b"", content_type=""), UpstreamUnavailable),
        (reply(429, b"rate limit", content_type="text/plain"), UpstreamUnavailable),
        (reply(403, b"ACL not found", content_type="text/plain"), UpstreamDenied),
        (reply(400, b"bad", content_type="text/plain"), UpstreamRejected),
        (reply(404, b"<html>", content_type="text/html"), UpstreamRejected),
        (reply(301, {}, Location="http://127.0.0.1:1/v1/elsewhere"), UpstreamNonsense),
        (reply(204, None), UpstreamNonsense),
        (reply(200, b"<html>login</html>", content_type="text/html"), UpstreamNonsense),
        (reply(200, b"[{", X_Consul_Index="7"), UpstreamNonsense),
        (reply(200, b"[" * 100_000, X_Consul_Index="7"), UpstreamNonsense),
        (reply(200, b"\xff\xfe", X_Consul_Index="7"), UpstreamNonsense),
        (reply(200, {"a": 1}, X_Consul_Index="7"), UpstreamNonsense),
        (reply(200, [7], X_Consul_Index="7"), UpstreamNonsense),
        (Misbehaviour.RESET, UpstreamUnavailable),
        (Misbehaviour.CLOSE, UpstreamUnavailable),
        (Misbehaviour.CUT, UpstreamUnavailable),
        (Misbehaviour.GARBLE, UpstreamUnavailable),
        (Misbehaviour.ENDLESS, UpstreamNonsense),
    ],
    ids=str,
)
async def test_each_failure_is_told_for_what_it_is(consul, catalog, call, answer, expected):
    consul.always(answer)

    with pytest.raises(UpstreamError) as caught:
        await call(catalog, soon())

    assert type(caught.value) is expected
    assert caught.value.system == "consul"
    assert all(isinstance(link, LifecycleError) for link in chain(caught.value))


@every_call
@pytest.mark.parametrize("misbehaviour", [Misbehaviour.HANG, Misbehaviour.DRIP])
async def test_a_consul_that_takes_for_ever_is_given_up_within_the_deadline(
    consul, catalog, call, misbehaviour
):
    consul.always(misbehaviour)
    clock = asyncio.get_running_loop().time
    began = clock()

    with pytest.raises((UpstreamUnavailable, DeadlineExceeded)):
        await call(catalog, Deadline.after(0.3, "test"))

    assert clock() - began < 1


async def test_nobody_listening_is_unavailable(token_file):
    catalog = ConsulServiceCatalog(address="http://127.0.0.1:1", token_file=token_file)

    with pytest.raises(UpstreamUnavailable):
        await catalog.instances(JOB, soon())

    await catalog.close()


async def test_a_redirect_is_not_followed_and_the_token_goes_nowhere_else(consul, catalog):
    async with hostile_server() as elsewhere:
        consul.always(reply(307, {}, Location=f"{elsewhere.url}/v1/health/service/x"))

        with pytest.raises(UpstreamNonsense):
            await catalog.instances(JOB, soon())

        assert elsewhere.requests == []


async def test_the_token_travels_in_a_header_and_never_in_the_address(consul, catalog):
    consul.always(listing())

    await catalog.instances(JOB, soon())

    assert consul.requests[0].headers["x-consul-token"] == TOKEN
    assert TOKEN not in consul.requests[0].path


async def test_the_environment_of_consul_tools_changes_nothing(consul, token_file, monkeypatch):
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "not-ours")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    consul.always(listing())
    catalog = ConsulServiceCatalog(address=consul.url, token_file=token_file)

    await catalog.instances(JOB, soon())

    assert consul.requests[0].headers["x-consul-token"] == TOKEN
    await catalog.close()


async def test_cookies_are_not_sent_back(consul, catalog):
    consul.always(reply(200, [], X_Consul_Index="7", Set_Cookie="session=planted; Path=/"))

    await catalog.instances(JOB, soon())
    await catalog.instances(JOB, soon())

    assert all("cookie" not in request.headers for request in consul.requests)


async def test_a_list_from_which_something_was_withheld_is_not_taken_for_the_whole(consul, catalog):
    consul.always(reply(200, [], X_Consul_Index="7", X_Consul_Results_Filtered_By_ACLs="true"))

    with pytest.raises(UpstreamDenied):
        await catalog.instances(JOB, soon())


async def test_a_consul_without_a_leader_is_unavailable(consul, catalog):
    consul.always(reply(200, ""))

    with pytest.raises(UpstreamUnavailable):
        await catalog.ping(soon())


async def test_a_consul_without_access_control_is_as_good(consul, catalog):
    consul.in_turn(reply(200, "127.0.0.1:8300"), reply(401, b"ACL support disabled"))

    await catalog.ping(soon())


async def test_a_refused_token_is_replaced_once_by_what_the_file_holds_now(consul, catalog, token_file):
    def script(request: SeenRequest) -> bytes:
        if request.headers["x-consul-token"] == TOKEN:
            token_file.write_text("the-new-token")
            return reply(403, b"ACL not found")
        return listing()

    consul.script = script

    assert list(await catalog.instances(JOB, soon())) == []
    assert [request.headers["x-consul-token"] for request in consul.requests] == [
        TOKEN,
        "the-new-token",
    ]


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"two\nlines", b"ctrl\x00"])
async def test_a_file_without_a_token_is_a_matter_for_a_person(consul, catalog, token_file, content):
    token_file.unlink()
    if content is not None:
        token_file.write_bytes(content)

    with pytest.raises(UpstreamDenied) as caught:
        await catalog.instances(JOB, soon())

    assert consul.requests == []
    assert "lines" not in carried_by(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        [],
        7,
        {"Service": {}},
        entry(Service="oc-somebody-else"),
        entry(Port=0),
        entry(Port=65536),
        entry(Port="24001"),
        entry(Port=True),
        entry(Port=None),
        entry(Address=7),
        entry(ID=None),
        entry(Meta="x", ID="by-hand"),
        entry(Meta={"allocation_id": 7}, ID="by-hand"),
        entry() | {"Checks": None},
        entry() | {"Checks": [{}]},
        entry(Address="") | {"Node": {}},
    ],
    ids=str,
)
async def test_a_list_with_one_wrong_entry_is_refused_whole(consul, catalog, wrong):
    consul.always(listing(entry(), wrong))

    with pytest.raises(UpstreamNonsense):
        await catalog.instances(JOB, soon())


async def test_an_instance_without_an_address_of_its_own_has_that_of_its_node(consul, catalog):
    consul.always(listing(entry(Address="")))

    [found] = await catalog.instances(JOB, soon())

    assert found.address == Address(host="10.0.0.9", port=24001)


@pytest.mark.parametrize(
    ("statuses", "passing"),
    [
        ([], True),
        (["passing", "passing"], True),
        (["passing", "warning"], False),
        (["critical", "passing"], False),
        (["maintenance"], False),
        (["something-new"], False),
    ],
)
async def test_an_instance_passes_when_all_of_its_checks_do(consul, catalog, statuses, passing):
    checks = [{"Status": status} for status in statuses]
    consul.always(listing(entry() | {"Checks": checks}))

    [found] = await catalog.instances(JOB, soon())

    assert found.passing is passing


@pytest.mark.parametrize(
    "service",
    [
        {"ID": f"_nomad-task-{ALLOCATION}-group-opencode-{JOB}-http"},
        {"ID": f"_nomad-group-{ALLOCATION}-opencode-{JOB}-http"},
        {"ID": f"_nomad-task-{ALLOCATION}-server-{JOB}-http"},
        {"ID": "by-hand", "Meta": {"allocation_id": ALLOCATION}},
    ],
    ids=str,
)
async def test_the_allocation_is_read_from_the_service_id_or_its_meta(consul, catalog, service):
    consul.always(listing(entry(**service)))

    [found] = await catalog.instances(JOB, soon())

    assert found.allocation_id == ALLOCATION


@pytest.mark.parametrize("meta", [{}, None, {"allocation_id": ""}])
async def test_an_instance_of_no_allocation_is_not_ours(consul, catalog, meta):
    consul.always(listing(entry(ID="zombie", Meta=meta), entry(ID="_nomad-task-no-uuid-at-all")))

    assert list(await catalog.instances(JOB, soon())) == []


@every_call
@pytest.mark.parametrize("status", [200, 204, 307, 400, 401, 403, 404, 429, 500])
async def test_no_error_and_no_log_record_carries_the_token(consul, catalog, call, status, caplog):
    body = f'"{TOKEN}"'.encode()
    consul.always(reply(status, body, X_Consul_Index="7", X_Echo=TOKEN, Location=f"/{TOKEN}"))
    caplog.set_level(logging.DEBUG)

    try:
        await call(catalog, soon())
    except LifecycleError as error:
        shown = carried_by(error)
    else:
        shown = ""

    assert TOKEN not in shown
    assert TOKEN not in written(caplog.records)


@pytest.mark.servers
async def test_a_zombie_of_the_same_name_is_left_out(real_consul):
    job_id = JobId(f"oc-ada-{uuid.uuid4().hex[:20]}")
    await real_consul.register_service(f"zombie-{job_id}", job_id, 24001)

    assert list(await real_consul.catalog.instances(job_id, soon())) == []


@pytest.mark.servers
async def test_a_real_consul_denies_a_token_that_it_does_not_know(real_consul, tmp_path):
    token_file = tmp_path / "token"
    token_file.write_text(str(uuid.uuid4()))
    catalog = ConsulServiceCatalog(address=real_consul.url, token_file=token_file)

    for call in CALLS.values():
        with pytest.raises(UpstreamDenied):
            await call(catalog, soon())

    await catalog.close()


@pytest.mark.servers
async def test_a_real_consul_says_that_it_withholds_what_our_token_may_not_see(real_consul, tmp_path):
    await real_consul.register_service("withheld-1", "not-of-our-prefix", 24001)

    # Empty until the agent has told the catalogue.
    with pytest.raises(UpstreamDenied, match="may not see"):
        await anything_of(real_consul.catalog, JobId("not-of-our-prefix"))


async def anything_of(catalog: ConsulServiceCatalog, job_id: JobId) -> None:
    async with asyncio.timeout(10):
        while not await catalog.instances(job_id, soon()):
            pass
