"""show, list, address, credentials, logs, operation, events, openapi: what they print, and what they never do."""

import json

import pytest

from fakes.lifecycle_service import TOKEN
from fakes.rollout_answers import member, plan, planned_stack, rollout, rollout_detail
from fakes.service_answers import (
    JOB,
    address,
    condition,
    event,
    items,
    migration,
    operation,
    order,
    orphan,
    phases,
    readiness,
    runtime,
    stack,
    staleness,
    token,
)
from opencode_lifecycle.api import schemas
from opencode_lifecycle.cli.exit_codes import ExitCode

ADA = "GET /v1/stacks/ada"
PASSWORD = "planted-password-8f2e"
CREDENTIALS = {"username": "opencode", "password": PASSWORD, "secret_version": 4, "allocation_id": "1111"}


@pytest.mark.parametrize(
    ("answer", "shape"),
    [
        (stack(staleness=[staleness()]), schemas.StackShape),
        (stack(migration=migration("draining", order=order())), schemas.StackShape),
        (runtime(), schemas.RuntimeShape),
        (operation(phases=phases("pending")), schemas.OperationShape),
        (address(), schemas.AddressShape),
        (event(), schemas.EventShape),
        (token(), schemas.TokenShape),
        (token(secret="x"), schemas.IssuedTokenShape),
        (CREDENTIALS, schemas.CredentialsShape),
        (readiness("vault"), schemas.ReadinessShape),
        (condition(), schemas.ConditionShape),
        (orphan(), schemas.OrphanShape),
        (plan(planned_stack(), planned_stack("bob", left_out="pinned")), schemas.RolloutPlanShape),
        (rollout(), schemas.RolloutShape),
        (rollout_detail("running", member()), schemas.RolloutDetailShape),
    ],
)
def test_the_answers_in_these_tests_have_the_shapes_of_the_service(answer, shape):
    assert json.loads(shape.model_validate(answer).model_dump_json()) == answer


def lines_of(result):
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_show_tells_every_fact(run, service):
    service.answers(
        ADA,
        stack(
            generation=4,
            reason="no_capacity",
            message="2 nodes filtered: memory exhausted",
            staleness=[
                staleness(),
                staleness(facet="prompt", have="aa", want="bb", severity="info", restart=False),
            ],
        ),
    )

    lines = lines_of(run("show", "ada"))

    assert "desired running" in lines
    assert "phase running" in lines
    assert "health healthy" in lines
    assert "reason no_capacity" in lines
    assert "message 2 nodes filtered: memory exhausted" in lines
    assert "generation 4 (status speaks for 3)" in lines
    assert "wanted rel_2" in lines
    assert "running rel_1" in lines
    assert "address http://10.0.0.7:21000" in lines
    assert "allocation 11111111-2222-3333-4444-555555555555" in lines
    assert "node node-a" in lines
    assert "OpenCode 1.18.34" in lines
    assert "image registry.example/opencode@sha256:feed" in lines
    assert "revision feedfacefeedface" in lines
    assert "labels team=search" in lines
    assert "image v1 v2 warning yes" in lines
    assert "prompt aa bb info no" in lines
    assert any(line.startswith("what to do free or add a node that fits") for line in lines)


def test_show_prints_the_vendors_commands_ready_to_copy(run, service):
    service.answers(ADA, stack())

    lines = run("show", "ada").stdout.splitlines()

    assert f"nomad job status -namespace=opencode {JOB}" in lines
    assert "nomad alloc logs -namespace=opencode 11111111-2222-3333-4444-555555555555 server" in lines
    assert f"consul catalog nodes -service={JOB}" in lines
    assert any(f"$CONSUL_HTTP_ADDR/v1/health/service/{JOB}?passing" in line for line in lines)
    assert f"vault kv metadata get -mount=kv opencode/{JOB}" in lines
    assert "curl -u opencode http://10.0.0.7:21000/global/health" in lines


def test_show_of_a_stack_without_a_runtime_names_its_logs_by_job(run, service):
    service.answers(ADA, stack(phase="pending", runtime=None))

    result = run("show", "ada")

    assert f"nomad alloc logs -namespace=opencode -job {JOB} server" in result.stdout.splitlines()
    assert "curl -u" not in result.stdout


def test_show_with_json_is_the_services_answer_and_nothing_else(run, service):
    answer = stack(field_of_a_newer_service={"deep": [1, None]})
    service.answers(ADA, answer)

    result = run("show", "ada", "--json")

    assert json.loads(result.stdout) == answer
    assert result.stderr == ""


def test_a_list_takes_a_release_by_the_name_that_people_give_it(run, service):
    service.answers("GET /v1/releases", items({"id": "rel_2", "number": 7, "is_current": True}))
    service.answers("GET /v1/stacks", items())

    run("list", "--release", "7")
    run("list", "--release", "target")

    assert [asked.query["release"] for asked in service.asked if asked.path == "/v1/stacks"] == ["rel_2"] * 2


def test_a_list_shows_a_line_for_each_stack(run, service):
    service.answers(
        "GET /v1/stacks",
        items(
            stack(wanted_release="rel_1"),
            stack(
                "bob",
                phase="failed",
                health="unknown",
                reason="lost",
                runtime=None,
                staleness=[staleness()],
                pinned=True,
            ),
        ),
    )

    result = run("list")

    assert result.stdout.splitlines()[0].split()[:3] == ["USER", "PHASE", "HEALTH"]
    assert lines_of(result)[1:] == [
        f"ada running healthy current - 1.18.34 rel_1 - - node-a {JOB}",
        f"bob failed unknown current lost - rel_1 → rel_2 yes image - {JOB}",
    ]
    assert result.stderr == "2 stacks\n"


def test_a_long_line_is_never_cut_or_folded_in_a_pipe(run, service):
    service.answers("GET /v1/stacks", items(*(stack(f"{'u' * 127}{n}", group="g" * 60) for n in range(3))))

    assert len(run("list").stdout.splitlines()) == 4


def test_a_list_fetches_page_after_page(run, service):
    service.answers("GET /v1/stacks", items(stack("a"), next_cursor="c/1="))
    service.answers("GET /v1/stacks", items(stack("b"), next_cursor="c/2="))
    service.answers("GET /v1/stacks", items(stack("c")))

    result = run("list", "--json")

    assert [found["user_id"] for found in json.loads(result.stdout)["items"]] == ["a", "b", "c"]
    assert json.loads(result.stdout)["next_cursor"] is None
    assert [asked.query.get("cursor") for asked in service.asked] == [None, "c/1=", "c/2="]


def test_a_limit_ends_the_paging_and_leaves_the_cursor(run, service):
    service.answers("GET /v1/stacks", items(*(stack(f"u{n}") for n in range(500)), next_cursor="more"))
    service.answers("GET /v1/stacks", items(*(stack(f"v{n}") for n in range(2)), next_cursor="most"))

    result = run("list", "--limit", "502", "--json")

    assert len(json.loads(result.stdout)["items"]) == 502
    assert json.loads(result.stdout)["next_cursor"] == "most"
    assert [asked.query["limit"] for asked in service.asked] == ["500", "2"]


def test_a_list_goes_on_where_an_earlier_one_ended(run, service):
    service.answers("GET /v1/stacks", items(stack("a"), next_cursor="c/1="))
    service.answers("GET /v1/stacks", items(stack("b"), next_cursor="c/2="))
    service.answers("GET /v1/stacks", items(stack("c")))

    first = run("list", "--limit", "1")
    rest = run("list", "--cursor", "c/1=")

    assert "there are more, go on with --cursor c/1=" in first.stderr
    assert [asked.query.get("cursor") for asked in service.asked] == [None, "c/1=", "c/2="]
    assert rest.stderr == "2 stacks\n"


def test_a_cursor_that_does_not_move_ends_the_paging(run, service):
    service.answers("GET /v1/stacks", items(stack(), next_cursor="same"))

    assert run("list").exit_code == ExitCode.OK
    assert len(service.asked) == 2


def test_filters_are_those_of_the_api(run, service):
    service.answers("GET /v1/stacks", items())

    run(
        "list",
        *("--phase", "failed", "--health", "unknown", "--migration-state", "stale", "--release", "rel_1"),
        *("--reason", "lost", "--stale", "--group", "beta", "--label", "team=a&b=c"),
    )

    assert service.asked[0].query == {
        "phase": "failed",
        "health": "unknown",
        "migration_state": "stale",
        "release": "rel_1",
        "reason": "lost",
        "stale": "true",
        "group": "beta",
        "label": "team=a&b=c",
        "limit": "500",
    }


@pytest.mark.parametrize(
    ("arguments", "asked"), [(["--stale"], "true"), (["--stale", "image"], "image"), (["--current"], "false")]
)
def test_the_stale_can_be_asked_for_in_anything_or_in_one_facet(run, service, arguments, asked):
    service.answers("GET /v1/stacks", items())

    run("list", *arguments, "--json")

    assert service.asked[0].query["stale"] == asked


def test_a_facet_that_there_is_not_is_refused_with_those_there_are(run, service):
    result = run("list", "--stale", "colour")

    assert result.exit_code == ExitCode.USAGE
    assert "colour is no facet; there are image, opencode_version," in result.stderr
    assert service.asked == []


def test_the_stale_and_the_current_exclude_each_other(run, service):
    result = run("list", "--stale", "--current")

    assert result.exit_code == ExitCode.USAGE
    assert "--stale and --current exclude each other" in result.stderr


def test_a_list_without_any_stack_has_no_table(run, service):
    service.answers("GET /v1/stacks", items())

    result = run("list")

    assert (result.stdout, result.stderr) == ("", "0 stacks\n")


def test_an_address_is_printed_alone_for_scripts(run, service):
    service.answers("GET /v1/stacks/ada/address", address())

    result = run("address", "ada")

    assert result.stdout == "http://10.0.0.7:21000\n"
    assert "generation 3" in result.stderr
    assert service.asked[0].query == {"audience": "internal"}


def test_an_address_that_is_not_ready_is_exit_code_6(run, service):
    service.refuses("GET /v1/stacks/ada/address", 409, "runtime-not-ready")

    assert run("address", "ada", "--audience", "public").exit_code == ExitCode.NOT_IN_TIME


def test_credentials_show_the_password_and_where_it_is_good(run, service):
    service.answers("POST /v1/stacks/ada/credentials", CREDENTIALS)
    service.answers("GET /v1/stacks/ada/address", address())

    lines = lines_of(run("credentials", "ada"))

    assert "url http://10.0.0.7:21000" in lines
    assert "username opencode" in lines
    assert f"password {PASSWORD}" in lines


def test_credentials_are_shown_although_the_address_went_away(run, service):
    service.answers("POST /v1/stacks/ada/credentials", CREDENTIALS)
    service.refuses("GET /v1/stacks/ada/address", 409, "runtime-not-ready")

    result = run("credentials", "ada")

    assert result.exit_code == ExitCode.OK
    assert PASSWORD in result.stdout


def test_credentials_with_json_are_the_services_answer(run, service):
    service.answers("POST /v1/stacks/ada/credentials", CREDENTIALS)

    assert json.loads(run("credentials", "ada", "--json").stdout) == CREDENTIALS


def test_wrapped_credentials_show_a_token_in_place_of_the_password(run, service):
    service.answers("POST /v1/stacks/ada/credentials", {"wrapping_token": "hvs.wrapped", "ttl_seconds": 120})

    result = run("credentials", "ada", "--wrap", "2m")

    assert "wrapping token hvs.wrapped" in lines_of(result)
    assert service.asked[0].query == {"wrap": "120s"}


def test_a_log_is_passed_on_byte_for_byte(run, service):
    log = b"one\r\n\xff\x00\x1b[31mtwo"
    service.answers("GET /v1/stacks/ada/logs", log)

    result = run("logs", "ada", "--type", "stderr", "--tail", "5")

    assert result.stdout_bytes == log
    assert service.asked[0].query == {"type": "stderr", "tail": "5", "follow": "false"}


def test_a_log_can_be_followed_until_it_ends(run, service):
    service.answers("GET /v1/stacks/ada/logs", b"line\n")

    result = run("logs", "ada", "-f")

    assert result.stdout == "line\n"
    assert service.asked[0].query["follow"] == "true"


def test_a_refused_log_ends_like_any_refusal(run, service):
    service.refuses("GET /v1/stacks/ada/logs", 403, "forbidden")

    result = run("logs", "ada")

    assert result.exit_code == ExitCode.NOT_ALLOWED
    assert result.stdout == ""


def test_an_operation_shows_its_phases_and_receipt(run, service):
    service.answers(
        "GET /v1/operations/op_1",
        operation(
            kind="delete", phases=phases("stopping", "deleting"), receipt={"job": "purged", "volume": "kept"}
        ),
    )

    lines = lines_of(run("operation", "op_1"))

    assert "kind delete" in lines
    assert "state succeeded" in lines
    assert "stopping 2026-01-02T03:04:00Z" in lines
    assert "volume kept" in lines


def test_an_operation_id_cannot_leave_its_path(run, service):
    service.refuses("GET /v1/operations/..%2Ftokens", 404, "operation-not-found")

    result = run("operation", "../tokens")

    assert result.exit_code == ExitCode.NOT_FOUND
    assert "operation-not-found" in result.stderr


@pytest.mark.parametrize(("arguments", "path"), [((), "/v1/events"), (("ada",), "/v1/stacks/ada/events")])
def test_events_are_those_of_one_stack_or_of_all(run, service, arguments, path):
    service.answers(f"GET {path}", items(event()))

    result = run("events", *arguments)

    assert "2026-01-02T03:04:05Z ada stack.ensured backend-1 3 resources=small" in lines_of(result)


def test_an_event_reads_as_a_change_and_leaves_out_what_is_empty(run, service):
    data = {
        "desired": {"from": "running", "to": "stopped"},
        "held": {"from": False, "to": True},
        "reason": None,
        "message": "",
    }
    service.answers("GET /v1/events", items(event(data=data)))

    assert run("events").stdout.rstrip().endswith(" desired=running → stopped, held=no → yes")


def test_the_latest_events_are_shown_though_the_service_begins_with_the_first(run, service):
    service.answers("GET /v1/events", items(event(id="evt_1"), event(id="evt_2"), next_cursor="more"))
    service.answers("GET /v1/events", items(event(id="evt_3")))

    result = run("events", "--last", "2", "--json")

    assert json.loads(result.stdout) == items(event(id="evt_2"), event(id="evt_3"))


def test_the_description_of_the_api_needs_no_token(cli, service):
    service.answers("GET /openapi.json", {"openapi": "3.1.0"})

    result = cli("openapi", "--url", service.url)

    assert json.loads(result.stdout) == {"openapi": "3.1.0"}


@pytest.mark.parametrize("extra", [(), ("--json",)])
@pytest.mark.parametrize(
    "command",
    [("show", "ada"), ("list",), ("address", "ada"), ("operation", "op_1"), ("events",), ("ensure", "ada")],
)
def test_no_other_command_asks_for_a_password_or_shows_the_token(run, service, command, extra):
    service.answers(ADA, stack())
    service.answers("PUT /v1/stacks/ada", stack())
    service.answers("GET /v1/stacks", items(stack()))
    service.answers("GET /v1/stacks/ada/address", address())
    service.answers("GET /v1/operations/op_1", operation())
    service.answers("GET /v1/events", items(event()))
    service.answers("POST /v1/stacks/ada/credentials", CREDENTIALS)

    result = run(*command, *extra)

    assert result.exit_code == ExitCode.OK
    assert TOKEN not in result.output
    assert not any("credentials" in asked.path for asked in service.asked)


@pytest.mark.parametrize("command", [("show", "ada"), ("list",)])
def test_nothing_is_coloured_where_no_terminal_is(run, service, monkeypatch, command):
    monkeypatch.setenv("FORCE_COLOR", "1")
    service.answers(ADA, stack(staleness=[staleness()]))
    service.answers("GET /v1/stacks", items(stack()))

    assert "\x1b" not in run(*command).output
