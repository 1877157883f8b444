"""Tokens: created once and shown once, listed without secrets, revoked; the first one without a service."""

import json
import sys
from types import ModuleType

import pytest

import opencode_lifecycle
from fakes.service_answers import items, token
from opencode_lifecycle.cli.exit_codes import ExitCode

SECRET = "olt_planted-new-secret"


@pytest.fixture
def issued(monkeypatch):
    """Stand in for the application: record what it is asked to issue."""
    calls = []

    async def issue_token(settings, *, name, role, subject):
        calls.append((settings, name, role, subject))
        return SECRET

    application = ModuleType("opencode_lifecycle.application")
    application.issue_token = issue_token
    monkeypatch.setitem(sys.modules, application.__name__, application)
    monkeypatch.setattr(opencode_lifecycle, "application", application, raising=False)
    return calls


def test_a_created_token_is_alone_on_stdout(run, service):
    service.answers("POST /v1/tokens", token(secret=SECRET), status=201)

    result = run("token", "create", "--name", "backend-1", "--role", "backend")

    assert result.stdout == f"{SECRET}\n"
    assert result.stderr == "tok_1 for backend-1 (backend): shown this once\n"
    assert service.asked[0].body == {"name": "backend-1", "role": "backend"}
    assert "Idempotency-Key" not in service.asked[0].headers


def test_a_token_of_a_user_names_its_subject(run, service):
    service.answers("POST /v1/tokens", token(secret=SECRET), status=201)

    run("token", "create", "--name", "ada", "--role", "user", "--subject", "ada@example.com")

    assert service.asked[0].body == {"name": "ada", "role": "user", "subject": "ada@example.com"}


@pytest.mark.parametrize(
    "arguments", [("--role", "user"), ("--role", "backend", "--subject", "ada"), ("--role", "root")]
)
def test_a_token_that_cannot_be_is_refused_before_anything_is_sent(run, service, arguments):
    assert run("token", "create", "--name", "n", *arguments).exit_code == ExitCode.USAGE
    assert service.asked == []


def test_a_created_token_with_json_is_the_services_answer(run, service):
    service.answers("POST /v1/tokens", token(secret=SECRET), status=201)

    result = run("token", "create", "--name", "backend-1", "--role", "backend", "--json")

    assert json.loads(result.stdout) == token(secret=SECRET)
    assert result.stderr == ""


def test_the_first_token_goes_straight_to_the_database(cli, issued, settings_file, monkeypatch):
    monkeypatch.setenv("OPENCODE_LIFECYCLE_TOKEN_FILE", "/nonexistent/yet")

    result = cli("token", "create", "--name", "root", "--role", "operator", "--settings", str(settings_file))

    assert result.stdout == f"{SECRET}\n"
    [(settings, name, role, subject)] = issued
    assert settings.installation == "tested"
    assert (name, role, subject) == ("root", "operator", None)


def test_the_first_token_with_json(cli, issued, settings_file):
    result = cli(
        "token", "create", "--name", "r", "--role", "operator", "--settings", str(settings_file), "--json"
    )

    assert json.loads(result.stdout) == {"name": "r", "role": "operator", "subject": None, "secret": SECRET}


def test_a_list_of_tokens_is_fetched_page_after_page(run, service):
    service.answers("GET /v1/tokens", items(token(), next_cursor="more"))
    service.answers(
        "GET /v1/tokens",
        items(token(id="tok_2", role="user", subject="ada", revoked_at="2026-02-03T00:00:00Z")),
    )

    lines = [line.split() for line in run("token", "list").stdout.splitlines()]

    assert lines[0][:4] == ["ID", "NAME", "ROLE", "SUBJECT"]
    assert [line[0] for line in lines[1:]] == ["tok_1", "tok_2"]
    assert "ada" in lines[2]


def test_a_list_of_tokens_with_json_is_a_list_of_the_service(run, service):
    service.answers("GET /v1/tokens", items(token()))

    assert json.loads(run("token", "list", "--json").stdout) == items(token())


def test_a_token_is_revoked_by_its_id(run, service):
    service.answers("DELETE /v1/tokens/tok_1", status=204)

    result = run("token", "revoke", "tok_1")

    assert result.exit_code == ExitCode.OK
    assert result.stdout == "tok_1 is revoked.\n"


def test_a_token_that_is_not_there_cannot_be_revoked(run, service):
    service.refuses("DELETE /v1/tokens/tok_9", 404, "token-not-found")

    assert run("token", "revoke", "tok_9").exit_code == ExitCode.NOT_FOUND
