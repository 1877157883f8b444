"""rollout plan and start: what of the options and files is sent, and what is refused before anything is."""

import json

import pytest

from cli.rollout_calls import EVERY_OPTION, PLAN_CALL, START_CALL, THEIR_BODY, bodies
from fakes.rollout_answers import NEXT_RELEASE, RELEASE, plan, rollout, specification
from fakes.service_answers import items, stack
from opencode_lifecycle.api.schemas import RolloutBody
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.main import main

pytestmark = pytest.mark.usefixtures("nobody_drains")


@pytest.mark.parametrize(("verb", "call"), [("plan", PLAN_CALL), ("start", START_CALL)])
def test_nothing_is_sent_of_what_was_not_given(run, service, verb, call):
    service.answers(call, plan() if verb == "plan" else rollout(), status=200)

    run("rollout", verb)

    assert bodies(service) == [{}]


@pytest.mark.parametrize(("verb", "call"), [("plan", PLAN_CALL), ("start", START_CALL)])
def test_there_is_an_option_for_every_field(run, service, verb, call):
    service.answers(call, plan() if verb == "plan" else rollout())
    for user in ("ada", "bob"):
        service.answers(f"GET /v1/stacks/{user}", stack(user))

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


@pytest.mark.parametrize(("verb", "code"), [("plan", ExitCode.USAGE), ("start", ExitCode.NOT_FOUND)])
def test_a_user_without_a_stack_is_named_and_nothing_is_asked_for(run, service, verb, code):
    service.answers("GET /v1/stacks/ada", stack("ada"))
    service.refuses("GET /v1/stacks/bop", 404, "stack-not-found")

    result = run("rollout", verb, "--user", "ada", "--user", "bop")

    assert result.exit_code == code
    assert "there is no stack of bop" in result.stderr
    assert bodies(service) == []


def test_a_release_that_is_not_there_is_a_problem_of_a_plan(run, service):
    service.answers("GET /v1/releases", items())

    result = run("rollout", "plan", "--release", "7")

    assert result.exit_code == 2
    assert "there is no release 7" in result.stderr
