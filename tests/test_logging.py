"""What the service logs of a failure, and what it must never log."""

import json
from collections.abc import Iterator

import pytest
import structlog

from opencode_lifecycle.telemetry import configure_logging

FORMS = ("json", "console")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def refuse(password: str) -> None:
    raise RuntimeError(f"refused with {len(password)} characters")


def log_a_failure(password: str) -> None:
    try:
        refuse(password)
    except RuntimeError:
        structlog.get_logger().exception("cannot let anybody in")


@pytest.mark.parametrize("form", FORMS)
def test_a_failure_is_logged_without_the_values_of_its_variables(form, capsys):
    configure_logging(form=form, level="info")

    log_a_failure("s3cret-of-ada")

    assert "s3cret-of-ada" not in capsys.readouterr().err


@pytest.mark.parametrize("form", FORMS)
def test_a_failure_is_logged_with_its_words_and_where_it_happened(form, capsys):
    configure_logging(form=form, level="info")

    log_a_failure("s3cret-of-ada")

    logged = capsys.readouterr().err
    assert "refused with 13 characters" in logged
    assert "log_a_failure" in logged


def test_every_line_for_machines_is_one_json_object(capsys):
    configure_logging(form="json", level="info")

    log_a_failure("s3cret-of-ada")

    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "cannot let anybody in"
