"""How far a rollout is, in words."""

import pytest

from opencode_lifecycle.cli.rollout_words import because, done_text


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"migrated": 1, "ordered": 2, "waiting": 3}, "1 of 6"),
        ({"migrated": 2, "failed": 1, "skipped": 1, "held": 1, "taken_back": 1}, "6 of 6"),
        ({"waiting": 3, "left_out": 1}, "0 of 3, 1 left out"),
        ({"left_out": 2}, "0 of 0, 2 left out"),
        (None, "0 of 0"),
    ],
)
def test_who_was_left_out_is_not_done(counts, said):
    assert done_text(counts) == said


def test_who_asked_for_it_is_told_apart_from_what_came_of_it():
    message = "by olga; 1 stack kept the newer version with what was written since: ada"

    assert because({"reason": "operator", "message": message}) == (
        "olga asked for it; 1 stack kept the newer version with what was written since: ada"
    )
