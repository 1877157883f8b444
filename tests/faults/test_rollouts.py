"""
Rollouts in the middle of a wave, when the service that drives them is killed or frozen, or a neighbour is away.

What must hold is the same each time: nobody is moved twice, nobody is forgotten, never are more in flight than may be, and the
rollout comes to its end by itself.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from cluster_fixture import RealCluster
from end_to_end.conftest import NewService
from end_to_end.outages import frozen, sealed
from end_to_end.rolling import Placed, a_release, begin, count, end_of, placed, rollout_of, watched
from end_to_end.servers import Servers, both
from end_to_end.service_process import ServiceProcess, until
from faults.crash_points import CrashPoints
from faults.interceptor import Interceptor, addresses
from faults.matrix import fault
from faults.trials import Trial
from faults.using import events_of, in_use
from postgresql_fixture import Postgresql

pytestmark = [
    pytest.mark.servers,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(400, func_only=True),
]

CLAIM_SECONDS = 9
MOST_IN_FLIGHT = 2
PACE = {"canary": "1", "waves": ["2"], "max_in_flight": MOST_IN_FLIGHT, "soak": "0s"}
MOVED_ONCE = Placed(versions=2, allocations=2)
"""What Nomad has of a job that was registered, and replaced by one more registration."""


async def running(service: ServiceProcess, users: Sequence[str]) -> list[str]:
    """Have the users' runtimes run, and return the names of their jobs."""
    return [stack["job_id"] for stack in await both(*(service.ensure(user) for user in users))]


async def check_that_each_moved_once(
    servers: Servers, service: ServiceProcess, users: Sequence[str], release: str, rollout: dict[str, Any]
) -> None:
    assert (rollout["state"], rollout["counts"]) == ("succeeded", {"migrated": len(users)}), rollout
    for user in users:
        stack = await service.stack(user)
        assert (stack["release"], stack["phase"], stack["migration_state"]) == (release, "running", "current")
        assert await placed(servers, stack["job_id"]) == MOVED_ONCE, (user, await events_of(service, user))
        assert len(await servers.live(stack["job_id"])) == 1, user
        kinds = [each["kind"] for each in await events_of(service, user)]
        # One that was not idle for long gave its place to another, and was ordered anew.
        assert kinds.count("stack.ordered") == kinds.count("stack.released") + 1, (user, kinds)


async def remove(service: ServiceProcess, users: Sequence[str]) -> None:
    ended = await both(*(service.do(user, "delete", workspace="delete") for user in users))
    assert {each["state"] for each in ended} == {"succeeded"}


# --- the only one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(new_service: NewService, ways: dict[str, Interceptor]) -> AsyncIterator[ServiceProcess]:
    service = await asyncio.to_thread(
        new_service,
        **addresses(ways),
        when_stale="report",
        idle_after=1,
        resync_interval=1,
        observation_max_age=4,
        upstream_timeout=3,
    )
    yield service
    await asyncio.to_thread(service.kill)


MOMENTS: Sequence[tuple[str, Callable[[dict[str, Any]], bool]]] = [
    ("begun", lambda rollout: True),
    ("its canary is in flight", lambda rollout: count(rollout, "ordered") == 1 or rollout["wave"] > 0),
    ("its first wave is in flight", lambda rollout: rollout["wave"] > 0 and count(rollout, "ordered") > 0),
    ("some of it is done", lambda rollout: count(rollout, "migrated") >= 3),
]


@fault("rollout")
async def test_killed_at_each_moment_of_a_rollout_the_service_goes_on_where_it_was(
    trial: Trial, service: ServiceProcess, servers: Servers, ways: dict[str, Interceptor]
):
    users = [f"rolled-{trial.number}-{number}" for number in range(5)]
    jobs = await running(service, users)
    release = await a_release(service, image=f"image-{trial.number}")
    points = CrashPoints(service, trial.random, once_in_a_life=False)
    for way in ways.values():
        way.meddler = points

    async with watched(servers, [service], jobs) as seen, points.reviving():
        async with points.during("rollout"):
            rollout_id = await begin(service, release, **PACE)
        for name, has_come in MOMENTS:
            await until(lambda: insisted(service, rollout_id), has_come, 120)
            await points.kill(name)
        with trial.recovery():
            rollout = await until(
                lambda: insisted(service, rollout_id), lambda found: found["finished_at"] is not None, 200
            )
        points.end()

    trial.measured["deaths in a rollout"] = len(points.points)
    await check_that_each_moved_once(servers, service, users, release, rollout)
    assert max(seen.running.values()) == 1, points.points
    assert 0 < seen.ordered <= MOST_IN_FLIGHT, points.points
    await remove(service, users)


async def insisted(service: ServiceProcess, rollout_id: str) -> dict[str, Any]:
    """Ask for the rollout until it is answered: the service may be dead at the moment."""
    async with asyncio.timeout(90):
        while True:
            try:
                return await rollout_of(service, rollout_id)
            except (OSError, ConnectionError):
                await asyncio.sleep(0.1)


OUTAGES = [
    pytest.param(frozen, "nomad", id="nomad frozen", marks=fault("F9")),
    pytest.param(sealed, "vault", id="vault sealed", marks=fault("F29")),
]


@pytest.mark.parametrize(("outage", "server"), OUTAGES)
async def test_a_rollout_waits_for_a_server_that_is_away_says_why_and_goes_on(
    trial: Trial, service: ServiceProcess, cluster: RealCluster, outage: Any, server: str
):
    servers = Servers(cluster)
    users = [f"waits-{server}-{trial.number}-{number}" for number in range(3)]
    await running(service, users)
    release = await a_release(service, image=f"{server}-{trial.number}")
    rollout_id = await begin(service, release, **PACE | {"max_in_flight": 1, "waves": ["1"]})
    begun = await until(lambda: rollout_of(service, rollout_id), lambda found: count(found, "ordered") > 0)
    first = next(each["user_id"] for each in begun["members"]["items"] if each["state"] == "ordered")
    others = [user for user in users if user != first]
    passwords = await both(*(service.password(user) for user in others))
    urls = await both(*(service.address(user) for user in others))

    async with in_use(urls[0], passwords[0]) as one, in_use(urls[1], passwords[1]) as other:
        async with outage(cluster, server):
            why = f"{server.capitalize()}, which the service cannot reach"
            await until(lambda: said(service, "explain", first), lambda text: why in text)
            watched = await said(service, "rollout", "watch", "--wait", "0s")
            during = await rollout_of(service, rollout_id)
        failures = [*one.failures, *other.failures]
    with trial.recovery():
        rollout = await end_of(service, rollout_id)

    assert why in watched
    assert (during["state"], count(during, "failed")) == ("running", 0)
    assert failures == []
    await check_that_each_moved_once(servers, service, users, release, rollout)
    await remove(service, users)


async def said(service: ServiceProcess, *arguments: str) -> str:
    return (await asyncio.to_thread(service.command, *arguments)).stdout


# --- one of two


@pytest.fixture
def pair(
    new_service: NewService, postgresql: Postgresql, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServiceProcess, ServiceProcess]]:
    first = new_service(
        database_url=postgresql.new_database(),
        replicas=2,
        when_stale="report",
        idle_after=1,
        resync_interval=1,
        observation_max_age=6,
        upstream_timeout=3,
        claim_lifetime=CLAIM_SECONDS,
    )
    second = first.replica(tmp_path_factory.mktemp("replica"))
    second.start()
    yield first, second
    for each in (first, second):
        if each.process is not None:
            each.process.send_signal(signal.SIGCONT)
        each.kill()


def drove_at(service: ServiceProcess) -> str:
    """Return when the service last began to drive a rollout, as its log says."""
    lines = [line for line in service.log.splitlines() if '"driving a rollout"' in line]
    return json.loads(lines[-1])["timestamp"] if lines else ""


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "how",
    [pytest.param("killed", marks=fault("rollout")), pytest.param("frozen", marks=fault("F2"))],
)
async def test_when_the_replica_that_drives_is_gone_the_other_goes_on_and_nothing_happens_twice(
    trial: Trial, pair: tuple[ServiceProcess, ServiceProcess], servers: Servers, how: str
):
    users = [f"two-{how}-{trial.number}-{number}" for number in range(6)]
    jobs = await running(pair[0], users)
    release = await a_release(pair[0], image=f"{how}-{trial.number}")

    async with watched(servers, pair, jobs) as seen:
        rollout_id = await begin(pair[0], release, **PACE)
        await until(
            lambda: rollout_of(pair[1], rollout_id),
            lambda found: count(found, "migrated") > 0 and count(found, "ordered") > 0,
        )
        other, leader = sorted(pair, key=drove_at)
        began, process = drove_at(leader), leader.process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        with trial.recovery():
            await until(lambda: asyncio.sleep(0, drove_at(other) > began), bool, 60)
        if how == "frozen":
            # It wakes up in the middle of whatever it was about to do.
            await until(lambda: rollout_of(other, rollout_id), lambda found: count(found, "ordered") > 0)
            os.kill(process.pid, signal.SIGCONT)
        rollout = await end_of(other, rollout_id)

    await check_that_each_moved_once(servers, other, users, release, rollout)
    assert max(seen.running.values()) == 1
    assert 0 < seen.ordered <= MOST_IN_FLIGHT
    await remove(other, users)
