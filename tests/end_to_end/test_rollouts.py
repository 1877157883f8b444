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
from end_to_end.service_process import ServiceProcess, until
from fakes.model_server import model_server
from opencode_lifecycle.cluster.opencode_package import ensure_opencode
from opencode_lifecycle.shipped import shipped
from opencode_session import ask, open_session

pytestmark = [pytest.mark.servers, pytest.mark.opencode, pytest.mark.timeout(600, func_only=True)]

USERS = ("ro-ann", "ro-ben", "ro-cem", "ro-dot")
OLD, NEW = "1.18.33", "1.18.34"
PROMPT = "Say that you are there."


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
        # Slow machines answer probes late, and a runtime that seems to hang is replaced.
        liveness_interval=20,
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


async def test_nobody_is_interrupted_who_answers_waits_for_a_permission_or_holds_a_terminal(service, model):
    """The fourth is idle, moves at once and waits for nobody; each of the others moves when it is done, and not before."""
    before = {user: stack["runtime"]["allocation_id"] for user, stack in (await all_four(service)).items()}
    answers, waits, types, idle = USERS
    answering, waiting, typing = [await runtime_of(service, user) for user in (answers, waits, types)]
    session = await open_session(answering.url, answering.password, await answering.directory())
    hold = model.hold("Count slowly")
    turn = asyncio.create_task(said_to(answering, "Count slowly", session))
    rule = {"permission": "bash", "pattern": "*", "action": "ask"}
    careful = await open_session(waiting.url, waiting.password, await waiting.directory(), permission=[rule])
    model.call_tool("Run something", "bash", command="echo hello", description="Says hello")
    allowed = asyncio.create_task(said_to(waiting, "Run something", careful))
    terminal = await typing.open_terminal()
    await until(lambda: asyncio.sleep(0, hold.reached.is_set()), bool, 180)
    [permission] = await until(lambda: waiting.asked_for(careful), bool, 180)
    release = await a_release(service, opencode_version=NEW)

    rollout_id = await begin(service, release, canary="0", max_in_flight=4)
    await moved(service, idle, release)
    for user in (answers, waits, types):
        stack = await service.until_stack(user, lambda found: found["migration_state"] == "draining", 120)
        assert stack["runtime"]["allocation_id"] == before[user]
    await waiting.allow(permission)
    await moved(service, waits, release)
    await typing.close_terminal(terminal)
    await moved(service, types, release)
    still = await service.stack(answers)
    hold.release()
    ended = await end_of(service, rollout_id)

    assert (still["runtime"]["allocation_id"], still["migration_state"]) == (before[answers], "draining")
    assert (await turn, await allowed) == ("You said: Count slowly", "Done.")
    assert ended["state"] == "succeeded", ended
    assert (await service.stack(answers))["runtime"]["opencode_version"] == NEW
    assert "You said: Count slowly" in await (await runtime_of(service, answers)).said(session)
    assert "Done." in await (await runtime_of(service, waits)).said(careful)


async def said_to(runtime: Runtime, text: str, session: str) -> str:
    directory = await runtime.directory()
    return await ask(runtime.url, runtime.password, directory, text, session=session, seconds=500)


async def moved(service: ServiceProcess, user: str, release: str) -> None:
    await service.until_stack(
        user, lambda found: found["release"] == release and found["migration_state"] == "current", 240
    )


async def test_a_release_that_is_healthy_and_answers_no_prompt_stops_at_the_canary_and_is_taken_back(service):
    """Its model answers each request with 500. OpenCode tries again and again, so that the prompt has no answer in time."""
    before = await all_four(service)
    sessions = {user: await (await runtime_of(service, user)).sessions() for user in USERS}
    before_it = await target(service)
    async with model_server() as broken:
        broken.refuse(500)
        template = (
            shipped("nomad_jobs/opencode-raw-exec.nomad.hcl").read_text() + "# as it is, and started anew\n"
        )
        release = await a_release(service, template=template, managed_config=broken.configuration())

        ended = await end_of(service, await begin(service, release, gate={"prompt": PROMPT}), 420)
        asked = [each.last_text for each in broken.requests]

    assert PROMPT in asked
    assert (ended["state"], ended["reason"]) == ("failed", "canary_failed"), ended
    [canary] = [each["user_id"] for each in ended["members"]["items"] if each["wave"] == 0]
    assert ended["message"].startswith(f"1 stack failed: {canary} (it did not answer the prompt"), ended
    assert ended["counts"] == {"taken_back": 1, "left_out": 3}
    assert await target(service) == before_it
    for user in USERS:
        stack, runtime = await service.ensure(user), await runtime_of(service, user)
        assert (stack["release"], stack["wanted_release"]) == (before[user]["release"],) * 2
        assert await runtime.sessions() == sessions[user]
        is_same = stack["runtime"]["allocation_id"] == before[user]["runtime"]["allocation_id"]
        assert is_same is (user != canary)
    runtime = await runtime_of(service, canary)
    session = await open_session(runtime.url, runtime.password, await runtime.directory())
    assert await said_to(runtime, "Hello again", session) == "You said: Hello again"


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
