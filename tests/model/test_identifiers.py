"""Names: readable, stable, and never the same for two stacks."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_lifecycle.model.errors import InvalidUserId
from opencode_lifecycle.model.identifiers import USER_ID_PATTERN, UserId, job_id_of, parse_user_id

user_ids = st.from_regex(USER_ID_PATTERN, fullmatch=True)


@given(user_ids)
def test_every_name_fits_nomad_consul_and_vault(user_id):
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", job_id_of("main", UserId(user_id)))


@given(user_ids, user_ids)
def test_two_users_never_share_a_name(one, other):
    assert (job_id_of("main", UserId(one)) == job_id_of("main", UserId(other))) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "10"), ("1-0", "10"), ("ada", "Ada"), ("a.b", "a-b"), ("a" * 128, "a" * 127)],
    ids=["prefix", "separator", "case", "folded", "long"],
)
def test_ids_that_look_alike_get_unrelated_names(one, other):
    first, second = job_id_of("main", UserId(one)), job_id_of("main", UserId(other))

    assert first.rsplit("-", 1)[1] != second.rsplit("-", 1)[1]
    assert not first.startswith(second)
    assert not second.startswith(first)


def test_two_installations_name_the_same_user_apart():
    assert job_id_of("main", UserId("ada")) != job_id_of("blue", UserId("ada"))


def test_a_name_shows_whose_it_is():
    assert job_id_of("main", UserId("Ada.Lovelace@example.org")).startswith("oc-ada-lovelace-example-org-")


def test_a_name_never_changes_between_versions():
    assert job_id_of("main", UserId("demo")) == "oc-demo-zgb2uri5n5maqjmrvxq7"


@given(st.text(max_size=140))
def test_an_id_is_taken_exactly_as_it_is_or_refused(text):
    if re.fullmatch(USER_ID_PATTERN.removesuffix("$") + r"\Z", text):
        assert parse_user_id(text) == text
    else:
        with pytest.raises(InvalidUserId):
            parse_user_id(text)


@pytest.mark.parametrize("text", ["", "ada\n", "../x", "a/b", "a%2fb", "ä", "-a", "a" * 129, "a b", "\0"])
def test_b1_ids_with_anything_unusual_are_refused(text):
    with pytest.raises(InvalidUserId):
        parse_user_id(text)
