"""Ids of users that are none, that differ in little, or that are spelled in another way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.world import SECRETS
from opencode_lifecycle.api.gate import user_id_of
from opencode_lifecycle.model.errors import InvalidUserId
from opencode_lifecycle.model.identifiers import USER_ID_PATTERN, job_id_of


@pytest.mark.parametrize(
    "spelled",
    [
        "%00",
        "a%00",
        "a%0a",
        "a%0d%0aX-Evil:%201",
        "a%2fb",
        "a%2Fstart",
        "..",
        ".",
        "%2e%2e",
        "a%252fb",
        "a%2541",
        "a%20b",
        "%20a",
        "a%",
        "a%4",
        "a%zz",
        "a%c3%a9",
        "a%ff",
        "a%f0%9f%98%80",
        "%d7%90",
        "a%e2%80%ae",
        "e%cc%81",
        "%d0%b0da",
        "a%3fb",
        "a%23b",
        "a%5cb",
        "-a",
        "_a",
        "a,b",
        "a*b",
        "a$b",
        "a" * 129,
        "a#b",
    ],
)
@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
async def test_b1_a_user_id_of_other_characters_or_length_is_refused(world, method, spelled):
    status, answer = await world.raw_call(f"{method} /v1/stacks/{spelled}")

    assert status == 400
    assert b'"code":"invalid-' in answer
    assert world.provisioning.calls == []
    assert b"X-Evil" not in answer


async def test_b1_a_user_id_of_a_megabyte_or_of_raw_bytes_is_refused_and_not_echoed(world, logged):
    for spelled in ("planted" * 150_000, "planted\xc3\xa9", "planted\x00", "planted\x7f"):
        answer = await world.raw(
            f"PUT /v1/stacks/{spelled} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['backend']}\r\n\r\n".encode(
                "latin-1"
            )
        )
        assert answer == b"" or answer.split(b" ")[1] == b"400"
        assert b"planted" not in answer
    assert "planted" not in str(logged)
    assert world.provisioning.calls == []


async def test_b1_ids_that_differ_only_in_case_are_two_stacks(world):
    await world.call("PUT", "/v1/stacks/Ada")
    await world.call("PUT", "/v1/stacks/ada")

    assert sorted(world.provisioning.views) == ["Ada", "ada"]


async def test_b1_an_id_is_decoded_exactly_once_and_compared_exactly(world):
    await world.call("PUT", "/v1/stacks/%61d%61%40example.com")

    assert list(world.provisioning.views) == ["ada@example.com"]


@settings(deadline=None)
@given(st.from_regex(USER_ID_PATTERN.removesuffix("$") + r"\Z"))
def test_b1_every_valid_id_survives_percent_encoding_of_all_its_bytes(user_id):
    escaped = "".join(f"%{byte:02X}" for byte in user_id.encode())

    assert user_id_of(f"/v1/stacks/{escaped}/address") == user_id
    assert user_id_of(f"/v1/stacks/{user_id}") == user_id


@settings(deadline=None)
@given(st.text(min_size=1).filter(lambda text: "/" not in text))
def test_b1_whatever_stands_in_the_path_is_a_valid_id_or_is_refused(text):
    try:
        user_id = user_id_of(f"/v1/stacks/{text}")
    except InvalidUserId:
        return

    assert user_id.isascii()
    assert len(user_id) <= 128
    assert "/" not in user_id


@settings(deadline=None)
@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_b1_two_ids_never_share_a_job(one, other):
    assert (job_id_of("main", one) == job_id_of("main", other)) == (one == other)


async def test_b2_ids_that_prefix_one_another_never_meet(world):
    for user_id in ("1", "10", "1-0", "100"):
        await world.call("PUT", f"/v1/stacks/{user_id}", json={"labels": {"id": f"u{user_id}"}})
    world.access.given("token-of-user-one", world.access.authenticate(SECRETS["ada"]).role, "1")

    shown = [
        (await world.call("GET", f"/v1/stacks/{user_id}")).json["labels"]["id"]
        for user_id in ("1", "10", "1-0", "100")
    ]
    across = [
        (await world.call("GET", f"/v1/stacks/{user_id}", by="token-of-user-one")).status
        for user_id in ("1", "10", "1-0", "100")
    ]

    assert shown == ["u1", "u10", "u1-0", "u100"]
    assert across == [200, 404, 404, 404]
