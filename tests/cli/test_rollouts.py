"""rollout plan, start, list, show, watch, pause, resume, abort, rollback: what they ask for, print, and how they end."""

import json
from datetime import UTC, datetime

import pytest

from fakes.lifecycle_service import (
    NEXT_RELEASE,
    PLAN,
    RELEASE,
    ROLLOUT,
    SINCE,
    items,
    member,
    migration,
    order,
    plan,
    planned_stack,
    readiness,
    rollout,
    rollout_detail,
    specification,
    stack,
    staleness,
)
from opencode_lifecycle.api.schemas import RolloutBody
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.main import main
from opencode_lifecycle.cli.rollout_words import OF_MEMBERS, OF_ROLLOUTS, waits_of
from opencode_lifecycle.model.rollout import MemberReason, MemberState, RolloutReason, RolloutState

PLAN_CALL = "POST /v1/rollouts/plan"
START_CALL = "POST /v1/rollouts"
GET = f"GET /v1/rollouts/{ROLLOUT}"
NOW = datetime(2026, 1, 2, 3, 5, 0, tzinfo=UTC)
ENDED = {"finished_at": SINCE, "counts": {"migrated": 10}}

EVERY_OPTION = [
    "--release", NEXT_RELEASE, "--reason", "image", "--reason", "prompt", "--running", RELEASE, "--label", "team=search",
    "--group", "default", "--user", "ada", "--user", "bob", "--canary", "2", "--wave", "5", "--wave", "25%",
    "--max-in-flight", "4", "--max-unavailable", "3%", "--soak", "90s", "--failure-budget", "1", "--no-health-gate",
    "--prompt", "say yes", "--deadline", "2h", "--at-deadline", "hold",
]  # fmt: skip
THEIR_BODY = {
    "release": NEXT_RELEASE,
    "selector": {
        "reasons": ["image", "prompt"],
        "releases": [RELEASE],
        "labels": {"team": "search"},
        "groups": ["default"],
        "users": ["ada", "bob"],
    },
    "strategy": {
        "canary": "2",
        "waves": ["5", "25%"],
        "max_in_flight": 4,
        "max_unavailable": "3%",
        "soak": "90s",
        "gate": {"failure_budget": "1", "health": False, "prompt": "say yes"},
        "deadline": "7200s",
        "at_deadline": "hold",
    },
}


@pytest.fixture(autouse=True)
def nobody_drains(service):
    """Whoever looks at a rollout asks for the agents that it waits for."""
    service.answers("GET /v1/stacks", items())


def lines_of(result):
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def bodies(service):
    return [asked.body for asked in service.was_asked("POST")]


# --- plan


def test_a_plan_shows_why_class_busy_and_placement_of_each_stack(run, service):
    service.answers(
        PLAN_CALL,
        plan(
            planned_stack("bob", wave=1, busy="busy"),
            planned_stack(
                "ada", wave=0, why=[staleness(), staleness(facet="prompt", have="aa11", want="bb22")]
            ),
            planned_stack("eve", **{"class": None}, why=[], placement="refused", message="1 node exhausted"),
        ),
    )

    lines = lines_of(run("rollout", "plan"))

    assert lines[0] == "USER WHY CLASS WAVE BUSY PLACEMENT NOTE"
    assert lines[1] == "ada image v1 → v2, prompt restart canary idle possible -"
    assert lines[2] == "bob image v1 → v2 restart 1 busy possible -"
    assert lines[3] == "eve - start 1 - refused 1 node exhausted"


def test_a_plan_says_of_a_stack_that_is_current_what_is_done_with_it_all_the_same(run, service):
    asked = {**specification(), "rotate_passwords": True, "recreate": True}
    service.answers(PLAN_CALL, plan(planned_stack(why=[]), specification=asked))

    assert "ada   a new password, a fresh allocation" in run("rollout", "plan").stdout


def test_a_plan_says_who_is_left_out_and_why(run, service):
    service.answers(
        PLAN_CALL,
        plan(planned_stack(), planned_stack("joe", left_out="pinned", wave=None, **{"class": None})),
    )

    lines = lines_of(run("rollout", "plan"))

    assert lines[lines.index("Left out") + 1 :][:2] == [
        "USER LEFT OUT WHY",
        "joe pinned it is pinned to another release",
    ]
    assert "2 stacks selected: 1 to move (1 restart), 1 left out (1 pinned)." in lines


def test_a_plan_counts_who_is_waited_for_and_whom_nomad_cannot_place(run, service):
    service.answers(
        PLAN_CALL, plan(planned_stack("ada", busy="unknown"), planned_stack("bob", placement="refused"))
    )

    (totals,) = [line for line in lines_of(run("rollout", "plan")) if "selected" in line]

    assert totals.endswith(
        "; 1 busy or not seen to be idle, which are waited for; 1 that Nomad cannot place now."
    )


def test_a_plan_is_silent_about_what_does_not_matter_to_a_class(run, service):
    unseen = {"busy": "unknown", "placement": "unknown"}
    service.answers(
        PLAN_CALL,
        plan(
            planned_stack("ada", **{"class": "live"}, **unseen),
            planned_stack("bob", **{"class": "reload"}, **unseen),
        ),
    )

    lines = lines_of(run("rollout", "plan"))

    assert lines[1].endswith(" live 1 - - -")
    assert lines[2].endswith(" reload 1 unknown - -")


def test_a_plan_counts_of_whom_nomad_was_not_asked(run, service):
    unknown = planned_stack("ada", placement="unknown")
    live = planned_stack("bob", placement="unknown", **{"class": "live"})
    service.answers(PLAN_CALL, plan(unknown, live))

    (totals,) = [line for line in lines_of(run("rollout", "plan")) if "selected" in line]

    assert totals.endswith("; 1 of which Nomad was not asked, or could not say, whether it can place them.")


def test_a_plan_ends_with_its_id_and_the_exact_command_that_applies_it(run, service):
    service.answers(
        PLAN_CALL, plan(planned_stack(wave=0), planned_stack("bob"), planned_stack("eve", wave=2))
    )

    lines = lines_of(run("rollout", "plan"))

    assert f"plan {PLAN}" in lines
    assert f"target {RELEASE} → {NEXT_RELEASE}" in lines
    assert "waves canary 1, then 1 and 1" in lines
    assert lines[-2:] == ["Apply it with", f"opencode-lifecycle rollout start --plan {PLAN}"]


@pytest.mark.parametrize(
    ("answer", "code"), [(plan(), ExitCode.OK), (plan(planned_stack()), 1), (plan(has_changes=True), 1)]
)
def test_the_exit_code_of_a_plan_says_whether_there_is_anything_to_do(run, service, answer, code):
    service.answers(PLAN_CALL, answer)

    assert run("rollout", "plan").exit_code == code
    assert run("rollout", "plan", "--json").exit_code == code


def test_a_plan_with_nothing_to_do_says_so_and_offers_nothing_to_apply(run, service):
    service.answers(PLAN_CALL, plan(planned_stack(left_out="moved")))

    result = run("rollout", "plan")

    assert lines_of(result)[-1] == "Nothing to do."
    assert "rollout start" not in result.stdout


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "unauthenticated"), (403, "forbidden"), (422, "invalid-body"), (503, "unavailable")],
)
def test_whatever_goes_wrong_with_a_plan_is_exit_code_2(run, service, status, code):
    service.refuses(PLAN_CALL, status, code)

    assert run("rollout", "plan").exit_code == 2


def test_a_service_that_is_not_there_is_exit_code_2_of_a_plan(cli, token_file):
    assert cli("rollout", "plan", "--url", "http://127.0.0.1:1").exit_code == 2


def test_the_json_of_a_plan_is_the_services(run, service):
    service.answers(PLAN_CALL, plan(planned_stack()))

    assert json.loads(run("rollout", "plan", "--json").stdout) == plan(planned_stack())


# --- what is asked for


@pytest.mark.parametrize(("verb", "call"), [("plan", PLAN_CALL), ("start", START_CALL)])
def test_nothing_is_sent_of_what_was_not_given(run, service, verb, call):
    service.answers(call, plan() if verb == "plan" else rollout(), status=200)

    run("rollout", verb)

    assert bodies(service) == [{}]


@pytest.mark.parametrize(("verb", "call"), [("plan", PLAN_CALL), ("start", START_CALL)])
def test_there_is_an_option_for_every_field(run, service, verb, call):
    service.answers(call, plan() if verb == "plan" else rollout())

    result = run("rollout", verb, *EVERY_OPTION)

    assert result.exit_code == ExitCode.OK
    assert bodies(service) == [THEIR_BODY]


@pytest.mark.parametrize(
    ("option", "body"),
    [
        ("--all-stale", {"selector": {"all_stale": True}}),
        ("--rotate-passwords", {"rotate_passwords": True}),
        ("--recreate", {"recreate": True}),
    ],
)
def test_there_is_a_switch_for_every_truth(run, service, option, body):
    service.answers(PLAN_CALL, plan())

    run("rollout", "plan", option)

    assert bodies(service) == [body]


def test_the_options_reach_every_field_that_the_service_takes():
    def leaves(schema, prefix=""):
        for name, field in schema.model_fields.items():
            kind = field.annotation
            if hasattr(kind, "model_fields"):
                yield from leaves(kind, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    def given(body, prefix=""):
        for name, value in body.items():
            if isinstance(value, dict) and name != "labels":
                yield from given(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    switches = {"selector.all_stale", "rotate_passwords", "recreate"}
    assert set(leaves(RolloutBody)) == set(given(THEIR_BODY)) | switches


def test_the_defaults_that_the_help_names_are_the_services():
    strategy = RolloutBody().strategy
    shown = {
        option.name: option.help
        for option in main.get_command(None, "rollout").get_command(None, "plan").params
    }

    for name, value in {
        "canary": strategy.canary,
        "waves": strategy.waves[0],
        "max_in_flight": strategy.max_in_flight,
        "soak": strategy.soak,
        "failure_budget": strategy.gate.failure_budget,
        "deadline": strategy.deadline,
        "at_deadline": strategy.at_deadline,
    }.items():
        assert shown[name].endswith(f"[{value}]")


def test_a_file_is_the_whole_specification(run, service, tmp_path):
    file = tmp_path / "rollout.json"
    file.write_text(json.dumps(specification()))
    service.answers(PLAN_CALL, plan())

    run("rollout", "plan", "--file", str(file))

    assert bodies(service) == [specification()]


def test_a_file_is_read_from_stdin_too(run, service):
    service.answers(PLAN_CALL, plan())

    run("rollout", "plan", "--file", "-", input='{"recreate": true}')

    assert bodies(service) == [{"recreate": True}]


@pytest.mark.parametrize("content", [b"no json", b"[]", b"\xff\xfe", b"{" + b" " * 65536 + b"}"])
def test_a_file_that_is_none_is_refused_before_anything_is_asked(run, service, tmp_path, content):
    file = tmp_path / "rollout.json"
    file.write_bytes(content)

    assert run("rollout", "plan", "--file", str(file)).exit_code == ExitCode.USAGE
    assert service.asked == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--file", "-", "--recreate"],
        ["--canary", "ten"],
        ["--wave", "10 %"],
        ["--max-in-flight", "0"],
        ["--soak", "soon"],
        ["--at-deadline", "kill"],
        ["--reason", "colour"],
        ["--label", "team"],
        ["--label", "team=a", "--label", "team=b"],
        ["--user", "a/b"],
    ],
)
def test_what_cannot_be_is_a_usage_error_and_nothing_is_asked(run, service, arguments):
    assert run("rollout", "plan", *arguments, input="{}").exit_code == ExitCode.USAGE
    assert service.asked == []


def test_what_the_service_finds_wrong_is_shown_with_where(run, service):
    service.refuses(
        PLAN_CALL,
        422,
        "invalid-body",
        errors=[{"pointer": "/strategy/waves/0", "detail": "must be at least 1"}],
    )

    result = run("rollout", "plan", "--wave", "0")

    assert "/strategy/waves/0: must be at least 1" in result.stderr


def test_releases_are_named_as_people_name_them(run, service):
    service.answers(PLAN_CALL, plan())
    service.answers(
        "GET /v1/releases",
        items({"id": NEXT_RELEASE, "number": 2}, {"id": RELEASE, "number": 1, "is_current": True}),
    )

    run("rollout", "plan", "--release", "2", "--running", "target")

    assert bodies(service) == [{"release": NEXT_RELEASE, "selector": {"releases": [RELEASE]}}]


def test_a_release_that_is_not_there_is_a_problem_of_a_plan(run, service):
    service.answers("GET /v1/releases", items())

    result = run("rollout", "plan", "--release", "7")

    assert result.exit_code == 2
    assert "there is no release 7" in result.stderr


# --- start


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


# --- list and show


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


# --- watch


def test_a_rollout_is_watched_to_its_end_with_a_line_for_each_change(run, service):
    for _ in range(3):
        service.answers(GET, rollout_detail())
    service.answers(GET, rollout_detail(wave=2, counts={"migrated": 5, "failed": 1, "ordered": 4}))
    service.answers(GET, rollout_detail("succeeded", **ENDED))

    result = run("rollout", "watch", ROLLOUT)

    assert result.exit_code == ExitCode.OK
    assert result.stderr.splitlines() == [
        f"{ROLLOUT}: running, wave 1 of 2: 2 in flight, 3 migrated, 5 waiting",
        f"{ROLLOUT}: running, wave 2 of 2: 4 in flight, 5 migrated, 1 failed",
        f"{ROLLOUT}: succeeded: 10 migrated",
    ]
    assert "done 10 of 10" in lines_of(result)


@pytest.mark.parametrize("state", ["failed", "aborted", "rolled_back"])
def test_a_rollout_that_does_not_succeed_is_exit_code_1_and_says_why(run, service, state):
    service.answers(GET, rollout_detail(state, reason="failures", message="3 of 10", **ENDED))

    result = run("rollout", "watch", ROLLOUT)

    assert result.exit_code == ExitCode.FAILED
    assert "more stacks failed than the failure budget allows: 3 of 10" in result.stderr


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("failed", "has failed: olga asked for it"),
        ("aborted", "was aborted: olga asked for it"),
        ("rolled_back", "was rolled back: olga asked for it"),
    ],
)
def test_how_it_ended_and_who_asked_for_that_is_a_sentence(run, service, state, said):
    service.answers(GET, rollout_detail(state, reason="operator", message="by olga", **ENDED))

    assert f"Error: {ROLLOUT} {said}\n" in run("rollout", "watch", ROLLOUT).stderr


def test_a_rollout_that_is_not_over_in_time_is_exit_code_6(run, service):
    service.answers(GET, rollout_detail())

    assert run("rollout", "watch", ROLLOUT, "--wait", "0s").exit_code == ExitCode.NOT_IN_TIME


def test_a_service_that_is_away_for_a_moment_does_not_end_the_watching(run, service):
    service.answers(GET, rollout_detail())
    service.refuses(GET, 503, "unavailable", "It is shutting down.")
    service.answers(GET, rollout_detail("succeeded", **ENDED))

    assert run("rollout", "watch", ROLLOUT).exit_code == ExitCode.OK


def test_watching_as_json_prints_how_it_ended_and_nothing_else(run, service):
    service.answers(GET, rollout_detail())
    service.answers(GET, rollout_detail("succeeded", **ENDED))

    result = run("rollout", "watch", ROLLOUT, "--json")

    assert json.loads(result.stdout) == rollout_detail("succeeded", **ENDED)
    assert result.stderr == ""


# --- pause, resume, abort, rollback


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


# --- what it waits for


def waits(*draining, state="running", **changes):
    return list(waits_of({**rollout_detail(state, **changes), "draining": list(draining)}, now=NOW))


def draining(user_id="ada", order_id=ROLLOUT, deadline="2026-01-02T04:04:05Z"):
    return stack(
        user_id,
        migration_state="draining",
        migration=migration("draining", order=order(id=order_id, deadline=deadline)),
    )


def test_a_rollout_waits_for_those_in_flight_and_for_agents_at_work_by_name():
    assert waits(draining(), draining("bob", f"{ROLLOUT}.back.2", "2026-01-02T03:04:05Z")) == [
        "2 stacks in flight",
        "the agent of ada, until 2026-01-02T04:04:05Z (in 59 m 5 s)",
        "the agent of bob, until 2026-01-02T03:04:05Z",
    ]


def test_agents_that_somebody_else_waits_for_are_not_named():
    assert waits(draining(order_id="op_1"), stack()) == ["2 stacks in flight"]


def test_whoever_was_at_work_at_his_turn_comes_last_and_is_called_so(run, service):
    late = [{"wave": 3, "counts": {"ordered": 1}}]
    service.answers(GET, rollout_detail(wave=3, waves=2, wave_counts=late))

    lines = lines_of(run("rollout", "show", ROLLOUT))

    assert "state running, those that were at work" in lines
    assert "at work 1 1" in lines


def test_after_the_last_wave_nobody_is_said_to_have_been_at_work_who_was_not(run, service):
    service.answers(GET, rollout_detail(wave=3, waves=2, counts={"migrated": 10}))

    assert "state running, all waves done" in lines_of(run("rollout", "show", ROLLOUT))


def test_a_rollout_on_its_way_back_is_at_no_wave(run, service):
    service.answers(GET, rollout_detail("rolling_back", goes_back=True))

    assert "state rolling back" in lines_of(run("rollout", "show", ROLLOUT))


@pytest.mark.parametrize("reason", ["no_canary", "inconclusive", "unavailable"])
def test_what_a_message_says_is_not_said_twice(reason):
    (person,) = waits(state="paused", reason=reason, message="as it is", counts={"waiting": 7})

    assert "it is paused (as it is); then" in person


def test_a_rollout_that_soaks_says_until_when():
    assert waits(counts={"migrated": 5}, soaks_until="2026-01-02T03:05:20Z") == [
        "its wave to show itself sound, until 2026-01-02T03:05:20Z (in 20 s)"
    ]


def test_a_rollout_that_has_soaked_waits_for_its_gate():
    assert waits(counts={"migrated": 5}, soaks_until="2026-01-02T03:04:20Z") == [
        "the gate: what was moved must be healthy as it should be"
    ]


def test_a_gate_that_puts_a_prompt_waits_for_the_answer():
    asking = {"strategy": {"gate": {"prompt": "Say hello."}}}

    assert waits(counts={"migrated": 5}, soaks_until="2026-01-02T03:04:20Z", specification=asking) == [
        "the gate: what was moved must be healthy and answer the prompt"
    ]


def test_a_few_that_are_in_flight_are_named():
    members = items(*(member(user) for user in ("ada", "bob")))

    assert waits(counts={"ordered": 7}, members=members) == ["7 stacks in flight: ada, bob and 5 more"]
    assert waits(counts={"ordered": 2}, members=members) == ["2 stacks in flight: ada, bob"]


def test_a_neighbour_that_is_away_is_what_is_waited_for(run, service):
    service.answers(GET, rollout_detail("running", member()))
    service.answers("GET /readyz", readiness("vault"), status=503)

    lines = lines_of(run("rollout", "show", ROLLOUT))

    assert "waits for Vault, which the service cannot reach: sealed" in lines


def test_the_neighbours_are_not_asked_at_each_look(run, service):
    for _ in range(5):
        service.answers(GET, rollout_detail("running", member()))
    service.answers("GET /readyz", readiness())
    service.answers(GET, rollout_detail("succeeded", **ENDED))

    run("rollout", "watch", ROLLOUT)

    assert len([each for each in service.asked if each.path == "/readyz"]) == 1


def test_no_agent_is_said_to_be_at_work_that_cannot_be_seen():
    unseen = draining() | {"reason": "unknown"}

    assert waits(unseen)[-1].startswith("a look at ada, until ")


def test_whoever_asked_for_a_pause_is_named():
    (person,) = waits(state="paused", reason="operator", message="by olga", counts={"waiting": 7})

    assert "it is paused (olga asked for it); then" in person


def test_a_paused_rollout_waits_for_a_person_and_says_why_and_what_can_be_done():
    (person,) = waits(state="paused", reason="failures", message="3 of 10", counts={"waiting": 7})

    assert "more stacks failed than the failure budget allows: 3 of 10" in person
    assert person.endswith(f"opencode-lifecycle rollout resume, abort or rollback {ROLLOUT}")


@pytest.mark.parametrize("state", RolloutState)
def test_a_rollout_that_is_over_waits_for_nothing(state):
    assert waits(state=state, finished_at=SINCE) == []


def test_every_reason_of_a_rollout_and_of_a_member_has_a_meaning():
    assert set(OF_ROLLOUTS) == set(RolloutReason)
    assert set(OF_MEMBERS) == set(MemberReason)


@pytest.mark.parametrize("state", MemberState)
def test_every_state_of_a_member_is_counted(run, service, state):
    service.answers(GET, rollout_detail(counts={state: 7}, wave_counts=[{"wave": 0, "counts": {state: 7}}]))

    lines = lines_of(run("rollout", "show", ROLLOUT))

    assert "canary 7 7" in lines


def test_what_a_newer_service_says_is_shown_as_it_came(run, service):
    service.answers(
        GET, rollout_detail("hovering", member(state="warped", reason="gremlins"), reason="gremlins")
    )

    lines = lines_of(run("rollout", "show", ROLLOUT, "--members"))

    assert "state hovering, wave 1 of 2" in lines
    assert "why gremlins" in lines
