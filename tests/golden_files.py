"""The fixture `golden`: compare with a file under tests/golden, or write it with `--update-golden`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DIRECTORY = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files instead of comparing"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        file = DIRECTORY / name
        text = json.dumps(value, indent=2, sort_keys=True) + "\n"
        if request.config.getoption("--update-golden"):
            DIRECTORY.mkdir(exist_ok=True)
            file.write_text(text)
        assert file.is_file(), f"{name} is missing; make it with --update-golden"
        assert text == file.read_text(), f"{name} differs; look at it and run with --update-golden"

    return check
