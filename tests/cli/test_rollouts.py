"""rollout start, list, show, pause, resume, abort, rollback: what they ask for, print, and how they end."""

import json

import pytest

from cli.rollout_calls import ENDED, GET, START_CALL, bodies, draining, lines_of
from fakes.rollout_answers import NEXT_RELEASE, PLAN, ROLLOUT, member, rollout, rollout_detail
from fakes.service_answers import SINCE, items
from opencode_lifecycle.cli.exit_codes import ExitCode

pytestmark = pytest.mark.usefixtures("nobody_drains")


def test_a_plan_is_applied_by_its_id(run, service):
    service.answers(START_CALL, rollout(), status=201)

    result = run("rollout", "start", "--plan", PLAN)

    assert bodies(service) == [{"plan": PLAN}]
    assert f"rollout {ROLLOUT}" in lines_of(result)
    assert f"opencode-lifecycle rollout watch {ROLLOUT}" in result.stderr


@pytest.mark.parametrize("more", [["--recreate"], ["--file", "-"]])
def test_a_plan_is_applied_as_it_was_made(run, service, more):
    assert run("rollout", "start", "--plan", PLAN, *more, input="{}").exit_code == ExitCode.USAGE
    assert service.asked == []


def test_a_rollout_is_begun_once_even_when_the_connection_is_cut(run, service):
    service.cuts(START_CALL)
    service.answers(START_CALL, rollout(), status=201)

    run("rollout", "start")

    keys = {asked.headers["Idempotency-Key"] for asked in service.asked}
    assert (len(service.asked), len(keys)) == (2, 1)


def test_another_rollout_that_runs_is_told_with_what_to_do(run, service):
    service.refuses(START_CALL, 409, "rollout-active")

    result = run("rollout", "start")

    assert result.exit_code == ExitCode.FAILED
    assert "rollout watch" in result.stderr


def test_a_rollout_is_begun_and_watched_to_its_end(run, service):
    service.answers(START_CALL, rollout(), status=201)
    service.answers(GET, rollout_detail())
    service.answers(GET, rollout_detail("succeeded", **ENDED))

    result = run("rollout", "start", "--watch")

    assert result.exit_code == ExitCode.OK
    assert "done 10 of 10" in lines_of(result)


def test_rollouts_are_listed_with_how_far_they_are(run, service):
    service.answers(
        "GET /v1/rollouts",
        items(rollout(), rollout("failed", reason="canary_failed", counts={"failed": 1}, finished_at=SINCE)),
    )

    first, second = lines_of(run("rollout", "list"))[1:3]

    assert first.startswith(f"{ROLLOUT} running {NEXT_RELEASE} 3 of 10 0 operator")
    assert second.startswith(f"{ROLLOUT} failed {NEXT_RELEASE} 1 of 1 1 operator")
    assert second.endswith("a canary did not pass")


def test_a_rollout_is_shown_in_numbers_and_whoever_is_in_flight_by_name(run, service):
    service.answers(GET, rollout_detail("running", member(), member("bob")))
    service.now_answers("GET /v1/stacks", items(draining()))

    lines = lines_of(run("rollout", "show", ROLLOUT))

    assert "state running, wave 1 of 2" in lines
    assert "done 3 of 10" in lines
    assert "WAVE STACKS IN FLIGHT MIGRATED WAITING" in lines
    assert "1 4 2 2 0" in lines
    assert any(line.startswith("ada 1 ordered restart") for line in lines)
    assert any(line.startswith("waits for the agent of ada, until") for line in lines)
    assert service.asked[-1].query == {"state": "ordered", "limit": "500"}


def test_members_of_one_state_are_named_from_all_pages(run, service):
    service.answers(GET, rollout_detail())
    service.answers(GET, rollout_detail(members=items(member(state="failed"), next_cursor="c")))
    service.answers(GET, rollout_detail(members=items(member("bob", state="failed"))))

    lines = lines_of(run("rollout", "show", ROLLOUT, "--state", "failed"))

    assert [line.split()[0] for line in lines if " failed restart " in line] == ["ada", "bob"]
    assert service.asked[-1].query == {"state": "failed", "limit": "500", "cursor": "c"}


def test_json_has_every_member(run, service):
    service.answers(GET, rollout_detail())
    service.answers(GET, rollout_detail(members=items(member(), next_cursor="c")))
    service.answers(GET, rollout_detail(members=items(member("bob"))))

    shown = json.loads(run("rollout", "show", ROLLOUT, "--json").stdout)

    assert [each["user_id"] for each in shown["members"]["items"]] == ["ada", "bob"]
    assert shown["members"]["next_cursor"] is None


def test_without_an_id_the_rollout_that_runs_is_shown(run, service):
    service.answers("GET /v1/rollouts", items(rollout("succeeded", id="ro_2", finished_at=SINCE), rollout()))
    service.answers(GET, rollout_detail())

    assert run("rollout", "show").exit_code == ExitCode.OK


def test_without_an_id_and_without_one_that_runs_the_last_one_is_shown(run, service):
    last, before = rollout(**ENDED), rollout(id="ro_0", **ENDED)
    service.answers("GET /v1/rollouts", items(last, before))
    service.answers(GET, rollout_detail("succeeded", **ENDED))

    assert run("rollout", "show").exit_code == ExitCode.OK


def test_without_any_rollout_there_is_nothing_to_show(run, service):
    service.answers("GET /v1/rollouts", items())

    result = run("rollout", "show")

    assert result.exit_code == ExitCode.NOT_FOUND
    assert "rollout plan" in result.stderr


@pytest.mark.parametrize(
    ("verb", "state"),
    [("pause", "paused"), ("resume", "running"), ("abort", "aborted"), ("rollback", "rolling_back")],
)
def test_a_rollout_is_steered_by_its_id(run, service, verb, state):
    service.answers(f"POST /v1/rollouts/{ROLLOUT}/{verb}", rollout(state))

    result = run("rollout", verb, ROLLOUT)

    assert result.exit_code == ExitCode.OK
    assert lines_of(result)[1].startswith(f"state {state.replace('_', ' ')}")


def test_a_rollback_gives_up_what_was_written_only_when_it_is_told_so(run, service):
    service.answers(f"POST /v1/rollouts/{ROLLOUT}/rollback", rollout("rolling_back"))
    service.answers(f"POST /v1/rollouts/{ROLLOUT}/rollback", rollout("rolling_back", rollback_data="restore"))

    kept = run("rollout", "rollback", ROLLOUT)
    given_up = run("rollout", "rollback", ROLLOUT, "--data", "restore", "--yes")

    assert "newer data set aside on the way back" in lines_of(given_up)
    assert not any(line.startswith("newer data") for line in lines_of(kept))
    assert [each.body for each in service.was_asked("POST")] == [None, {"data": "restore"}]


def test_where_nobody_can_answer_nothing_is_given_up_unasked(run, service):
    result = run("rollout", "rollback", ROLLOUT, "--data", "restore")

    assert result.exit_code == ExitCode.USAGE
    assert "--yes" in result.stderr
    assert service.was_asked("POST") == []


def test_without_an_id_the_rollout_that_runs_is_steered(run, service):
    service.answers("GET /v1/rollouts", items(rollout()))
    service.answers(f"POST /v1/rollouts/{ROLLOUT}/pause", rollout("paused"))

    assert json.loads(run("rollout", "pause", "--json").stdout)["state"] == "paused"


@pytest.mark.parametrize("verb", ["pause", "resume", "abort", "rollback"])
def test_without_an_id_and_without_one_that_runs_nothing_is_steered(run, service, verb):
    service.answers("GET /v1/rollouts", items(rollout("succeeded", **ENDED)))

    result = run("rollout", verb)

    assert result.exit_code == ExitCode.NOT_FOUND
    assert service.was_asked("POST") == []


def test_what_cannot_be_done_in_its_state_is_told(run, service):
    service.refuses(f"POST /v1/rollouts/{ROLLOUT}/pause", 409, "rollout-finished", "It is succeeded.")

    result = run("rollout", "pause", ROLLOUT)

    assert result.exit_code == ExitCode.FAILED
    assert "It is succeeded. (rollout-finished)" in result.stderr
