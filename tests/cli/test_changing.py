"""ensure, start, stop, recreate, recover, rotate-password, delete: what they ask, how they wait, how they end."""

import json

import pytest

from fakes.lifecycle_service import problem
from fakes.service_answers import operation, phases, stack, staleness, waiting_stack
from opencode_lifecycle.cli.exit_codes import ExitCode

PUT = "PUT /v1/stacks/ada"
GET = "GET /v1/stacks/ada"
OPERATION = "GET /v1/operations/op_1"
LOCATION = "/v1/operations/op_1"


def accepted(service, *frames, **changes):
    """Script an ensure that is accepted, and the operation as it is seen time after time."""
    service.answers(PUT, waiting_stack(), status=202, Location=LOCATION)
    for frame in frames:
        service.answers(OPERATION, frame)
    service.answers(GET, stack(**changes))


def test_an_ensure_of_what_runs_is_answered_at_once(run, service):
    service.answers(PUT, stack())

    result = run("ensure", "ada")

    assert result.exit_code == ExitCode.OK
    assert "http://10.0.0.7:21000" in result.stdout
    assert len(service.asked) == 1


def test_an_ensure_asks_for_nothing_that_was_not_said(run, service):
    service.answers(PUT, stack())

    run("ensure", "ada")

    assert service.asked[0].body == {}


def test_an_ensure_sends_what_was_said(run, service):
    service.answers(PUT, stack())

    run(
        *("ensure", "ada", "--group", "beta", "--resources", "large"),
        *("--label", "team=search", "--label", "tier=a=b", "--env", "LANG=C"),
    )

    assert service.asked[0].body == {
        "group": "beta",
        "resources": "large",
        "labels": {"team": "search", "tier": "a=b"},
        "environment": {"LANG": "C"},
    }


def test_labels_and_variables_can_be_taken_away(run, service):
    service.answers(PUT, stack())

    run("ensure", "ada", "--no-label", "--no-env")

    assert service.asked[0].body == {"labels": {}, "environment": {}}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--label", "team"),
        ("--label", "=x"),
        ("--label", "a=1", "--label", "a=2"),
        ("--label", "a=1", "--no-label"),
        ("--wait", "soon"),
    ],
)
def test_an_ensure_that_contradicts_itself_asks_for_nothing(run, service, arguments):
    assert run("ensure", "ada", *arguments).exit_code == ExitCode.USAGE
    assert service.asked == []


def test_an_ensure_tells_each_phase_once_and_ends_with_the_address(run, service):
    accepted(
        service,
        operation("accepted"),
        operation("running", phases=phases("pending")),
        operation("running", phases=phases("pending", "starting")),
        operation("running", phases=phases("pending", "starting")),
        operation("succeeded", phases=phases("pending", "starting", "running")),
    )

    result = run("ensure", "ada")

    assert result.exit_code == ExitCode.OK
    assert result.stderr.splitlines() == ["ada: pending", "ada: starting", "ada: running"]
    assert "http://10.0.0.7:21000" in result.stdout


def test_an_ensure_with_json_prints_the_stack_it_came_to_and_nothing_else(run, service):
    accepted(service, operation("running"), operation("succeeded"))

    result = run("ensure", "ada", "--json")

    assert json.loads(result.stdout) == stack()
    assert result.stderr == ""


def test_an_ensure_of_a_stale_stack_names_what_is_stale(run, service):
    service.answers(PUT, stack(staleness=[staleness(), staleness(facet="prompt")]))

    assert "image, prompt" in run("ensure", "ada").stdout


def test_an_ensure_that_failed_says_why_and_what_to_do(run, service):
    failed = {"reason": "no_capacity", "message": "2 nodes filtered: memory exhausted"}
    accepted(service, operation("failed", **failed), phase="failed", health="unknown", runtime=None, **failed)

    result = run("ensure", "ada")

    assert result.exit_code == ExitCode.FAILED
    assert (
        "Error: ensure failed for stack ada: it could not be started: "
        "2 nodes filtered: memory exhausted (no_capacity)" in result.stderr
    )
    assert "What to do: free or add a node" in result.stderr


def test_an_ensure_that_takes_longer_is_exit_code_6_and_tells_how_it_stands(run, service):
    service.answers(PUT, waiting_stack(), status=202, Location=LOCATION)
    service.answers(OPERATION, operation("running"))
    service.answers(GET, waiting_stack(reason="vault_unavailable", message="Vault is sealed"))

    result = run("ensure", "ada", "--wait", "1s", "--json")

    assert result.exit_code == ExitCode.NOT_IN_TIME
    assert json.loads(result.stdout)["phase"] == "pending"
    assert "not ready within 1 s: Vault is sealed (vault_unavailable)" in result.stderr


def test_an_ensure_that_does_not_wait_ends_when_it_is_accepted(run, service):
    service.answers(PUT, waiting_stack(), status=202, Location=LOCATION)

    result = run("ensure", "ada", "--wait", "0s")

    assert result.exit_code == ExitCode.OK
    assert "op_1" in result.stderr
    assert len(service.asked) == 1


def test_an_ensure_that_does_not_wait_is_silent_with_json_but_for_the_stack(run, service):
    service.answers(PUT, waiting_stack(), status=202, Location=LOCATION)

    result = run("ensure", "ada", "--wait", "0s", "--json")

    assert json.loads(result.stdout) == waiting_stack()
    assert result.stderr == ""


def test_an_ensure_without_an_operation_waits_for_the_stack_itself(run, service):
    service.answers(PUT, stack(reason="unknown", health="unknown"), status=202)
    service.answers(GET, stack(reason="unknown", health="unknown"))
    service.answers(GET, stack())

    result = run("ensure", "ada")

    assert result.exit_code == ExitCode.OK
    assert len(service.was_asked("GET")) == 2


@pytest.mark.parametrize(
    "not_yet",
    [
        {"phase": "starting"},
        {"health": "starting"},
        {"observed_generation": 2},
        {"desired": "stopped"},
        {"runtime": None},
    ],
)
def test_an_ensure_that_was_superseded_waits_until_the_stack_is_ready_all_the_same(run, service, not_yet):
    service.answers(PUT, waiting_stack(), status=202, Location=LOCATION)
    service.answers(OPERATION, operation("superseded"))
    service.answers(GET, stack(**not_yet))
    service.answers(GET, stack())

    result = run("ensure", "ada")

    assert result.exit_code == ExitCode.OK
    assert len([asked for asked in service.asked if asked.path == "/v1/stacks/ada"]) == 3


def test_waiting_outlasts_a_restart_of_the_service(run, service):
    service.answers(PUT, waiting_stack(), status=202, Location=LOCATION)
    service.answers(OPERATION, operation("running"))
    service.answers(OPERATION, problem(503, "upstream-unavailable"), status=503)
    service.cuts(OPERATION)
    service.cuts(OPERATION)
    service.answers(OPERATION, operation("succeeded"))
    service.answers(GET, stack())

    assert run("ensure", "ada").exit_code == ExitCode.OK


def test_waiting_ends_when_the_service_refuses(run, service):
    service.answers(PUT, waiting_stack(), status=202, Location=LOCATION)
    service.answers(OPERATION, operation("running"))
    service.refuses(OPERATION, 401, "unauthenticated")

    assert run("ensure", "ada").exit_code == ExitCode.NOT_ALLOWED


@pytest.mark.parametrize("command", ["start", "stop", "recreate", "recover", "rotate-password"])
def test_a_change_is_asked_for_and_followed_to_its_end(run, service, command):
    service.answers(f"POST /v1/stacks/ada/{command}", operation("accepted"), status=202, Location=LOCATION)
    service.answers(OPERATION, operation("running"))
    service.answers(OPERATION, operation("succeeded"))

    result = run(command, "ada")

    assert result.exit_code == ExitCode.OK
    assert result.stdout.splitlines()[0].split() == [command, "succeeded"]
    assert len(service.asked) == 3


@pytest.mark.parametrize("command", ["start", "stop", "recreate", "recover", "rotate-password"])
def test_a_change_with_json_prints_the_finished_operation(run, service, command):
    service.answers(f"POST /v1/stacks/ada/{command}", operation("accepted"), status=202, Location=LOCATION)
    service.answers(OPERATION, operation("succeeded"))

    result = run(command, "ada", "--json")

    assert json.loads(result.stdout) == operation("succeeded")
    assert result.stderr == ""


def test_every_change_carries_an_idempotency_key_of_its_own(run, service):
    service.answers("POST /v1/stacks/ada/stop", operation(), status=202)
    service.answers(PUT, stack())
    service.answers("DELETE /v1/stacks/ada", operation(), status=202)

    for arguments in (("stop", "ada"), ("stop", "ada"), ("ensure", "ada"), ("delete", "ada", "--yes")):
        run(*arguments)

    assert len({asked.headers["Idempotency-Key"] for asked in service.asked}) == 4


def test_a_stop_of_what_is_stopped_ends_at_once(run, service):
    service.answers("POST /v1/stacks/ada/stop", operation("succeeded", kind="stop"), status=202)

    assert run("stop", "ada").exit_code == ExitCode.OK
    assert service.asked[0].query == {}
    assert len(service.asked) == 1


def test_a_stop_can_hold(run, service):
    service.answers("POST /v1/stacks/ada/stop", operation("succeeded"), status=202)

    run("stop", "ada", "--hold")

    assert service.asked[0].query == {"hold": "true"}


@pytest.mark.parametrize(
    ("state", "expected", "said"),
    [
        ("failed", ExitCode.FAILED, "it did not succeed: it crashes (driver_failed)"),
        ("superseded", ExitCode.FAILED, "a later request took its place"),
        ("running", ExitCode.NOT_IN_TIME, "not finished within 1 s"),
    ],
)
def test_a_change_that_did_not_succeed_says_how_it_ended(run, service, state, expected, said):
    service.answers("POST /v1/stacks/ada/recreate", operation("accepted"), status=202, Location=LOCATION)
    service.answers(OPERATION, operation(state, reason="driver_failed", message="it crashes"))

    result = run("recreate", "ada", "--wait", "1s")

    assert result.exit_code == expected
    assert said in result.stderr


def test_a_change_that_does_not_wait_ends_when_it_is_accepted(run, service):
    service.answers("POST /v1/stacks/ada/stop", operation("accepted"), status=202, Location=LOCATION)

    assert run("stop", "ada", "--wait", "0s").exit_code == ExitCode.OK
    assert len(service.asked) == 1


def test_a_held_stack_is_not_ensured(run, service):
    service.refuses(PUT, 409, "stack-held")

    result = run("ensure", "ada")

    assert result.exit_code == ExitCode.FAILED
    assert "`opencode-lifecycle start ada` or `recover ada` ends the hold" in result.stderr


def test_a_deletion_shows_its_receipt(run, service):
    service.answers(
        "DELETE /v1/stacks/ada", operation("accepted", kind="delete"), status=202, Location=LOCATION
    )
    service.answers(OPERATION, operation("succeeded", receipt={"job": "purged", "secret": "destroyed"}))

    result = run("delete", "ada", "--workspace", "delete", "--yes")

    assert service.asked[0].query == {"workspace": "delete"}
    assert [line.split() for line in result.stdout.splitlines()[-2:]] == [
        ["job", "purged"],
        ["secret", "destroyed"],
    ]


def test_a_deletion_keeps_the_workspace_unless_told_otherwise(run, service):
    service.answers("DELETE /v1/stacks/ada", operation(), status=202)

    run("delete", "ada", "--yes")

    assert service.asked[0].query == {"workspace": "keep"}


def test_a_deletion_that_nobody_can_confirm_is_not_done(run, service):
    result = run("delete", "ada", input="y\n")

    assert result.exit_code == ExitCode.USAGE
    assert service.asked == []
