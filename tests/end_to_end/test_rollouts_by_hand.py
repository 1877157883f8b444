"""A rollout as an operator drives it: our command line against the real service on real servers."""

import json
from pathlib import Path

import pytest

from end_to_end.conftest import NewService
from end_to_end.service_process import ServiceProcess, apart, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240, func_only=True)]

NOTHING_TO_DO, CHANGES, PROBLEM = range(3)
OK, FAILED, NOT_IN_TIME = 0, 1, 6
SWIFT = ("--soak", "0s", "--wave", "100%")
USERS = ("ada", "bob", "eve")


@pytest.fixture
def service(new_service: NewService) -> ServiceProcess:
    """Give a service with three running stacks, which leaves what is stale to rollouts."""
    service = new_service(when_stale="report", idle_after=1)
    for user in USERS:
        apart(service.ensure(user))
    return service


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    file = tmp_path / "AGENTS.md"
    file.write_text("Say please.\n")
    return file


def stacks(service: ServiceProcess) -> dict[str, dict]:
    listed = json.loads(service.command("list", "--json").stdout)
    return {stack["user_id"]: stack for stack in listed["items"]}


def test_a_release_is_planned_applied_watched_and_taken_back(service, instructions):
    before = stacks(service)
    made = service.command("release", "create", "--instructions", str(instructions))
    assert made.returncode == OK, made.stderr

    planned = service.command("rollout", "plan", "--release", "2", *SWIFT)
    plan = json.loads(service.command("rollout", "plan", "--release", "2", *SWIFT, "--json").stdout)
    started = service.command("rollout", "start", "--plan", plan["id"])
    watched = service.command("rollout", "watch", "--wait", "120s")

    assert planned.returncode == CHANGES, planned.stderr
    assert "opencode-lifecycle rollout start --plan plan_" in planned.stdout
    assert {each["user_id"]: each["class"] for each in plan["stacks"]} == dict.fromkeys(USERS, "live")
    assert started.returncode == OK, started.stderr
    assert watched.returncode == OK, watched.stdout + watched.stderr
    assert service.command("rollout", "plan", "--release", "2").returncode == NOTHING_TO_DO
    after = stacks(service)
    assert {after[user]["release"] for user in USERS} == {plan["specification"]["release"]}
    assert {after[user]["runtime"]["allocation_id"] for user in USERS} == {
        before[user]["runtime"]["allocation_id"] for user in USERS
    }

    [rollout] = json.loads(service.command("rollout", "list", "--json").stdout)["items"]
    back = service.command("rollout", "rollback", rollout["id"])
    ended = service.command("rollout", "watch", rollout["id"], "--wait", "120s")

    assert back.returncode == OK, back.stderr
    assert ended.returncode == FAILED
    assert "rolled back" in ended.stderr
    assert {stack["release"] for stack in stacks(service).values()} == {before["ada"]["release"]}


def test_what_is_wrong_with_a_rollout_is_a_problem_and_begins_nothing(service):
    wave = service.command("rollout", "plan", "--wave", "0")
    release = service.command("rollout", "plan", "--release", "rel_nowhere")
    nothing = service.command("rollout", "start")

    assert wave.returncode == PROBLEM
    assert "/strategy/waves/0" in wave.stderr
    assert release.returncode == PROBLEM
    assert "/release" in release.stderr
    assert nothing.returncode == FAILED
    assert "nothing-to-do" in nothing.stderr
    assert json.loads(service.command("rollout", "list", "--json").stdout)["items"] == []


def test_an_explanation_is_one_screen_for_a_real_stack(service):
    explained = service.command("explain", "ada")

    assert explained.returncode == OK, explained.stderr
    assert "Nothing: it is as it should be." in explained.stdout
    assert f"nomad job status -namespace=opencode {service.job_id('ada')}" in explained.stdout


def test_a_wave_is_paused_resumed_aborted_and_taken_back_and_each_stack_says_how_it_stands(service):
    """Two backends say that they work, so that the wave stays where it is while somebody looks."""
    before = stacks(service)
    made = service.command("release", "create", "--image", "another", "--no-env")
    assert made.returncode == OK, made.stderr
    for user in ("bob", "eve"):
        leased = apart(service.call("POST", f"/v1/stacks/{user}/activity", {"ttl": "10m"}))
        assert leased.status == 200, leased.body

    started = service.command("rollout", "start", "--release", "2", *SWIFT, "--max-in-flight", "1")
    assert started.returncode == OK, started.stderr
    rollout = apart(
        until(lambda: shown(service), lambda found: found["counts"].get("ordered") == 1 and found["wave"])
    )
    state_of = {each["user_id"]: each["state"] for each in rollout["members"]["items"]}
    [flying] = [user for user, state in state_of.items() if state == "ordered"]
    [waiting] = [user for user, state in state_of.items() if state == "waiting"]

    assert {flying, waiting} == {"bob", "eve"}
    assert f"it was moved by {rollout['id']}, which is running, wave 1 of 1" in explained(service, "ada")
    assert "its backend, which said that it works until" in explained(service, flying)
    assert f"its turn comes in wave 1 of {rollout['id']}, which is running" in explained(service, waiting)

    paused = service.command("rollout", "pause")
    apart(until(lambda: shown(service), lambda found: not found["counts"].get("ordered")))
    watched = service.command("rollout", "watch", "--wait", "0s")

    assert paused.returncode == OK, paused.stderr
    assert "paused, wave 1 of 1" in paused.stdout
    assert watched.returncode == NOT_IN_TIME
    assert "a person, since it is paused (the-operator asked for it)" in watched.stdout
    for user in (flying, waiting):
        assert "its rollout is paused (the-operator asked for it)" in explained(service, user)

    resumed = service.command("rollout", "resume")
    apart(until(lambda: shown(service), lambda found: found["counts"].get("ordered") == 1))
    aborted = service.command("rollout", "abort")
    ended = service.command("rollout", "watch", rollout["id"], "--wait", "60s")

    assert (resumed.returncode, aborted.returncode) == (OK, OK), resumed.stderr + aborted.stderr
    assert "running, wave 1 of 1" in resumed.stdout
    assert ended.returncode == FAILED
    assert f"{rollout['id']} was aborted: the-operator asked for it" in ended.stderr
    left = stacks(service)
    assert {user: stack["release"] == rollout["release"] for user, stack in left.items()} == {
        "ada": True,
        "bob": False,
        "eve": False,
    }
    assert service.command("rollout", "plan", "--release", "2").returncode == CHANGES

    back = service.command("rollout", "rollback", rollout["id"])
    ended = service.command("rollout", "watch", rollout["id"], "--wait", "60s")

    assert back.returncode == OK, back.stderr
    assert f"{rollout['id']} was rolled back: the-operator asked for it" in ended.stderr
    assert service.command("rollout", "plan", "--release", "1").returncode == NOTHING_TO_DO
    after = stacks(service)
    assert {stack["release"] for stack in after.values()} == {before["ada"]["release"]}
    for user in ("bob", "eve"):
        assert after[user]["runtime"] == before[user]["runtime"]


async def shown(service: ServiceProcess) -> dict:
    return json.loads(service.command("rollout", "show", "--json").stdout)


def explained(service: ServiceProcess, user: str) -> str:
    said = service.command("explain", user)
    assert said.returncode == OK, said.stderr
    return said.stdout
