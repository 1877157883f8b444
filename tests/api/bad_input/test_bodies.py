"""Bodies that are no JSON, of another type, too long or without an end."""

import gzip
import json
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.bad_input.asking import JSON, pointers
from api.world import SECRETS, World
from opencode_lifecycle.api.bodies import parse_json
from opencode_lifecycle.model.errors import InvalidRequest

BROKEN = {
    "duplicate keys": b'{"group": "a", "group": "b"}',
    "duplicate keys inside": b'{"labels": {"a": "1", "a": "2"}}',
    "nested ten thousand deep": b'{"labels": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "nested seventeen deep": b'{"labels": ' + b"[" * 17 + b"]" * 17 + b"}",
    "deep and never closed": b"[" * 60_000,
    "invalid UTF-8": b'{"group": "\xff\xfe"}',
    "overlong UTF-8": b'{"group": "\xc0\xaf"}',
    "UTF-16": '{"group": "a"}'.encode("utf-16"),
    "raw surrogate": b'{"group": "\xed\xa0\x80"}',
    "lone surrogate": b'{"labels": {"a": "\\ud800"}}',
    "lone surrogate in a key": b'{"labels": {"\\udc00": "a"}}',
    "NaN": b'{"resources": NaN}',
    "Infinity": b'{"resources": -Infinity}',
    "a number past all doubles": b'{"resources": 1e999}',
    "an endless integer": b'{"resources": 1' + b"0" * 5000 + b"}",
    "trailing garbage": b'{"group": "a"} x',
    "two values": b"{}{}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "a control character": b'{"group": "a\nb"}',
    "single quotes": b"{'group': 'a'}",
    "a comment": b'{"group": "a" /* b */}',
    "a trailing comma": b'{"group": "a",}',
    "cut short": b'{"group": "a',
    "only space": b"   ",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_b6_a_body_that_two_parsers_could_read_differently_is_refused(world, body):
    started = time.process_time()

    answer = await world.call("PUT", "/v1/stacks/ada", data=body, headers=JSON)

    assert (answer.status, answer.code) == (400, "invalid-request")
    assert time.process_time() - started < 1
    assert world.provisioning.calls == []


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_b6_any_bytes_are_json_or_refused_as_malformed(raw):
    try:
        value = parse_json(raw)
    except InvalidRequest:
        return

    json.dumps(value, allow_nan=False).encode()


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_b6_good_json_is_read_as_it_is(value):
    try:
        parsed = parse_json(json.dumps(value).encode())
    except InvalidRequest:
        assert json.dumps(value).count("[") + json.dumps(value).count("{") > 10
        return

    assert parsed == value


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"true"])
async def test_b6_json_that_is_no_object_is_a_wrong_value_of_the_whole_body(world, body):
    answer = await world.call("PUT", "/v1/stacks/ada", data=body, headers=JSON)

    assert (answer.status, pointers(answer)) == (422, [""])


async def test_b6_a_hundred_megabytes_are_refused_unread(world):
    status, answer = await world.raw_call(
        "PUT /v1/stacks/ada", headers="Content-Type: application/json\r\nContent-Length: 104857600\r\n"
    )

    assert status == 413
    assert b'"code":"body-too-large"' in answer
    assert world.provisioning.calls == []


async def test_b6_a_body_without_a_length_is_read_up_to_the_bound(world):
    chunks = b"".join(b"4000\r\n" + b" " * 0x4000 + b"\r\n" for _ in range(8))

    status, _ = await world.raw_call(
        "PUT /v1/stacks/ada",
        headers="Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
        body=chunks + b"0\r\n\r\n",
    )

    assert status == 413
    assert world.provisioning.calls == []


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "application/json; charset=iso-8859-1",
        "application/json, text/plain",
        "application/json; boundary=x",
        "application/merge-patch+json",
    ],
)
async def test_b7_a_body_of_another_type_is_refused(world, content_type):
    headers = f"Content-Type: {content_type}\r\n" if content_type is not None else ""

    status, answer = await world.raw_call(
        "PUT /v1/stacks/ada", headers=f"{headers}Content-Length: 2\r\n", body=b"{}"
    )

    assert status == 415
    assert b'"code":"unsupported-media-type"' in answer
    assert world.provisioning.calls == []


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=UTF-8",
        'application/json;charset="utf-8"',
    ],
)
async def test_b7_json_in_utf_8_is_taken_however_it_is_spelled(world, content_type):
    answer = await world.call(
        "PUT", "/v1/stacks/ada", data=b'{"group": "a"}', headers={"Content-Type": content_type}
    )

    assert answer.status == 202


async def test_b7_two_content_types_are_refused(world):
    status, _ = await world.raw_call(
        "PUT /v1/stacks/ada",
        headers="Content-Type: application/json\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n",
        body=b"{}",
    )

    assert status in {400, 415}
    assert world.provisioning.calls == []


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip"])
async def test_b7_a_compressed_body_is_refused_without_unpacking_it(world, coding):
    bomb = gzip.compress(b" " * 50_000_000) if coding != "deflate" else zlib.compress(b" " * 50_000_000)
    started = time.process_time()

    answer = await world.call(
        "PUT",
        "/v1/stacks/ada",
        data=bomb[:60_000],
        headers={**JSON, "Content-Encoding": coding},
        skip_auto_headers=["Content-Encoding"],
    )

    assert (answer.status, answer.code) == (415, "unsupported-media-type")
    assert time.process_time() - started < 1
    assert world.provisioning.calls == []


async def test_b7_a_refusal_comes_before_a_body_is_asked_for(world):
    expects = "Content-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"

    unauthenticated, answer = await world.raw_call("PUT /v1/stacks/ada", by=None, headers=expects)
    accepted = await world.call("PUT", "/v1/stacks/ada", data=b"{}", headers=JSON, expect100=True)

    assert unauthenticated == 401
    assert b"100 Continue" not in answer
    assert accepted.status == 202


async def test_b7_an_unknown_expectation_fails(world):
    status, answer = await world.raw_call("PUT /v1/stacks/ada", headers="Expect: miracles\r\n")

    assert status == 417
    assert b'"code":"expectation-failed"' in answer
    assert b"miracles" not in answer


async def test_b7_an_empty_body_needs_no_type_and_means_an_empty_object(world):
    bare = await world.raw_call("PUT /v1/stacks/ada")
    empty = await world.raw_call("PUT /v1/stacks/bob", headers="Content-Length: 0\r\n")

    assert (bare[0], empty[0]) == (202, 202)


async def test_a_body_that_never_ends_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("opencode_lifecycle.api.server.BODY_SECONDS", 0.05)
    async with World() as world:
        answer = await world.raw(
            f"PUT /v1/stacks/ada HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['backend']}\r\n"
            "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{".encode()
        )

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert world.provisioning.calls == []
