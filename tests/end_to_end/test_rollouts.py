"""
Rollouts over four real runtimes, with an agent at work in one of them.

Their starts cost seconds of CPU, so the tests act on the same four, one release after another, in any order.
"""

import asyncio
import json
from typing import Any

import pytest

from end_to_end.conftest import NewService
from end_to_end.rolling import a_release, begin, end_of, target
from end_to_end.runtimes import Runtime
from end_to_end.servers import status_of
from end_to_end.service_process import ServiceProcess
from opencode_lifecycle.cluster.opencode_package import ensure_opencode
from opencode_lifecycle.shipped import shipped
from opencode_session import ask, open_session

pytestmark = [pytest.mark.servers, pytest.mark.opencode, pytest.mark.timeout(600, func_only=True)]

USERS = ("ro-ann", "ro-ben", "ro-cem", "ro-dot")
OLD, NEW = "1.18.33", "1.18.34"


@pytest.fixture(scope="module")
def service(new_service: NewService, opencode_path, model, tmp_path_factory) -> ServiceProcess:
    """One whose runtimes may be of two published versions, and begin as the older."""
    older = asyncio.run(ensure_opencode(OLD))
    path = str(opencode_path).replace(NEW, "{version}")
    assert path.replace("{version}", OLD) == str(older), "each version has a place of its own"
    managed = tmp_path_factory.mktemp("managed") / "opencode.json"
    instructions = ["{env:OPENCODE_LIVE_DIR}/instructions/AGENTS.md"]
    managed.write_text(json.dumps({**model.configuration(), "instructions": instructions}))
    return new_service(
        opencode_path=path,
        opencode_version=OLD,
        managed_config_file=managed,
        idle_after=1,
        when_stale="report",
        start_deadline=90,
        liveness_interval=5,
        secret_sweep_interval=5,
    )


async def runtime_of(service: ServiceProcess, user: str) -> Runtime:
    return Runtime(await service.address(user), await service.password(user))


async def all_four(service: ServiceProcess) -> dict[str, dict[str, Any]]:
    for user in USERS:
        await service.accept(user)
    return {user: await service.ensure(user) for user in USERS}


async def test_a_prompt_reaches_all_with_the_same_process_and_counts_from_the_next_turn(service, model):
    before = await all_four(service)
    release = await a_release(service, instructions="Always mention the word marzipan.")

    ended = await end_of(service, await begin(service, release))

    assert ended["state"] == "succeeded", ended
    after = {user: await service.stack(user) for user in USERS}
    for user in USERS:
        assert after[user]["runtime"]["allocation_id"] == before[user]["runtime"]["allocation_id"]
        assert after[user]["runtime"]["started_at"] == before[user]["runtime"]["started_at"]
        assert (after[user]["release"], after[user]["migration_state"]) == (release, "current")
        runtime = await runtime_of(service, user)
        await ask(runtime.url, runtime.password, await runtime.directory(), f"Hello from {user}")
        (request,) = [
            each for each in model.requests if each.tools and each.last_text == f"Hello from {user}"
        ]
        assert "marzipan" in request.system


async def test_an_agent_finishes_its_answer_before_its_runtime_moves_and_nobody_waits_for_it(service, model):
    before = await all_four(service)
    busy = await runtime_of(service, USERS[0])
    directory = await busy.directory()
    session = await open_session(busy.url, busy.password, directory)
    hold = model.hold("Count slowly")
    turn = asyncio.create_task(
        ask(busy.url, busy.password, directory, "Count slowly", session=session, seconds=400)
    )
    await asyncio.wait_for(hold.reached.wait(), 60)
    release = await a_release(service, opencode_version=NEW)
    rollout_id = await begin(service, release, canary="0", max_in_flight=4)

    others = USERS[1:]
    for user in others:
        await service.until_stack(
            user, lambda found: found["release"] == release and found["migration_state"] == "current", 240
        )
    waiting = await service.stack(USERS[0])
    hold.release()
    said = await turn
    ended = await end_of(service, rollout_id)

    assert waiting["runtime"]["allocation_id"] == before[USERS[0]]["runtime"]["allocation_id"]
    assert waiting["migration_state"] in {"draining", "queued"}
    assert said == "You said: Count slowly"
    assert ended["state"] == "succeeded", ended
    moved = await service.stack(USERS[0])
    assert moved["runtime"]["opencode_version"] == NEW
    after = await runtime_of(service, USERS[0])
    assert "You said: Count slowly" in await after.said(session)


async def test_a_release_whose_server_never_runs_stops_at_the_canary_and_is_taken_back(service):
    before = await all_four(service)
    sessions = {user: await (await runtime_of(service, user)).sessions() for user in USERS}
    before_it = await target(service)
    release = await a_release(service, template=broken())

    ended = await end_of(service, await begin(service, release), 420)

    assert ended["state"] != "succeeded", ended
    for user in USERS:
        await service.ensure(user)
        assert await (await runtime_of(service, user)).sessions() == sessions[user]
    moved = [
        user
        for user in USERS
        if (await service.stack(user))["runtime"]["allocation_id"] != before[user]["runtime"]["allocation_id"]
    ]
    assert len(moved) <= 1
    assert await target(service) == before_it


def broken() -> str:
    """Return the job template with a server that ends at once."""

    text = shipped("nomad_jobs/opencode-raw-exec.nomad.hcl").read_text()
    return text.replace('var.opencode_path, "serve"', '"/bin/false", "serve"')


async def test_a_password_that_an_administrator_wrote_is_rolled_in_and_the_old_one_is_refused(
    service, servers
):
    first = (await all_four(service))[USERS[3]]
    old = await service.password(USERS[3])
    await servers.vault(
        f"kv/data/opencode/{first['job_id']}",
        "POST",
        {"data": {"password": "of-an-administrator-1234", "env": {}}},
    )
    await service.until_stack(
        USERS[3], lambda found: "secret_version" in [each["facet"] for each in found["staleness"]], 60
    )

    ended = await end_of(service, await begin(service, None, canary="0"))

    assert ended["state"] == "succeeded", ended
    url = await service.address(USERS[3])
    assert await status_of(url, "of-an-administrator-1234") == 200
    assert await status_of(url, old) == 401
