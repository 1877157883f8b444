"""Commands on releases, pins and groups."""

import json

import pytest

from fakes.lifecycle_service import problem
from fakes.rollout_answers import group, made_release, release, rollout, whole_release
from fakes.service_answers import items, operation, stack
from opencode_lifecycle.api import schemas
from opencode_lifecycle.cli.exit_codes import ExitCode

FIRST, SECOND = release(1)["id"], release(2)["id"]


@pytest.fixture
def service(service):
    """A service that knows two releases; the first is the fleet's target."""
    service.answers("GET /v1/releases", items(release(2), release(1)))
    service.answers(f"GET /v1/releases/{FIRST}", whole_release(1))
    service.answers(f"GET /v1/releases/{SECOND}", whole_release(2))
    return service


def sent(service, method="POST"):
    return service.was_asked(method)[-1].body


@pytest.mark.parametrize(
    ("answer", "shape"),
    [
        (release(), schemas.ReleaseShape),
        (whole_release(), schemas.WholeReleaseShape),
        (made_release(), schemas.MadeReleaseShape),
        (group(), schemas.GroupShape),
    ],
)
def test_what_the_scripted_service_answers_has_the_shape_of_the_contract(answer, shape):
    assert json.loads(shape.model_validate(answer).model_dump_json()) == answer


def test_a_release_is_made_of_files_over_the_target(run, service, tmp_path):
    for name, text in {
        "a.hcl": 'job "y" {}',
        "AGENTS.md": "Be brief.",
        "opencode.json": '{ "share": "disabled" }',
        "build.md": "Build.",
        "classes.json": '{"small": {"cpu": 1, "memory": 2, "memory_max": 3}}',
    }.items():
        (tmp_path / name).write_text(text)
    service.answers("POST /v1/releases", made_release(), status=201)

    result = run(
        "release", "create", "--image", "img:2", "--opencode-version", "1.18.33",
        "--template", str(tmp_path / "a.hcl"), "--instructions", str(tmp_path / "AGENTS.md"),
        "--config", str(tmp_path / "opencode.json"), "--agent-prompt", f"build={tmp_path / 'build.md'}",
        "--env", "TZ=CET", "--resources", str(tmp_path / "classes.json"), "--note", "calmer",
    )  # fmt: skip

    assert result.exit_code == ExitCode.OK
    assert sent(service) == {
        "base": FIRST,
        "image": "img:2",
        "opencode_version": "1.18.33",
        "template": 'job "y" {}',
        "instructions": "Be brief.",
        "managed_config": '{ "share": "disabled" }',
        "agent_prompts": {"build": "Build."},
        "environment": {"TZ": "CET"},
        "resource_classes": {"small": {"cpu": 1, "memory": 2, "memory_max": 3}},
        "note": "calmer",
    }


def test_what_is_not_given_is_left_to_the_base(run, service):
    service.answers("POST /v1/releases", made_release(), status=201)

    run("release", "create", "--base", "2", "--no-env", "--no-agent-prompts")

    assert sent(service) == {"base": SECOND, "environment": {}, "agent_prompts": {}}


def test_several_files_of_instructions_are_joined_under_their_names(run, service, tmp_path):
    (tmp_path / "AGENTS.md").write_text("Be kind.\n")
    (tmp_path / "STYLE.md").write_text("Be brief.\n")
    service.answers("POST /v1/releases", made_release(), status=201)

    run(
        "release", "create", "--instructions", str(tmp_path / "AGENTS.md"), "--instructions", str(tmp_path / "STYLE.md")
    )  # fmt: skip

    assert sent(service)["instructions"] == "# AGENTS.md\n\nBe kind.\n\n# STYLE.md\n\nBe brief.\n"


def test_a_new_release_is_shown_with_what_differs_and_what_was_checked(run, service):
    service.answers(
        "POST /v1/releases",
        made_release(
            opencode_version="1.18.35",
            instructions="Be brief.",
            agent_prompts={"build": "Build."},
            environment={},
        ),
        status=201,
    )

    result = run("release", "create")

    made, _, checked = result.stdout.partition("\n\n")
    rows = {line.split()[0]: line.split()[1:] for line in made.splitlines()}
    assert rows["PART"] == ["RELEASE", "1", "RELEASE", "2"]
    assert rows["opencode_version"] == ["1.18.34", "1.18.35"]
    assert rows["instructions"][:2] == ["8", "bytes"]
    assert rows["environment.TZ"] == ["UTC", "-"]
    assert rows["agent_prompts.build"][0] == "-"
    assert set(rows) == {
        "Release", "PART", "opencode_version", "instructions", "environment.TZ", "agent_prompts.build",
    }  # fmt: skip
    assert "not checked: no OpenCode program" in checked
    assert "release use 2" in result.stderr


def test_content_that_exists_is_said_to_exist(run, service):
    service.answers("POST /v1/releases", made_release(1, checks={}))

    result = run("release", "create")

    assert result.exit_code == ExitCode.OK
    assert f"Release 1 ({FIRST}) has this content already; nothing was made." in result.stdout


def test_what_stands_against_a_release_is_shown_place_by_place(run, service):
    faults = [{"pointer": "/template", "detail": "does not declare revision"}]
    service.answers("POST /v1/releases", problem(422, "invalid-body", errors=faults), status=422)

    result = run("release", "create")

    assert result.exit_code == ExitCode.USAGE
    assert "/template: does not declare revision" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--agent-prompt", "build"),
        ("--agent-prompt", "build=/nowhere"),
        ("--template", "/nowhere"),
        ("--env", "TZ=CET", "--no-env"),
        ("--resources", "LIST"),
        ("--config", "BINARY"),
    ],
)
def test_files_that_cannot_be_meant_are_refused_before_anything_is_asked(run, service, tmp_path, arguments):
    (tmp_path / "LIST").write_text("[]")
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe")
    named = [str(tmp_path / each) if each in {"LIST", "BINARY"} else each for each in arguments]

    result = run("release", "create", *named)

    assert result.exit_code == ExitCode.USAGE
    assert service.was_asked("POST") == []


def test_the_list_shows_the_target_and_how_many_want_each(run, service):
    result = run("release", "list")

    second, first = result.stdout.splitlines()[1:3]
    assert second.split()[:4] == ["2", SECOND, "-", "2"]
    assert first.split()[:4] == ["1", FIRST, "target", "2"]


@pytest.mark.parametrize("name", [(), ("target",), ("1",), (FIRST,)])
def test_a_release_is_named_by_number_by_id_or_as_the_target(run, service, name):
    result = run("release", "show", *name)

    assert result.exit_code == ExitCode.OK
    assert FIRST in result.stdout


def test_one_text_of_a_release_is_printed_as_it_is(run, service):
    assert run("release", "show", "--part", "template").stdout == 'job "x" {}'


def test_a_number_that_no_release_has_is_not_found(run, service):
    result = run("release", "show", "7")

    assert result.exit_code == ExitCode.NOT_FOUND
    assert "there is no release 7" in result.stderr


def test_using_a_release_begins_a_rollout_to_it(run, service):
    service.answers("POST /v1/rollouts", rollout(), status=201)

    result = run("release", "use", "2")

    assert sent(service) == {"release": SECOND}
    assert rollout()["id"] in result.stdout
    assert "rollout watch" in result.stderr


def test_without_a_rollout_a_release_only_becomes_the_target(run, service):
    service.answers(f"POST /v1/releases/{SECOND}/use", whole_release(2, is_current=True))

    result = run("release", "use", "2", "--no-rollout")

    assert result.exit_code == ExitCode.OK
    assert f"Release 2 ({SECOND}) is what new stacks want now" in result.stdout
    assert "`opencode-lifecycle rollout plan --release 2` tells who" in result.stderr


@pytest.mark.parametrize(("status", "code"), [(404, "not-found"), (405, "method-not-allowed")])
def test_a_service_without_rollouts_is_not_taken_to_have_begun_one(run, service, status, code):
    service.refuses("POST /v1/rollouts", status, code)

    result = run("release", "use", "2")

    assert result.exit_code == ExitCode.FAILED
    assert "does no rollouts; nothing was changed" in result.stderr
    assert "--no-rollout" in result.stderr


def test_a_rollout_that_runs_refuses_another_target(run, service):
    service.refuses(f"POST /v1/releases/{SECOND}/use", 409, "rollout-active", "A rollout is under way.")

    result = run("release", "use", "2", "--no-rollout")

    assert result.exit_code == ExitCode.FAILED
    assert "(rollout-active)" in result.stderr


def test_a_pin_is_asked_for_by_the_id_of_the_release(run, service):
    service.answers("PUT /v1/stacks/ada/pin", operation("accepted", kind="pin"), status=202)

    result = run("pin", "ada", "2")

    assert result.exit_code == ExitCode.OK
    assert sent(service, "PUT") == {"release": SECOND}
    assert "accepted" in result.stdout


def test_a_pin_may_be_watched_until_it_is_done(run, service):
    service.answers("PUT /v1/stacks/ada/pin", operation("accepted", kind="pin"), status=202)
    service.answers("GET /v1/operations/op_1", operation("succeeded", kind="pin"))

    result = run("pin", "ada", "2", "--wait", "20s")

    assert result.exit_code == ExitCode.OK
    assert "succeeded" in result.stdout


def test_unpinning_asks_for_nothing_but_that(run, service):
    service.answers("DELETE /v1/stacks/ada/pin", operation("succeeded", kind="unpin"), status=202)

    result = run("unpin", "ada")

    assert result.exit_code == ExitCode.OK
    assert "succeeded" in result.stdout


def test_a_group_is_shown(run, service):
    service.answers("GET /v1/groups/team-a", group())

    result = run("group", "show", "team-a")

    assert "30m" in result.stdout


@pytest.mark.parametrize(("members", "is_doubted"), [((), True), (("ada",), False)])
def test_of_a_group_that_nothing_is_known_of_it_is_said(run, service, members, is_doubted):
    service.answers("GET /v1/groups/team-a", group(changed_at=None, changed_by=None, idle_stop_after=None))
    service.answers("GET /v1/stacks", items(*(stack(each) for each in members)))

    result = run("group", "show", "team-a")

    assert result.exit_code == ExitCode.OK
    assert ("No stack is in group team-a" in result.stderr + result.stdout) is is_doubted


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (("--pin", "2"), {"pin": SECOND}),
        (("--no-pin",), {"pin": None}),
        (("--idle-stop-after", "30m"), {"idle_stop_after": "1800s"}),
        (("--no-idle-stop", "--pin", "target"), {"pin": FIRST, "idle_stop_after": None}),
    ],
)
def test_of_a_group_only_what_is_named_is_set(run, service, arguments, body):
    service.answers("PUT /v1/groups/team-a", group())

    result = run("group", "set", "team-a", *arguments)

    assert result.exit_code == ExitCode.OK
    assert sent(service, "PUT") == body


@pytest.mark.parametrize(
    "arguments", [(), ("--pin", "2", "--no-pin"), ("--idle-stop-after", "1h", "--no-idle-stop")]
)
def test_a_group_is_not_set_to_nothing_or_to_both(run, service, arguments):
    result = run("group", "set", "team-a", *arguments)

    assert result.exit_code == ExitCode.USAGE
    assert service.was_asked("PUT") == []


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (("release", "list"), None),
        (("release", "show", "1"), f"GET /v1/releases/{FIRST}"),
        (("group", "show", "team-a"), "GET /v1/groups/team-a"),
    ],
)
def test_with_json_the_answer_of_the_service_is_all_there_is(run, service, arguments, call):
    service.answers("GET /v1/groups/team-a", group())

    result = run(*arguments, "--json")

    expected = {
        None: items(release(2), release(1)),
        f"GET /v1/releases/{FIRST}": whole_release(1),
        "GET /v1/groups/team-a": group(),
    }[call]
    assert json.loads(result.stdout) == expected
    assert result.stderr == ""
