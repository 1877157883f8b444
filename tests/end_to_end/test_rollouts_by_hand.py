"""A rollout as an operator drives it: our command line against the real service on real servers."""

import json
from pathlib import Path

import pytest

from end_to_end.conftest import NewService
from end_to_end.service_process import ServiceProcess, apart

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240, func_only=True)]

NOTHING_TO_DO, CHANGES, PROBLEM = range(3)
OK, FAILED = 0, 1
SWIFT = ("--soak", "0s", "--wave", "100%")
USERS = ("ada", "bob", "eve")


@pytest.fixture
def service(new_service: NewService) -> ServiceProcess:
    """Give a service with three running stacks, which leaves what is stale to rollouts."""
    service = new_service(when_stale="report")
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
