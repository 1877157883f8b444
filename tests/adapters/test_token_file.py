"""When a token's file is looked at again."""

import pytest

from opencode_lifecycle.adapters import token_file
from opencode_lifecycle.adapters.token_file import LOOK_COUNTS_FOR, TokenFile


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "token"
    path.write_text("the-first")
    return path


@pytest.fixture
def clock(monkeypatch):
    """Give a clock that stands still; its one element is the time."""
    now = [1000.0]
    monkeypatch.setattr(token_file, "monotonic", lambda: now[0])
    return now


async def test_a_look_counts_for_a_second(file, clock):
    token = TokenFile(file)
    assert await token.get() == "the-first"
    file.write_text("the-second")

    clock[0] += LOOK_COUNTS_FOR * 0.9

    assert await token.get() == "the-first"


async def test_a_token_that_was_replaced_is_used_after_a_second(file, clock):
    token = TokenFile(file)
    assert await token.get() == "the-first"
    file.write_text("the-second")

    clock[0] += LOOK_COUNTS_FOR

    assert await token.get() == "the-second"


async def test_a_token_that_was_read_after_a_refusal_is_used_at_once(file, clock):
    token = TokenFile(file)
    assert await token.get() == "the-first"
    file.write_text("the-second")

    assert token.after_refusal("the-first") == "the-second"
    assert await token.get() == "the-second"


async def test_a_file_that_was_not_there_is_looked_at_each_time(tmp_path, clock):
    token = TokenFile(tmp_path / "token")
    assert await token.get() is None
    (tmp_path / "token").write_text("the-first")

    assert await token.get() == "the-first"


async def test_that_a_file_did_not_change_is_looked_at_once_a_second_again(file, clock):
    token = TokenFile(file)
    await token.get()
    clock[0] += LOOK_COUNTS_FOR
    await token.get()
    file.write_text("the-second")

    clock[0] += LOOK_COUNTS_FOR * 0.9

    assert await token.get() == "the-first"
