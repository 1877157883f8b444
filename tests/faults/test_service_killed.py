"""The service killed at each effect of a stack's life, on the real servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from end_to_end.conftest import NewService
from end_to_end.servers import Servers, both, status_of
from end_to_end.service_process import FINISHED, ServiceProcess, path_of, until
from faults.crash_points import CrashPoints
from faults.interceptor import Interceptor, addresses
from faults.matrix import fault
from faults.trials import Trial
from faults.using import nothing_is_left, reconciled

pytestmark = [
    pytest.mark.servers,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300, func_only=True),
]

LIFE = ("ensure", "recreate", "rotate-password", "stop", "start", "delete")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(new_service: NewService, ways: dict[str, Interceptor]) -> AsyncIterator[ServiceProcess]:
    service = await asyncio.to_thread(
        new_service, **addresses(ways), resync_interval=1, observation_max_age=4, upstream_timeout=3
    )
    yield service
    await asyncio.to_thread(service.kill)


async def insist(
    service: ServiceProcess, method: str, path: str, *, role: str = "operator", **query: str
) -> Any:
    """Ask until it is answered: the service may be dead at the moment. Only for what may be asked twice."""

    async def ask() -> Any:
        try:
            answer = await service.call(method, path, role=role, **query)
        except (aiohttp.ClientError, OSError):
            return None
        return answer.body if answer.status == 200 else None

    return await until(ask, lambda body: body is not None)


@asynccontextmanager
async def counting(servers: Servers, job_id: str) -> AsyncIterator[list[int]]:
    """Count the live allocations of the job, over and over."""
    counts: list[int] = []

    async def count() -> None:
        while True:
            counts.append(len(await servers.live(job_id)))
            await asyncio.sleep(0.05)

    counter = asyncio.create_task(count())
    try:
        yield counts
    finally:
        counter.cancel()
        await asyncio.gather(counter, return_exceptions=True)


async def live_through(
    service: ServiceProcess, points: CrashPoints, user: str, operation: str
) -> dict[str, Any]:
    """Ask for *operation*, be killed at each of its effects, and return how it ended."""
    async with points.during(operation):
        if operation == "ensure":
            answer = await service.call("PUT", path_of(user), {})
            operation_id = answer.body["last_operation"]
        elif operation == "delete":
            answer = await service.call("DELETE", path_of(user), role="operator", workspace="delete")
            operation_id = answer.body["id"]
        else:
            answer = await service.call("POST", f"{path_of(user)}/{operation}", role="operator")
            operation_id = answer.body["id"]
        assert answer.status == 202, answer.body
    ended = await until(
        lambda: insist(service, "GET", f"/v1/operations/{operation_id}"),
        lambda found: found["state"] in FINISHED,
        120,
    )
    points.end()
    return ended


@fault("F1")
async def test_killed_at_each_effect_of_a_stacks_life_the_service_leads_it_to_its_end(
    trial: Trial, service: ServiceProcess, servers: Servers, ways: dict[str, Interceptor]
):
    user = f"killed-{trial.number}"
    job_id = service.job_id(user)
    points = CrashPoints(service, trial.random, once_in_a_life=trial.of == 1)
    for way in ways.values():
        way.meddler = points

    async with points.reviving(), counting(servers, job_id) as counts:
        for operation in LIFE:
            with trial.recovery():
                ended = await live_through(service, points, user, operation)
            assert ended["state"] == "succeeded", (points.points, ended)
            if operation == "ensure":
                first = await servers.allocations(job_id)
                assert len(first) == 1, points.points
                assert (await servers.job(job_id))["Version"] == 0
                assert (await servers.secret_metadata(job_id))["current_version"] == 1
                old = await service.password(user)
            elif operation == "recreate":
                assert len(await servers.allocations(job_id)) == 2, points.points
            elif operation == "rotate-password":
                assert (await servers.secret_metadata(job_id))["current_version"] == 2, points.points
                url, new = await service.address(user), await service.password(user)
                assert new != old
                assert await both(status_of(url, new), status_of(url, old), status_of(url)) == [200, 401, 401]
            elif operation == "stop":
                assert await servers.live(job_id) == [], points.points
        left = await reconciled(service)

    trial.measured["crash points"] = len(points.points)
    assert max(counts) == 1, points.points
    assert await nothing_is_left(servers, job_id), points.points
    assert (await service.call("GET", path_of(user))).status == 404
    assert user not in [each["user_id"] for each in left["stacks"]], points.points
    assert job_id not in [each["orphan"]["job_id"] for each in left["orphans"]], points.points
    effects = {point.partition(" ")[2].partition(" ")[2] for point in points.points}
    assert len(effects) >= 10, points.points


def bytes_of(service: ServiceProcess, method: str, path: str, key: str, body: bytes) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: 127.0.0.1:{service.port}",
        f"Authorization: Bearer {service.tokens['backend']}",
        f"Idempotency-Key: {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def send_and_hang_up(service: ServiceProcess, data: bytes) -> None:
    """Send *data* and reset the connection, without waiting for anything."""
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(data)
    await writer.drain()
    writer.transport.abort()


async def repeat(
    service: ServiceProcess, method: str, path: str, key: str, body: Any
) -> tuple[int, Any, bool]:
    """Send it again with its key until it is not in flight any more; return status, body and whether it was a replay."""

    async def ask() -> tuple[int, Any, bool]:
        async with (
            service.client() as client,
            client.request(method, path, json=body, headers={"Idempotency-Key": key}) as response,
        ):
            return response.status, await response.json(), "Idempotent-Replayed" in response.headers

    return await until(ask, lambda answer: answer[0] != 409, 30)


@fault("F7")
@pytest.mark.parametrize("cut", ["after the request line", "amid the body", "before the answer"])
async def test_a_caller_who_hangs_up_asked_for_all_of_it_or_for_nothing(
    trial: Trial, service: ServiceProcess, servers: Servers, cut: str
):
    name = cut.replace(" ", "-")
    user, key = f"hangs-up-{name}-{trial.number}", f"{name}-{trial.number}"
    body = {"labels": {"asked": "once"}}
    whole = bytes_of(service, "PUT", path_of(user), key, b'{"labels": {"asked": "once"}}')
    end = {
        "after the request line": whole.index(b"\r\n") + 2,
        "amid the body": len(whole) - 10,
        "before the answer": len(whole),
    }[cut]

    await send_and_hang_up(service, whole[:end])
    first = await repeat(service, "PUT", path_of(user), key, body)
    again = await repeat(service, "PUT", path_of(user), key, body)
    with trial.recovery():
        stack = await service.ensure(user, body)

    assert first[0] == again[0] == 202
    assert again[2], "the second repetition is a replay"
    if end < len(whole):
        assert not first[2], "what was cut off never began"
    assert first[1]["last_operation"] == again[1]["last_operation"] == stack["last_operation"]
    assert (stack["generation"], stack["labels"]) == (1, {"asked": "once"})
    assert (await servers.job(stack["job_id"]))["Version"] == 0
    assert len(await servers.allocations(stack["job_id"])) == 1
    assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"


@fault("F7")
async def test_a_recreate_whose_caller_hung_up_happens_once(
    trial: Trial, service: ServiceProcess, servers: Servers
):
    user, key = f"recreated-once-{trial.number}", f"recreate-{trial.number}"
    before = await service.ensure(user)
    path = f"{path_of(user)}/recreate"

    await send_and_hang_up(service, bytes_of(service, "POST", path, key, b""))
    first = await repeat(service, "POST", path, key, None)
    again = await repeat(service, "POST", path, key, None)
    with trial.recovery():
        ended = await service.outcome(first[1]["id"])

    assert (first[0], again[0]) == (202, 202)
    assert first[1]["id"] == again[1]["id"]
    assert ended["state"] == "succeeded"
    after = await service.stack(user)
    assert after["generation"] == before["generation"] + 1
    assert len(await servers.allocations(before["job_id"])) == 2
    assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"
