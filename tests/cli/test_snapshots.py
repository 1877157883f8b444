"""The table of the snapshots of a user's data."""

import json

from fakes.service_answers import SINCE, snapshot
from opencode_lifecycle.api import schemas
from opencode_lifecycle.cli.exit_codes import ExitCode

CALL = "GET /v1/stacks/ada/snapshots"


def answer(*found, **changes):
    return {"items": list(found), "next_cursor": None, "observed_at": SINCE, "refused": None, **changes}


def test_the_scripted_answer_has_the_shape_of_the_contract():
    body = answer(snapshot(), refused={"code": 65, "reason": "x", "written": None})

    assert json.loads(schemas.SnapshotsShape.model_validate(body).model_dump_json()) == body


def test_each_snapshot_has_a_line(run, service):
    service.answers(CALL, answer(snapshot(), snapshot(id="01JABCDEFGHJKMNPQRSTVWXYZ1", opencode_version="")))

    result = run("snapshots", "ada")

    first, second = result.stdout.splitlines()[1:3]
    assert first.startswith("01JABCDEFGHJKMNPQRSTVWXYZ0")
    assert [word in first for word in ("1.17.0", "1.18.34", "32", "3.5 MiB")] == [True] * 4
    assert "unknown" in second
    assert "Seen" in result.stderr


def test_why_a_version_was_not_started_comes_first(run, service):
    service.answers(CALL, answer(snapshot(), refused={"code": 65, "reason": "older than the data\x1b[31m"}))

    result = run("snapshots", "ada")

    assert "exit code 65" in result.stderr
    assert "older than the data" in result.stderr
    assert "\x1b" not in result.stderr


def test_a_user_without_snapshots_has_no_table(run, service):
    service.answers(CALL, answer(observed_at=None))

    result = run("snapshots", "ada")

    assert result.stdout == ""
    assert "no snapshots" in result.stderr


def test_scripts_get_the_answer_as_it_is(run, service):
    service.answers(CALL, answer(snapshot()))

    assert json.loads(run("snapshots", "ada", "--json").stdout) == answer(snapshot())


def test_a_refusal_names_the_user(run, service):
    service.refuses(CALL, 404, "stack-not-found")

    result = run("snapshots", "ada")

    assert "snapshots failed for stack ada" in result.stderr
    assert "opencode-lifecycle ensure ada" in result.stderr


def test_a_user_id_that_is_none_is_wrong_usage(run, service):
    assert run("snapshots", "a b").exit_code == ExitCode.USAGE
    assert service.asked == []
