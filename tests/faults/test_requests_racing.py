"""Two replicas of the service on one PostgreSQL, asked for contradictory things at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from end_to_end.conftest import NewService
from end_to_end.servers import Servers, both, status_of
from end_to_end.service_process import ServiceProcess, path_of, until
from faults.matrix import fault
from faults.trials import Trial
from faults.using import nothing_is_left
from postgresql_fixture import Postgresql

pytestmark = [pytest.mark.servers, pytest.mark.postgresql, pytest.mark.timeout(240, func_only=True)]

ENSURES = 50
RACERS = 6
REQUESTS_EACH = 6
WISHES = ("ensure", "recreate", "stop", "delete")


@dataclass(frozen=True, slots=True)
class Pair:
    first: ServiceProcess
    second: ServiceProcess

    def __iter__(self) -> Iterator[ServiceProcess]:
        return iter((self.first, self.second))


@pytest.fixture(scope="module")
def pair(new_service: NewService, postgresql: Postgresql, tmp_path_factory) -> Iterator[Pair]:
    first = new_service(
        database_url=postgresql.new_database(),
        replicas=2,
        resync_interval=1,
        observation_max_age=6,
        upstream_timeout=3,
        claim_lifetime=9,
    )
    second = first.replica(tmp_path_factory.mktemp("replica"))
    second.start()
    yield Pair(first, second)
    second.kill()


@fault("F5")
async def test_fifty_ensures_at_once_on_two_replicas_make_one_job_and_give_one_answer(
    trial: Trial, pair: Pair, servers: Servers
):
    user = f"wanted-{trial.number}"
    replicas = [trial.random.choice(list(pair)) for _ in range(ENSURES)]

    with trial.recovery():
        answers = await both(*(each.call("PUT", path_of(user), {}) for each in replicas))
        stacks = await both(*(each.ensure(user) for each in pair))

    job_id = stacks[0]["job_id"]
    assert {each.status for each in answers} <= {200, 202}
    assert len({each.body["last_operation"] for each in answers}) == 1
    shown = [{name: value for name, value in each.items() if name != "observed_at"} for each in stacks]
    assert shown[0] == shown[1]
    assert shown[0]["generation"] == 1
    assert len({await each.address(user) for each in pair}) == 1
    passwords = {await each.password(user) for each in pair}
    assert len(passwords) == 1
    assert await status_of(await pair.first.address(user), passwords.pop()) == 200
    assert (await servers.job(job_id))["Version"] == 0
    assert len(await servers.allocations(job_id)) == 1
    assert (await servers.secret_metadata(job_id))["current_version"] == 1
    assert (await pair.second.do(user, "delete", workspace="delete"))["state"] == "succeeded"


async def wish(service: ServiceProcess, user: str, what: str) -> int:
    path = path_of(user)
    if what == "ensure":
        answer = await service.call("PUT", path, {})
    elif what == "delete":
        answer = await service.call("DELETE", path, role="operator", workspace="delete")
    else:
        answer = await service.call("POST", f"{path}/{what}", role="operator")
    return answer.status


async def accepted_wishes(service: ServiceProcess, users: list[str]) -> dict[str, list[str]]:
    """
    Return for each user which wishes were accepted, in their order, by the history that was written with them.

    Generations count within one life of a stack, which ends when its deletion is through.
    """
    lives = dict.fromkeys(users, 0)
    found: dict[str, list[tuple[int, int, str]]] = {user: [] for user in users}
    cursor: dict[str, str] = {}
    while True:
        page = (await service.call("GET", "/v1/events", role="operator", limit="500", **cursor)).body
        for event in page["items"]:
            user, verb = event["user_id"], event["kind"].removeprefix("stack.")
            if user in lives and verb in WISHES:
                found[user].append((lives[user], event["generation"], verb))
            elif user in lives and verb == "deleted":
                lives[user] += 1
        if page["next_cursor"] is None:
            return {user: [verb for _, _, verb in sorted(wishes)] for user, wishes in found.items()}
        cursor = {"cursor": page["next_cursor"]}


def end_of(wishes: list[str]) -> str:
    """Return where a stack that was running must end. A stop takes back the new life that a deleted one was given."""
    deleted, end = False, "running"
    for verb in wishes:
        deleted = deleted or verb == "delete"
        if verb == "stop":
            end = "gone" if deleted else "stopped"
        else:
            end = "gone" if verb == "delete" else "running"
    return end


async def settled(service: ServiceProcess, user: str) -> dict[str, Any] | None:
    """Return the stack when everything that was asked for it is done, None when it is gone."""

    async def read() -> Any:
        return await service.call("GET", path_of(user))

    def is_done(answer: Any) -> bool:
        stack = answer.body
        return answer.status == 404 or (
            stack["desired"] == stack["phase"] and stack["observed_generation"] == stack["generation"]
        )

    answer = await until(read, is_done, 120)
    return None if answer.status == 404 else answer.body


@fault("F6")
async def test_of_wishes_that_contradict_each_other_the_last_one_accepted_comes_about(
    trial: Trial, pair: Pair, servers: Servers
):
    users = [f"racer-{trial.number}-{number}" for number in range(RACERS)]
    await both(*(pair.first.ensure(user) for user in users))
    race = [(user, what) for user in users for what in trial.random.choices(WISHES, k=REQUESTS_EACH)]
    trial.random.shuffle(race)

    statuses = await both(*(wish(trial.random.choice(list(pair)), user, what) for user, what in race))
    with trial.recovery():
        ends = dict(zip(users, await both(*(settled(pair.second, user) for user in users)), strict=True))
    wishes = await accepted_wishes(pair.first, users)

    assert set(statuses) <= {200, 202, 404}, race
    for user in users:
        end, job_id = ends[user], pair.first.job_id(user)
        wanted = end_of(wishes[user])
        assert ("gone" if end is None else end["phase"]) == wanted, (user, wishes[user])
        assert len(await servers.live(job_id)) == (1 if wanted == "running" else 0), (user, wishes[user])
        if wanted == "gone":
            assert await nothing_is_left(servers, job_id), (user, wishes[user])
    deleted = [user for user, end in ends.items() if end is None]
    left = [user for user in users if user not in deleted]
    assert {each["state"] for each in await both(*(remove(pair.first, user) for user in left))} <= {
        "succeeded"
    }
    for user in users:
        assert await settled(pair.second, user) is None
        assert await nothing_is_left(servers, pair.first.job_id(user)), user


async def remove(service: ServiceProcess, user: str) -> dict[str, Any]:
    return await service.do(user, "delete", workspace="delete")
