"""Answers of the real servers that are lost, changed, or of another: what the service makes of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from end_to_end.conftest import NewService
from end_to_end.servers import Servers, both, status_of
from end_to_end.service_process import ServiceProcess, path_of, until
from end_to_end.stub_opencode import STRANGER
from faults.interceptor import Interceptor, LosesAnswers, PassOn, Reply, addresses
from faults.matrix import fault
from faults.trials import Trial
from faults.using import conditions, log_of, reconciled
from hostile_server import HostileServer, SeenRequest, reply

pytestmark = [
    pytest.mark.servers,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180, func_only=True),
]

FLEET = [f"fleet-{number}" for number in range(4)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(new_service: NewService, ways: dict[str, Interceptor]) -> AsyncIterator[ServiceProcess]:
    service = await asyncio.to_thread(
        new_service,
        **addresses(ways),
        resync_interval=1,
        observation_max_age=6,
        liveness_interval=1,
        comparison_interval=2,
        upstream_timeout=3,
    )
    yield service
    await asyncio.to_thread(service.kill)


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(service: ServiceProcess) -> list[dict[str, Any]]:
    """Give four running stacks, the same in every repetition."""
    return await both(*(service.ensure(user) for user in FLEET))


async def is_well(service: ServiceProcess, servers: Servers, user: str) -> None:
    """Hold that the user's runtime takes its password, and is the only one."""
    url, password = await service.address(user), await service.password(user)
    assert await both(status_of(url, password), status_of(url)) == [200, 401]
    assert len(await servers.live(service.job_id(user))) == 1


# --- a registration whose answer is lost


def is_registration_of(job_id: str) -> Callable[[SeenRequest], bool]:
    def is_meant(asked: SeenRequest) -> bool:
        return asked.method == "PUT" and asked.path.startswith("/v1/jobs?") and job_id.encode() in asked.body

    return is_meant


@fault("F15")
async def test_a_registration_whose_answer_was_lost_is_not_repeated(
    trial: Trial, service: ServiceProcess, servers: Servers, ways: dict[str, Interceptor]
):
    """The same is done to one whose answers all come: the lost ones must make no difference in Nomad."""
    unlucky, lucky = f"unlucky-{trial.number}", f"lucky-{trial.number}"
    loser = LosesAnswers(is_registration_of(service.job_id(unlucky)), times=2)

    async with ways["nomad"].meddling(loser):
        with trial.recovery():
            await service.ensure(unlucky)
        first = await servers.allocations(service.job_id(unlucky))
        lost_at_first = len(loser.lost)
        with trial.recovery():
            recreated = await service.do(unlucky, "recreate")
    await service.ensure(lucky)
    await service.do(lucky, "recreate")

    assert lost_at_first >= 1
    assert len(loser.lost) == 2
    assert recreated["state"] == "succeeded"
    assert len(first) == 1
    versions = [(await servers.job(service.job_id(user)))["Version"] for user in (unlucky, lucky)]
    placed = [len(await servers.allocations(service.job_id(user))) for user in (unlucky, lucky)]
    assert versions[0] == versions[1]
    assert placed == [2, 2]
    await is_well(service, servers, unlucky)
    for user in (unlucky, lucky):
        assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"


# --- a write to Vault whose answer is lost


def is_write_of_secret(job_id: str) -> Callable[[SeenRequest], bool]:
    def is_meant(asked: SeenRequest) -> bool:
        return asked.method in {"POST", "PUT"} and asked.path.endswith(f"/data/opencode/{job_id}")

    return is_meant


@fault("F30")
async def test_a_password_whose_writing_was_not_answered_is_adopted(
    trial: Trial, service: ServiceProcess, servers: Servers, ways: dict[str, Interceptor]
):
    user = f"unanswered-{trial.number}"
    job_id = service.job_id(user)
    loser = LosesAnswers(is_write_of_secret(job_id))

    async with ways["vault"].meddling(loser):
        with trial.recovery():
            await service.ensure(user)
        versions = [(await servers.secret_metadata(job_id))["current_version"]]
        await is_well(service, servers, user)
        old = await service.password(user)
        loser.times = 2
        with trial.recovery():
            rotated = await service.do(user, "rotate-password")
        versions.append((await servers.secret_metadata(job_id))["current_version"])

    assert len(loser.lost) == 2
    assert rotated["state"] == "succeeded"
    assert versions == [1, 2]
    await is_well(service, servers, user)
    assert await status_of(await service.address(user), old) == 401
    assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"


# --- a Vault that answers 503


@fault("F29")
async def test_while_vault_answers_503_what_runs_is_unaffected_and_what_is_new_waits(
    trial: Trial, service: ServiceProcess, servers: Servers, ways: dict[str, Interceptor], fleet: Any
):
    user = f"new-503-{trial.number}"

    async def refuse(asked: SeenRequest, pass_on: PassOn) -> Reply:
        return Reply(503, {"Content-Type": "application/json"}, b'{"errors":["Vault is sealed"]}')

    async with ways["vault"].meddling(refuse):
        accepted = await service.accept(user)
        held_up = await service.until_stack(user, lambda stack: stack["reason"] == "vault_unavailable", 30)
        during = await service.call("PUT", path_of(FLEET[0]), {})
        refused = await service.call("POST", f"{path_of(FLEET[0])}/credentials")
    with trial.recovery():
        recovered = await service.ensure(user)

    assert accepted["phase"] == "pending"
    assert held_up["phase"] == "pending"
    assert during.status == 200
    assert (refused.status, refused.body["code"]) == (503, "upstream-unavailable")
    assert (await servers.secret_metadata(recovered["job_id"]))["current_version"] == 1
    await is_well(service, servers, user)
    assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"


# --- listings that are not whole


def of_all(stubs: list[Any], ours: Sequence[str]) -> list[Any]:
    return []


def cut_short(stubs: list[Any], ours: Sequence[str]) -> list[Any]:
    """Leave one of ours, and of the others all."""
    return [each for each in stubs if each.get("JobID", each["ID"]) not in ours[1:]]


LISTINGS = {
    "empty": ("/v1/jobs?", of_all, False),
    "cut short": ("/v1/jobs?", cut_short, False),
    "stale": ("/v1/jobs?", cut_short, True),
    "without allocations": ("/v1/allocations?", of_all, False),
}


def listing_as(path: str, change: Callable[..., list[Any]], ours: Sequence[str], index: int | None) -> Any:
    """Return what makes each listing of *path* come changed, and with *index* as one of long ago."""

    async def meddle(asked: SeenRequest, pass_on: PassOn) -> Reply | None:
        answer = await pass_on()
        if asked.method != "GET" or not asked.path.startswith(path) or answer.status != 200:
            return answer
        headers = {name: value for name, value in answer.headers.items() if name != "X-Nomad-Nexttoken"}
        if index is not None:
            headers["X-Nomad-Index"] = str(index)
        return replace(
            answer, headers=headers, body=json.dumps(change(json.loads(answer.body), ours)).encode()
        )

    return meddle


def is_destructive(asked: SeenRequest) -> bool:
    """Whether it writes anything but whose a secret is, which the sweep does in its own time."""
    is_mark = asked.method == "PATCH" and "/metadata/" in asked.path
    return asked.method in {"PUT", "POST", "PATCH", "DELETE"} and "/parse" not in asked.path and not is_mark


@fault("F18")
@pytest.mark.parametrize("kind", LISTINGS)
async def test_a_listing_that_is_not_whole_never_means_that_all_is_gone(
    trial: Trial, service: ServiceProcess, ways: dict[str, Interceptor], fleet, kind: str
):
    servers = Servers(service.cluster)
    path, change, is_old = LISTINGS[kind]
    job_ids = [each["job_id"] for each in fleet]
    first = min(job["CreateIndex"] for job in await both(*map(servers.job, job_ids)))
    meddler = listing_as(path, change, job_ids, first - 1 if is_old else None)
    already = len(ways["nomad"].asked), len(ways["vault"].asked)
    told_before = {each["id"] for each in await all_events(service)}

    async with ways["nomad"].meddling(meddler):
        raised = await until(lambda: conditions(service), bool, 30)
        during = await both(*(service.stack(user) for user in FLEET))
        report = await reconciled(service, dry_run=False)
        ensured = await both(*(service.call("PUT", path_of(user), {}, wait="5s") for user in FLEET))
        tried = [
            each
            for way, begun in zip((ways["nomad"], ways["vault"]), already, strict=True)
            for each in way.asked[begun:]
            if is_destructive(each)
        ]
    with trial.recovery():
        await until(lambda: conditions(service), lambda standing: not standing, 30)
        after = await both(*(service.ensure(user) for user in FLEET))

    assert any(each["freezes"] for each in raised.values()), raised
    assert report["frozen"]
    assert tried == []
    assert {(each["desired"], each["phase"]) for each in during} == {("running", "running")}
    assert {each.status for each in ensured} <= {200, 202}
    for user, before, now in zip(FLEET, fleet, after, strict=True):
        assert now["runtime"]["allocation_id"] == before["runtime"]["allocation_id"]
        assert now["generation"] == before["generation"]
        await is_well(service, servers, user)
    kinds = {each["kind"] for each in await all_events(service) if each["id"] not in told_before}
    assert {"condition.raised", "condition.cleared"} <= kinds


async def all_events(service: ServiceProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await service.call("GET", "/v1/events", role="operator", limit="500", **cursor)).body
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


@fault("F18")
async def test_a_deletion_destroys_nothing_while_the_listing_is_empty(
    trial: Trial, service: ServiceProcess, servers: Servers, ways: dict[str, Interceptor], fleet
):
    user = f"leaving-{trial.number}"
    leaving = await service.ensure(user)
    job_id = leaving["job_id"]

    async with ways["nomad"].meddling(listing_as("/v1/jobs?", of_all, (), None)):
        await until(lambda: conditions(service), bool, 30)
        deletion = await service.call("DELETE", path_of(user), role="operator", workspace="delete")
        held = await service.until_stack(user, lambda stack: stack["reason"] == "brake", 30)
        there = (
            await servers.job(job_id),
            await servers.secret_metadata(job_id),
            await servers.volumes(job_id),
        )
    with trial.recovery():
        receipt = await service.outcome(deletion.body["id"])

    assert deletion.status == 202
    assert held["desired"] == "deleted"
    assert all(there)
    assert receipt["state"] == "succeeded"
    assert await servers.job(job_id) is None


# --- somebody else at the address


@asynccontextmanager
async def stranger_on(port: int) -> AsyncIterator[HostileServer]:
    """Listen on *port* as soon as it is free, and refuse everyone, as another user's runtime would."""
    stranger = HostileServer(port)
    stranger.always(reply(401, {}, WWW_Authenticate='Basic realm="another"'))

    async def listen() -> asyncio.Server | None:
        try:
            return await asyncio.start_server(stranger.serve, "127.0.0.1", port)
        except OSError:
            return None

    server = await until(listen, lambda found: found is not None, 30)
    try:
        yield stranger
    finally:
        server.close()
        for conversation in list(stranger.conversations):
            conversation.cancel()
        await server.wait_closed()


@fault("F27")
async def test_whoever_takes_over_the_port_of_an_ended_runtime_is_never_shown_its_password(
    trial: Trial, service: ServiceProcess, servers: Servers, ways: dict[str, Interceptor]
):
    """
    The service cannot see Nomad, the job is stopped outside, and another server takes the port.

    It looks as a sound runtime would that is asked without credentials, so it goes on being called alive; but
    nothing may be sent to it that it could use, whatever the service is asked and even when it is started anew.
    """
    user = f"robbed-{trial.number}"
    before = await service.ensure(user)
    password = await service.password(user)
    port = int((await service.address(user)).rsplit(":", 1)[1])

    async def seen(stranger: HostileServer) -> int:
        return len(stranger.requests)

    async with ways["nomad"].cut():
        await servers.nomad(f"/v1/job/{before['job_id']}", "DELETE")
        await until(lambda: servers.live(before["job_id"]), lambda live: not live)
        async with stranger_on(port) as stranger:
            await until(lambda: seen(stranger), lambda count: count >= 2, 30)
            unknown = await service.until_stack(user, lambda stack: stack["health"] == "unknown", 30)
            asked = await service.call("PUT", path_of(user), {})
            await asyncio.to_thread(service.restart)
            restarted = await seen(stranger)
            await until(lambda: seen(stranger), lambda count: count > restarted, 30)
            shown = [each for each in stranger.requests if "authorization" in each.headers]
    with trial.recovery():
        after = await service.ensure(user)

    assert shown == []
    assert unknown["phase"] == "running"
    assert (asked.status, asked.body["reason"]) == (202, "unknown")
    assert await service.address(user) != f"http://127.0.0.1:{port}"
    assert after["runtime"]["allocation_id"] != before["runtime"]["allocation_id"]
    assert await service.password(user) == password
    await is_well(service, servers, user)
    assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"


@fault("F27")
async def test_an_address_that_consul_lists_for_another_stack_as_well_is_withdrawn_until_that_is_settled(
    trial: Trial, service: ServiceProcess, servers: Servers, fleet: Any
):
    victim, other = fleet[0], fleet[1]
    url = await service.address(FLEET[0])
    port = int(url.rsplit(":", 1)[1])
    # A runtime that is there: what Nomad does not list any more contests nothing.
    zombie = {
        "ID": f"_nomad-task-{other['runtime']['allocation_id']}-zombie",
        "Name": other["job_id"],
        "Address": "127.0.0.1",
        "Port": port,
        "Meta": {"installation": service.installation, "managed_by": "opencode-lifecycle"},
    }

    await servers.consul_write("/v1/agent/service/register", zombie)
    try:
        withdrawn = await until(
            lambda: service.call("GET", f"{path_of(FLEET[0])}/address"),
            lambda answer: answer.status == 409,
            30,
        )
        still = await service.address(FLEET[1])
        why = await service.until_stack(FLEET[0], lambda stack: other["job_id"] in stack["message"], 20)
    finally:
        await servers.consul_write(f"/v1/agent/service/deregister/{zombie['ID']}", None)
    with trial.recovery():
        after = await service.ensure(FLEET[0])

    assert withdrawn.body["code"] == "runtime-not-ready"
    assert why["phase"] == "starting"
    assert still != url
    assert after["runtime"]["allocation_id"] == victim["runtime"]["allocation_id"]
    assert await service.address(FLEET[0]) == url
    for user in FLEET[:2]:
        assert STRANGER not in await log_of(service, user)
