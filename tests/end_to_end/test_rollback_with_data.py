"""
Rollouts from one published version of OpenCode to another that migrates its database, and back: the data goes with its version.

Their starts cost seconds of CPU, so the tests act on the same runtimes, each on two of its own.
"""

import asyncio
import json
from typing import Any

import pytest

from end_to_end.conftest import NewService
from end_to_end.runtimes import Runtime
from end_to_end.service_process import ServiceProcess, until
from opencode_lifecycle.cluster.opencode_package import ensure_opencode
from opencode_session import ask

pytestmark = [pytest.mark.servers, pytest.mark.opencode, pytest.mark.timeout(900, func_only=True)]

OLD, NEW = "1.17.0", "1.18.34"
"""Its database has 32 migrations, and 38; the older one fails at the first new session on the data of the newer."""
AT_ONCE = {"canary": "0", "waves": ["100%"], "max_in_flight": 2, "soak": "0s"}
ENDED = {"succeeded", "failed", "aborted", "paused", "rolled_back"}
OF_THE_OLD, OF_THE_NEW = "Asked of the old.", "Asked of the new."


@pytest.fixture(scope="module")
def service(new_service: NewService, opencode_path, model, tmp_path_factory) -> ServiceProcess:
    """One whose runtimes may be of two published versions, and begin as the older."""
    older = asyncio.run(ensure_opencode(OLD))
    path = str(opencode_path).replace(NEW, "{version}")
    assert path.replace("{version}", OLD) == str(older), "each version has a place of its own"
    managed = tmp_path_factory.mktemp("managed") / "opencode.json"
    managed.write_text(json.dumps(model.configuration()))
    return new_service(
        opencode_path=path,
        opencode_version=OLD,
        opencode_floor="1.0.0",
        managed_config_file=managed,
        idle_after=1,
        when_stale="report",
        start_deadline=180,
        liveness_interval=5,
    )


async def runtime_of(service: ServiceProcess, user: str) -> Runtime:
    return Runtime(await service.address(user), await service.password(user))


async def say(service: ServiceProcess, user: str, text: str) -> None:
    runtime = await runtime_of(service, user)
    said = await ask(runtime.url, runtime.password, await runtime.directory(), text)
    assert said == f"You said: {text}"


async def history(service: ServiceProcess, user: str) -> str:
    """Return everything that was said in any session of the user."""
    runtime = await runtime_of(service, user)
    return "".join([await runtime.said(session) for session in await runtime.sessions()])


async def operator(service: ServiceProcess, method: str, path: str, body: object = None) -> Any:
    answer = await service.call(method, path, body, role="operator")
    assert answer.status < 300, answer.body
    return answer.body


async def moved_to_the_newer(service: ServiceProcess, users: tuple[str, str]) -> str:
    """Have both begin on the older version, say something, and be moved; return the rollout."""
    for user in users:
        await service.accept(user)
    for user in users:
        await service.ensure(user)
        await say(service, user, OF_THE_OLD)
    release = (await operator(service, "POST", "/v1/releases", {"opencode_version": NEW}))["id"]
    body = {"release": release, "strategy": AT_ONCE, "selector": {"users": list(users)}}
    rollout_id = (await operator(service, "POST", "/v1/rollouts", body))["id"]
    ended = await end_of(service, rollout_id)
    assert ended["state"] == "succeeded", ended
    for user in users:
        assert (await service.stack(user))["runtime"]["opencode_version"] == NEW
        assert OF_THE_OLD in await history(service, user)
    return rollout_id


async def end_of(service: ServiceProcess, rollout_id: str) -> dict[str, Any]:
    return await until(
        lambda: operator(service, "GET", f"/v1/rollouts/{rollout_id}"),
        lambda found: found["state"] in ENDED,
        400,
    )


async def rolled_back(service: ServiceProcess, rollout_id: str, body: object = None) -> dict[str, Any]:
    await operator(service, "POST", f"/v1/rollouts/{rollout_id}/rollback", body)
    ended = await end_of(service, rollout_id)
    assert ended["state"] == "rolled_back", ended
    return ended


async def snapshots(service: ServiceProcess, user: str) -> list[tuple[str, bool]]:
    found = await operator(service, "GET", f"/v1/stacks/{user}/snapshots")
    return [(each["opencode_version"], each["restored_at"] is not None) for each in found["items"]]


async def test_a_rollback_takes_the_data_along_and_leaves_whoever_has_worked_on_where_they_are(service):
    idle, at_it = "rb-ann", "rb-ben"
    rollout_id = await moved_to_the_newer(service, (idle, at_it))
    await say(service, at_it, OF_THE_NEW)

    ended = await rolled_back(service, rollout_id)

    stack = await service.stack(idle)
    assert (stack["runtime"]["opencode_version"], stack["migration_state"]) == (OLD, "current")
    assert OF_THE_OLD in await history(service, idle)
    await say(service, idle, "And a new session.")
    assert await snapshots(service, idle) == [(OLD, True), (NEW, False)]

    # That its data is newer is known before the newer version runs again.
    stack = await service.until_stack(at_it, lambda found: found["phase"] == "running", 120)
    assert (stack["runtime"]["opencode_version"], stack["migration_state"]) == (NEW, "failed")
    assert stack["reason"] == "data_newer"
    assert "1 session, 2 messages" in stack["message"]
    assert OF_THE_NEW in await history(service, at_it)
    await say(service, at_it, "And it goes on.")
    assert await snapshots(service, at_it) == [(OLD, False)]
    assert at_it in ended["message"]
    [member] = [each for each in ended["members"]["items"] if each["user_id"] == at_it]
    assert (member["state"], member["reason"]) == ("failed", "data_newer")

    await operator(service, "POST", f"/v1/stacks/{at_it}/recover", {"data": "restore"})

    stack = await service.until_stack(at_it, lambda found: found["migration_state"] == "current", 240)
    assert stack["runtime"]["opencode_version"] == OLD
    said = await history(service, at_it)
    assert OF_THE_OLD in said
    assert OF_THE_NEW not in said
    assert await snapshots(service, at_it) == [(OLD, True), (NEW, False)]


async def test_a_rollback_that_gives_up_what_was_written_since_sets_it_aside(service):
    users = ("rb-cem", "rb-dot")
    rollout_id = await moved_to_the_newer(service, users)
    for user in users:
        await say(service, user, OF_THE_NEW)

    await rolled_back(service, rollout_id, {"data": "restore"})

    for user in users:
        stack = await service.stack(user)
        assert (stack["runtime"]["opencode_version"], stack["migration_state"]) == (OLD, "current")
        said = await history(service, user)
        assert OF_THE_OLD in said
        assert OF_THE_NEW not in said
        await say(service, user, "And a new session.")
        assert await snapshots(service, user) == [(OLD, True), (NEW, False)]
