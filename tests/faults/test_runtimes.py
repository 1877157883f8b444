"""Runtimes that misbehave, each a real process under the real Nomad."""

import asyncio
import json
import signal
from typing import Any

import pytest

from end_to_end.conftest import NewService
from end_to_end.runtimes import Runtime, signal_runtime
from end_to_end.servers import Servers, both, status_of
from end_to_end.service_process import ServiceProcess, path_of, until
from end_to_end.stub_opencode import REFUSED
from end_to_end.templates import RESTARTED_ONCE, changed_template
from faults.matrix import fault
from faults.trials import Trial
from faults.using import events_of, reconciled

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180, func_only=True)]

SICK = ("missing", "unhealthy", "hangs", "resets")
OPEN = "open_without_password"
EXIT_CODE = "137"
"""Of what SIGKILL ended, as shells and Nomad count it."""
MORE_THAN_A_WEDGE = 8
"""Probes; after six unanswered ones a runtime is replaced."""


@pytest.fixture(scope="module")
def patient(new_service: NewService) -> ServiceProcess:
    """Give a service that gives up a start soon, and looks at what runs often."""
    return new_service(
        start_deadline=10,
        resync_interval=1,
        observation_max_age=5,
        liveness_interval=1,
        upstream_timeout=3,
    )


@pytest.fixture
def service(patient: ServiceProcess) -> ServiceProcess:
    """Give the same, with a program that is sound until the test says otherwise."""
    patient.program.behave("sound")
    return patient


async def published_addresses(service: ServiceProcess, user: str, found: list[str]) -> None:
    """Ask for the address over and over, as an eager backend would, and note every one that is given."""
    while True:
        answer = await service.call("GET", f"{path_of(user)}/address")
        if answer.status == 200:
            found.append(answer.body["url"])
        await asyncio.sleep(0.05)


async def start_as(service: ServiceProcess, servers: Servers, user: str, manner: str) -> dict[str, Any]:
    """Ask for a stack whose program is in *manner*, and return it when the program was started."""
    service.program.behave(manner)
    stack = await service.accept(user)
    await until(
        lambda: servers.live(stack["job_id"]),
        lambda live: [each["ClientStatus"] for each in live] == ["running"],
    )
    return stack


@fault("F23")
async def test_a_runtime_that_never_gets_healthy_fails_at_the_deadline_and_is_never_published(
    trial: Trial, service: ServiceProcess, servers: Servers
):
    """Each kind of sickness at the same time, since each takes the whole deadline."""
    users = {manner: f"{manner}-{trial.number}" for manner in SICK}
    published: list[str] = []
    asking = [asyncio.create_task(published_addresses(service, user, published)) for user in users.values()]

    stacks = {manner: await start_as(service, servers, user, manner) for manner, user in users.items()}
    ended = {
        manner: await service.outcome(stack["last_operation"], seconds=60) for manner, stack in stacks.items()
    }
    while_failed = await both(*(service.call("GET", f"{path_of(user)}/address") for user in users.values()))
    for each in asking:
        each.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    service.program.behave("sound")
    stopped = await both(*(service.do(user, "stop") for user in users.values()))
    with trial.recovery():
        recovered = await both(*(service.ensure(user) for user in users.values()))

    assert {manner: (each["state"], each["reason"]) for manner, each in ended.items()} == dict.fromkeys(
        SICK, ("failed", "never_healthy")
    )
    assert all(each["message"] for each in ended.values())
    assert {each.status for each in while_failed} == {409}
    assert published == []
    assert {each["state"] for each in stopped} == {"succeeded"}
    assert {each["phase"] for each in recovered} == {"running"}
    for user in users.values():
        assert len(await servers.live(service.job_id(user))) == 1
    assert {each["state"] for each in await both(*(remove(service, user) for user in users.values()))} == {
        "succeeded"
    }


async def remove(service: ServiceProcess, user: str) -> dict[str, Any]:
    return await service.do(user, "delete", workspace="delete")


async def told_to_operators(service: ServiceProcess, user: str) -> dict[str, Any]:
    """
    Return what each place says of the user's stack where an operator, or an alert of theirs, would look.

    There is no standing condition of it: those are about the whole, and hold back work on every other stack.
    """
    history = [each for each in await events_of(service, user) if each["kind"] == "phase.failed"]
    listed = await service.call("GET", "/v1/stacks", role="operator", reason=OPEN)
    metrics = (await service.call("GET", "/metrics")).raw.decode()
    series = f'opencode_lifecycle_stacks_by_reason{{reason="{OPEN}"}}'
    lines = [json.loads(line) for line in service.log.splitlines() if OPEN in line]
    doctor = await asyncio.to_thread(service.command, "doctor")
    return {
        "history": history[-1]["data"]["reason"],
        "list": [each["reason"] for each in listed.body["items"] if each["user_id"] == user],
        "log": next(line["level"] for line in lines if line["job_id"] == service.job_id(user)),
        "metrics": any(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(series)),
        "doctor": f"{user} ({OPEN})" in doctor.stdout,
    }


@fault("F26")
async def test_a_runtime_that_is_open_is_stopped_at_once_never_published_and_not_started_again_by_itself(
    trial: Trial, service: ServiceProcess, servers: Servers
):
    user = f"open-{trial.number}"
    job_id = service.job_id(user)
    published: list[str] = []
    asking = asyncio.create_task(published_addresses(service, user, published))
    service.program.behave("open")

    stack = await service.accept(user)
    ended = await service.outcome(stack["last_operation"])
    await until(lambda: servers.live(job_id), lambda live: not live, 20)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    credentials = await service.call("POST", f"{path_of(user)}/credentials")
    told = await told_to_operators(service, user)
    placed = {each["ID"] for each in await servers.allocations(job_id)}
    await asyncio.to_thread(service.restart)
    planned = await reconciled(service, dry_run=False)
    after_restart = await service.stack(user)
    placed_after = {each["ID"] for each in await servers.allocations(job_id)}
    service.program.behave("sound")
    with trial.recovery():
        recovered = await service.do(user, "recover")

    assert (ended["state"], ended["reason"]) == ("failed", "open_without_password")
    assert published == []
    assert (credentials.status, credentials.body["code"]) == (409, "runtime-not-ready")
    assert told == {
        "history": "open_without_password",
        "list": ["open_without_password"],
        "log": "warning",
        "metrics": True,
        "doctor": True,
    }
    assert (after_restart["phase"], after_restart["reason"]) == ("failed", "open_without_password")
    assert user not in [each["user_id"] for each in planned["stacks"]]
    assert placed_after == placed
    assert recovered["state"] == "succeeded"
    url, password = await service.address(user), await service.password(user)
    assert await both(status_of(url, password), status_of(url)) == [200, 401]
    assert (await remove(service, user))["state"] == "succeeded"


@fault("F25")
async def test_a_frozen_runtime_is_found_within_three_probes_and_replaced_once(
    trial: Trial, service: ServiceProcess, servers: Servers
):
    """The one that replaces it is frozen as well: what a replacement does not cure is a person's to look at."""
    user = f"frozen-{trial.number}"
    before, _ = await both(service.ensure(user), service.ensure("neighbour"))
    job_id = before["job_id"]

    signal_runtime(await service.address(user), signal.SIGSTOP)
    with trial.recovery():
        after = await service.until_stack(user, is_another(before), 90)
    told = {each["kind"]: each["data"] for each in await events_of(service, user)}
    signal_runtime(await service.address(user), signal.SIGSTOP)
    await service.until_stack(user, lambda stack: stack["health"] == "unresponsive", 60)
    await until_probed(service, "neighbour", MORE_THAN_A_WEDGE)
    planned = await reconciled(service, dry_run=False)
    still = await service.stack(user)

    assert told["health.unresponsive"] == {"unanswered_probes": 3}
    assert told["phase.stopping"]["reason"] == "unresponsive"
    assert await service.password(user)
    assert after["generation"] == before["generation"]
    assert after["health"] == "healthy"
    assert still["runtime"]["allocation_id"] == after["runtime"]["allocation_id"]
    assert user not in [each["user_id"] for each in planned["stacks"]]
    assert len(await servers.allocations(job_id)) == 2
    assert (await remove(service, user))["state"] == "succeeded"


async def until_probed(service: ServiceProcess, user: str, times: int) -> None:
    """Wait until the user's runtime was looked at so many times more, and with it every other one."""
    runtime = Runtime(await service.address(user), await service.password(user))

    async def refused() -> int:
        return (await runtime.get(REFUSED))["refused"]

    already = await refused()
    await until(refused, lambda count: count >= already + times)


def is_another(before: dict[str, Any]) -> Any:
    def holds(stack: dict[str, Any]) -> bool:
        runtime = stack["runtime"]
        is_new = runtime is not None and runtime["allocation_id"] != before["runtime"]["allocation_id"]
        return is_new and stack["health"] == "healthy"

    return holds


@pytest.fixture(scope="module")
def crashing(new_service: NewService, tmp_path_factory: pytest.TempPathFactory) -> ServiceProcess:
    """Give a service whose tasks are restarted once in their place, and soon."""
    template = changed_template(tmp_path_factory.mktemp("template"), RESTARTED_ONCE)
    return new_service(job_template=template, resync_interval=1, observation_max_age=5, liveness_interval=1)


@fault("crash")
async def test_a_runtime_that_is_killed_until_nomad_restarts_it_no_more_is_a_crash_loop_until_another_is_proven(
    trial: Trial, crashing: ServiceProcess, servers: Servers
):
    user = f"crashes-{trial.number}"
    before = await crashing.ensure(user)
    shown = []

    for restarts in (1, 0):
        allocation = (await crashing.stack(user))["runtime"]["allocation_id"]
        signal_runtime(await crashing.address(user), signal.SIGKILL)
        shown.append(await crashing.until_stack(user, lambda stack: stack["reason"] == "crash_loop", 30))
        refused = await crashing.call("GET", f"{path_of(user)}/address")
        with trial.recovery():
            after = await crashing.until_stack(user, lambda stack: stack["health"] == "healthy", 60)
        assert (refused.status, refused.body["code"]) == (409, "runtime-not-ready")
        assert after["runtime"]["restarts"] == restarts
        assert (after["runtime"]["allocation_id"] == allocation) is (restarts == 1)

    assert [each["phase"] for each in shown] == ["starting", "starting"]
    assert all(EXIT_CODE in each["message"] for each in shown), [each["message"] for each in shown]
    [ended] = [
        each for each in await servers.allocations(before["job_id"]) if each["ClientStatus"] == "failed"
    ]
    assert ended["ID"] == before["runtime"]["allocation_id"]
    assert (after["reason"], after["generation"]) == (None, before["generation"])
    assert (await crashing.do(user, "delete", workspace="delete"))["state"] == "succeeded"
