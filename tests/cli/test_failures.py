"""How a command ends when it cannot do what it was asked: its exit code, and what it says."""

import socket

import pytest

from fakes.lifecycle_service import TOKEN
from fakes.service_answers import stack
from opencode_lifecycle.cli import advice, client
from opencode_lifecycle.cli.exit_codes import MEANINGS, ExitCode
from opencode_lifecycle.model import errors
from opencode_lifecycle.model.states import Reason

ADA = "GET /v1/stacks/ada"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "invalid-request", ExitCode.USAGE),
        (401, "unauthenticated", ExitCode.NOT_ALLOWED),
        (403, "forbidden", ExitCode.NOT_ALLOWED),
        (404, "stack-not-found", ExitCode.NOT_FOUND),
        (409, "runtime-not-ready", ExitCode.NOT_IN_TIME),
        (409, "stack-held", ExitCode.FAILED),
        (413, "too-large", ExitCode.USAGE),
        (422, "invalid-body", ExitCode.USAGE),
        (429, "rate-limited", ExitCode.FAILED),
        (500, "internal", ExitCode.FAILED),
        (503, "upstream-unavailable", ExitCode.FAILED),
    ],
)
def test_the_exit_code_follows_from_the_refusal(run, service, status, code, expected):
    service.refuses(ADA, status, code)

    assert run("show", "ada").exit_code == expected


def test_a_service_that_is_not_there_is_exit_code_3(cli, token_file):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    result = cli("--url", f"http://127.0.0.1:{port}", "--token-file", str(token_file), "show", "ada")

    assert result.exit_code == ExitCode.UNREACHABLE
    assert f"http://127.0.0.1:{port}" in result.stderr
    assert "refused" in result.stderr


def test_a_redirect_is_not_followed(run, service):
    service.answers(ADA, {}, status=307, Location=f"{service.url}/v1/stacks/eve")
    service.answers("GET /v1/stacks/eve", stack("eve"))

    result = run("show", "ada")

    assert result.exit_code == ExitCode.UNREACHABLE
    assert [asked.path for asked in service.asked] == ["/v1/stacks/ada"]


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>welcome</html>"), (502, b"<html>bad gateway</html>"), (200, b"[]")]
)
def test_an_answer_of_something_else_is_exit_code_3_and_its_body_is_not_shown(run, service, status, body):
    service.answers(ADA, body, status=status)

    result = run("show", "ada")

    assert result.exit_code == ExitCode.UNREACHABLE
    assert "html" not in result.output


def test_an_endless_answer_is_given_up(run, service, monkeypatch):
    monkeypatch.setattr(client, "ANSWER_LIMIT_BYTES", 1000)
    service.answers(ADA, stack(message="x" * 2000))

    result = run("show", "ada")

    assert result.exit_code == ExitCode.UNREACHABLE
    assert "larger" in result.stderr


def test_a_slow_answer_is_given_up(run, service, monkeypatch, silent_port):
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.2)

    result = run("show", "ada", "--url", f"http://127.0.0.1:{silent_port}")

    assert result.exit_code == ExitCode.UNREACHABLE
    assert "may have been accepted" in result.stderr


@pytest.fixture
def silent_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_an_error_says_what_failed_for_which_stack_and_what_to_do(run, service):
    service.refuses("POST /v1/stacks/ada/stop", 404, "stack-not-found", "There is no stack for this user.")

    result = run("stop", "ada")

    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "Error: stop failed for stack ada: There is no stack for this user. (stack-not-found)",
        "  What to do: see `opencode-lifecycle list`; `opencode-lifecycle ensure ada` makes one",
    ]


def test_an_error_with_json_leaves_stdout_empty(run, service):
    service.refuses(ADA, 404, "stack-not-found")

    result = run("show", "ada", "--json")

    assert result.stdout == ""
    assert "stack-not-found" in result.stderr


def test_faults_in_a_body_are_listed_by_their_pointers(run, service):
    service.refuses(
        "PUT /v1/stacks/ada",
        422,
        "invalid-body",
        errors=[{"pointer": "/environment/HOME", "detail": "the operator does not allow this name"}],
    )

    result = run("ensure", "ada", "--env", "HOME=/")

    assert "  /environment/HOME: the operator does not allow this name" in result.stderr.splitlines()


def test_how_long_to_wait_is_passed_on(run, service):
    service.answers(ADA, {"code": "rate-limited", "detail": "Too many."}, status=429, Retry_After="7")

    assert "The service asks to wait 7 s." in run("show", "ada").stderr


def test_an_id_that_cannot_be_one_is_refused_before_anything_is_sent(run, service):
    result = run("show", "../tokens")

    assert result.exit_code == ExitCode.USAGE
    assert service.asked == []


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8700", "ftp://127.0.0.1", "http://ada:secret@127.0.0.1", "http://h/?token=x"]
)
def test_an_address_that_is_none_or_carries_a_secret_is_refused(cli, url):
    result = cli("show", "ada", "--url", url)

    assert result.exit_code == ExitCode.USAGE
    assert "secret" not in result.output


@pytest.mark.parametrize("content", ["", "two words\n", "line\nbreak", "\N{BULLET}\N{BULLET}"])
def test_a_token_file_without_exactly_one_token_is_refused_and_not_repeated(cli, service, tmp_path, content):
    file = tmp_path / "odd"
    file.write_text(content)

    result = cli("--url", service.url, "--token-file", str(file), "show", "ada")

    assert result.exit_code == ExitCode.USAGE
    assert "words" not in result.output
    assert service.asked == []


def test_a_token_file_that_is_not_there_is_a_usage_error(cli, service, tmp_path):
    result = cli("--url", service.url, "--token-file", str(tmp_path / "gone"), "show", "ada")

    assert result.exit_code == ExitCode.USAGE
    assert "No such file" in result.stderr


def test_no_option_takes_a_token(cli):
    assert cli("show", "ada", "--token", TOKEN).exit_code == ExitCode.USAGE


def test_the_connection_comes_from_the_environment_when_no_option_says_otherwise(cli, service, token_file):
    service.answers(ADA, stack())

    result = cli(
        "show",
        "ada",
        env={"OPENCODE_LIFECYCLE_URL": service.url, "OPENCODE_LIFECYCLE_TOKEN_FILE": str(token_file)},
    )

    assert result.exit_code == ExitCode.OK


def test_an_option_wins_over_the_environment_wherever_it_stands(cli, service, token_file):
    service.answers(ADA, stack())
    elsewhere = {
        "OPENCODE_LIFECYCLE_URL": "http://127.0.0.1:9",
        "OPENCODE_LIFECYCLE_TOKEN_FILE": str(token_file),
    }

    before = cli("--url", service.url, "show", "ada", env=elsewhere)
    after = cli("show", "ada", "--url", service.url, env=elsewhere)

    assert (before.exit_code, after.exit_code) == (ExitCode.OK, ExitCode.OK)


def test_a_path_in_front_of_the_service_is_kept(cli, service, token_file):
    service.answers("GET /lifecycle/v1/stacks/ada", stack())

    result = cli("--url", f"{service.url}/lifecycle/", "--token-file", str(token_file), "show", "ada")

    assert result.exit_code == ExitCode.OK


def test_ids_are_percent_encoded_in_paths(run, service):
    service.answers("GET /v1/stacks/a%40b%2Bc%7Cd%3Ae~f%3Dg", stack("a@b+c|d:e~f=g"))

    result = run("show", "a@b+c|d:e~f=g", "--json")

    assert result.exit_code == ExitCode.OK


def test_a_read_whose_connection_was_cut_is_asked_once_more(run, service):
    service.cuts(ADA)
    service.answers(ADA, stack())

    assert run("show", "ada").exit_code == ExitCode.OK


def test_a_write_whose_connection_was_cut_is_repeated_under_the_same_key(run, service):
    service.cuts("POST /v1/stacks/ada/stop")
    service.answers(
        "POST /v1/stacks/ada/stop", {"id": "op_1", "user_id": "ada", "state": "succeeded"}, status=202
    )

    result = run("stop", "ada")

    keys = [asked.headers["Idempotency-Key"] for asked in service.was_asked("POST")]
    assert result.exit_code == ExitCode.OK
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_a_write_without_a_key_is_never_repeated(run, service):
    service.cuts("POST /v1/tokens")

    result = run("token", "create", "--name", "ci", "--role", "backend")

    assert result.exit_code == ExitCode.UNREACHABLE
    assert len(service.asked) == 1


def test_what_comes_from_outside_cannot_steer_the_terminal(run, service):
    service.answers(ADA, stack(message="\x1b]0;owned\x07\x1b[2J[red]plain[/red]"))

    result = run("show", "ada")

    assert "\x1b" not in result.stdout
    assert "[red]plain[/red]" in result.stdout


def test_the_help_tells_every_exit_code(cli):
    shown = cli("--help").stdout

    assert all(f"  {code.value}  {meaning}" in shown for code, meaning in MEANINGS.items())


def test_there_is_advice_for_every_refusal_of_the_service():
    def below(kind):
        return {kind, *(leaf for child in kind.__subclasses__() for leaf in below(child))}

    refusals = {
        kind.code for kind in below(errors.Refusal) | below(errors.UpstreamError) | {errors.DeadlineExceeded}
    } - {errors.LifecycleError.code, errors.UpstreamError.code}

    assert refusals <= set(advice.FOR_PROBLEMS)


def test_there_is_advice_for_every_reason():
    assert set(advice.FOR_REASONS) == set(Reason)


def test_advice_names_the_stack_in_a_form_a_shell_takes(run, service):
    service.refuses("GET /v1/stacks/a%7Cb", 404, "stack-not-found")

    assert "ensure 'a|b'" in run("show", "a|b").stderr
