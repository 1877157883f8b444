"""Hostile and broken input, class by class: refused exactly so, nothing changed, nothing echoed."""

import asyncio
import gzip
import json
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.world import SECRETS, World, eventually
from opencode_lifecycle.api import server
from opencode_lifecycle.api.bodies import parse_json
from opencode_lifecycle.api.gate import user_id_of
from opencode_lifecycle.lifecycle.requests.rate_limits import RateClass, RatePolicy
from opencode_lifecycle.model.errors import InvalidRequest, InvalidUserId
from opencode_lifecycle.model.identifiers import USER_ID_PATTERN, job_id_of

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def world():
    plenty = {rate: RatePolicy(per_second=10_000, burst=10_000) for rate in RateClass}
    async with World(rates=plenty) as world:
        yield world


def pointers(answer) -> list[str]:
    return sorted(fault["pointer"] for fault in answer.json["errors"])


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


@pytest.mark.parametrize("payload", ["${attr.kernel.name}", "{{ key `x` }}", "a${", "{{", 'x"${b}', "${{"])
async def test_b3_what_the_orchestrator_would_interpolate_is_refused_in_every_value(world, payload):
    answer = await world.call(
        "PUT",
        "/v1/stacks/ada",
        json={
            "group": payload,
            "resources": payload,
            "labels": {"a": payload, payload: "a"},
            "environment": {"TZ": payload, payload: "a"},
        },
    )

    assert answer.status == 422
    assert {"/group", "/resources", "/labels/a", "/environment/TZ"} <= set(pointers(answer))
    assert payload not in json.dumps([fault["detail"] for fault in answer.json["errors"] if payload != "{{"])
    assert world.provisioning.calls == []


async def test_b3_quotes_backticks_and_shell_are_carried_as_they_are(world):
    value = "\"'`$(reboot); $HOME \\ | & <x> %7B { } #"

    await world.call("PUT", "/v1/stacks/ada", json={"labels": {"a": value}, "environment": {"TZ": value}})

    intent = world.provisioning.views["ada"].stack.intent
    assert (intent.labels, intent.environment) == ({"a": value}, {"TZ": value})


@pytest.mark.parametrize(
    "field", ["image", "opencode_version", "template", "driver", "url", "path", "config"]
)
async def test_b4_a_caller_cannot_name_an_image_or_any_place_to_fetch_from(world, field):
    for value in ("evil/image:latest", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data"):
        answer = await world.call("PUT", "/v1/stacks/ada", json={field: value})

        assert (answer.status, pointers(answer)) == (422, [f"/{field}"])
        assert value not in answer.text
    assert world.provisioning.calls == []


@pytest.mark.parametrize(
    "value", ["0", "-1", "1e308", "9223372036854775808", "null", '""', "true", "[]", "{}", '"a b"', '"Small"']
)
async def test_b5_resources_are_the_name_of_a_class_and_nothing_else(world, value):
    answer = await world.call("PUT", "/v1/stacks/ada", data=f'{{"resources": {value}}}', headers=JSON)

    assert (answer.status, answer.code) == (422, "invalid-body")
    assert pointers(answer) == ["/resources"]
    assert world.provisioning.calls == []


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


@pytest.mark.parametrize(
    "field",
    [
        "owner", "role", "generation", "status", "user_id", "job_id", "namespace", "region", "desired", "phase",
        "release", "wanted_release", "pinned", "held", "password", "Group", "a/b~c", "",
    ],
)  # fmt: skip
async def test_b8_an_unknown_field_is_refused_and_never_applied(world, field):
    answer = await world.call("PUT", "/v1/stacks/ada", json={"group": "a", field: "x"})

    assert (answer.status, answer.code) == (422, "invalid-body")
    assert pointers(answer) == ["/" + field.replace("~", "~0").replace("/", "~1")]
    assert world.provisioning.views == {}


@pytest.mark.parametrize("call", ["start", "stop", "recreate", "rotate-password", "recover", "credentials"])
async def test_b8_a_call_that_takes_no_content_refuses_content(world, call):
    world.provisioning.given("ada")

    answer = await world.call("POST", f"/v1/stacks/ada/{call}", json={"force": True})

    assert (answer.status, pointers(answer)) == (422, ["/force"])
    assert world.provisioning.calls == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"labels": {"A": "x"}}, "/labels/A"),
        ({"labels": {"1a": "x"}}, "/labels/1a"),
        ({"labels": {"a" * 33: "x"}}, "/labels/" + "a" * 33),
        ({"labels": {"a": "x" * 129}}, "/labels/a"),
        ({"labels": {"a": "tab\t"}}, "/labels/a"),
        ({"labels": {"a": "\u202e"}}, "/labels/a"),
        ({"labels": {"a": 1}}, "/labels/a"),
        ({"labels": {"a": None}}, "/labels/a"),
        ({"labels": {f"a{i}": "x" for i in range(17)}}, "/labels"),
        ({"labels": []}, "/labels"),
        ({"labels": None}, "/labels"),
        ({"environment": {"PATH": "/evil"}}, "/environment/PATH"),
        ({"environment": {"LD_PRELOAD": "x"}}, "/environment/LD_PRELOAD"),
        ({"environment": {"tz": "x"}}, "/environment/tz"),
        ({"environment": {"TZ": "a\0b"}}, "/environment/TZ"),
        ({"environment": {"TZ": "x" * 4097}}, "/environment/TZ"),
        ({"environment": {"TZ": True}}, "/environment/TZ"),
        ({"group": "Default"}, "/group"),
        ({"group": "a" * 64}, "/group"),
        ({"group": "a\n"}, "/group"),
        ({"group": 7}, "/group"),
        ({"group": None}, "/group"),
    ],
)
async def test_b8_each_wrong_value_is_pointed_at(world, body, expected):
    answer = await world.call("PUT", "/v1/stacks/ada", json=body)

    assert answer.status == 422
    assert expected in pointers(answer)
    assert world.provisioning.calls == []


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=501", "limit=-1", "limit=1000000000", "limit=1e2", "limit=+5", "limit=05", "limit=", "limit",
        "limit=%D9%A1", "limit=5&limit=5", "limit=5&Limit=5", "cursor=", "cursor=x", "cursor=%00", "cursor=bnVsbA",
        "phase=flying", "phase=RUNNING", "phase=running&phase=failed", "health=", "stale=yes", "stale=1",
        "release=latest", "group=No", "label=team", "label=Team=x", "unknown=1", "owner=me", "limit=5&", "&", "=", "%",
        "limit=%zz", "limit=%ff", "reason=because", "migration_state=%27%20OR%201=1", "cursor=" + "a" * 600,
    ],
)  # fmt: skip
async def test_b19_a_list_refuses_what_it_cannot_read_and_never_clamps(world, query):
    answer = await world.call("GET", f"/v1/stacks?{query}")

    assert (answer.status, answer.code) == (400, "invalid-request")
    assert world.provisioning.calls == []


async def test_a_parameter_that_is_not_taken_is_refused_with_those_that_are(world):
    some = await world.call("GET", "/v1/events?page=2")
    none = await world.call("GET", "/v1/stacks/ada?page=2")

    assert "does not take; it takes" in some.json["detail"]
    assert "limit" in some.json["detail"]
    assert none.json["detail"].endswith("does not take; it takes none.")


async def test_b19_pages_follow_each_other_to_the_end(world):
    for number in range(7):
        world.provisioning.given(f"user-{number}")
    seen, cursor = [], ""
    while cursor is not None:
        more = f"&cursor={cursor}" if cursor else ""
        page = await world.call("GET", f"/v1/stacks?limit=3{more}")
        seen += [stack["user_id"] for stack in page.json["items"]]
        cursor = page.json["next_cursor"]

    assert seen == [f"user-{number}" for number in range(7)]


async def test_b19_a_page_goes_on_when_the_stack_it_ended_with_is_gone(world):
    for number in range(4):
        world.provisioning.given(f"user-{number}")
    first = await world.call("GET", "/v1/stacks?limit=2")

    del world.provisioning.views["user-1"]
    second = await world.call("GET", f"/v1/stacks?limit=2&cursor={first.json['next_cursor']}")

    assert [stack["user_id"] for stack in second.json["items"]] == ["user-2", "user-3"]


async def test_b19_a_cursor_is_good_for_its_own_list_and_filters_only(world):
    for number in range(4):
        world.provisioning.given(f"user-{number}")
    cursor = (await world.call("GET", "/v1/stacks?limit=2&phase=running")).json["next_cursor"]

    other_filter = await world.call("GET", f"/v1/stacks?limit=2&phase=failed&cursor={cursor}")
    other_list = await world.call("GET", f"/v1/tokens?cursor={cursor}", by="operator")
    events = await world.call("GET", f"/v1/events?cursor={cursor}")

    assert [other_filter.status, other_list.status, events.status] == [400, 400, 400]


async def test_b19_a_cursor_that_was_changed_by_one_character_is_refused(world):
    for number in range(4):
        world.provisioning.given(f"user-{number}")
    cursor = (await world.call("GET", "/v1/stacks?limit=2")).json["next_cursor"]
    changed = [
        cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        for place in range(0, len(cursor), 5)
    ]

    statuses = [(await world.call("GET", f"/v1/stacks?cursor={forged}")).status for forged in changed]
    padded = await world.call("GET", f"/v1/stacks?cursor={cursor}=")

    assert set(statuses) == {400}
    assert padded.status == 400


async def test_b19_another_users_cursor_shows_nothing_of_theirs(world):
    for _ in range(3):
        world.provisioning.record_event("ada", "started")
        world.provisioning.record_event("bob", "started")
    cursor = (await world.call("GET", "/v1/events?limit=1", by="ada")).json["next_cursor"]

    answer = await world.call("GET", f"/v1/events?limit=1&cursor={cursor}", by="bob")

    assert answer.status == 400


@pytest.mark.parametrize(
    "wait",
    [
        "61s",
        "2m",
        "1h",
        "1h-2m",
        "-1s",
        "20",
        "s",
        "1.5s",
        "+1s",
        " 1s",
        "1s1s",
        "99999999999999s",
        "1e1s",
        "\u0661s",
    ],
)
async def test_a_wait_that_is_no_duration_up_to_a_minute_is_refused(world, wait):
    escaped = "".join(f"%{byte:02x}" for byte in wait.encode())

    answer = await world.call("PUT", f"/v1/stacks/ada?wait={escaped}")

    assert (answer.status, answer.code) == (400, "invalid-request")
    assert world.provisioning.calls == []


@pytest.mark.parametrize("wait", ["0s", "20s", "60s", "1m"])
async def test_a_wait_up_to_a_minute_is_taken(world, wait):
    answer = await world.call("PUT", f"/v1/stacks/ada?wait={wait}")

    assert answer.status == (202 if wait == "0s" else 200)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/operations/op_", "/v1/operations/1", "/v1/operations/evt_01JABCDEFGHJKMNPQRSTVWXYZ0",
        "/v1/operations/op_01jabcdefghjkmnpqrstvwxyz0", "/v1/operations/op_01JABCDEFGHJKMNPQRSTVWXYZ0%00",
        "/v1/operations/op_81JABCDEFGHJKMNPQRSTVWXYZ0", "/v1/operations/..",
    ],
)  # fmt: skip
async def test_an_operation_id_that_was_never_given_out_so_is_malformed(world, target):
    answer = await world.call("GET", target)

    assert (answer.status, answer.code) == (400, "invalid-request")


async def test_a_body_that_never_ends_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("opencode_lifecycle.api.server.BODY_SECONDS", 0.05)
    async with World() as world:
        answer = await world.raw(
            f"PUT /v1/stacks/ada HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['backend']}\r\n"
            "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{".encode()
        )

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert world.provisioning.calls == []


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: \u0662\r\n",
        "Content-Length: -2\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "X: a\r\n folded\r\n",
        "X : a\r\n",
        "X\x00: a\r\n",
    ],
)
async def test_a_request_whose_end_is_ambiguous_is_refused_and_the_connection_closed(world, head):
    request = (
        f"PUT /v1/stacks/ada HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['backend']}\r\n{head}\r\n"
    )
    smuggled = (
        f"DELETE /v1/stacks/ada HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['backend']}\r\n\r\n"
    )

    answer = await world.raw(request.encode() + b"{}" + smuggled.encode())

    assert answer.split(b" ")[1] == b"400"
    assert b"application/problem+json" in answer
    assert answer.count(b"HTTP/1.") == 1
    assert world.provisioning.calls == []


async def test_a_hundred_headers_are_too_many(world):
    status, _ = await world.raw_call(
        "GET /v1/stacks/ada", headers="".join(f"X-{i}: a\r\n" for i in range(100))
    )

    assert status == 400


async def test_what_a_client_sends_never_starts_a_line_in_the_log(world, logged):
    await world.raw_call("GET /v1/stacks/x", headers="User-Agent: a\x1b[31m\r\nX-Request-Id: evil\r\n")
    await world.call("GET", "/v1/stacks/a%0aFAKE%20LINE", headers={"X-Request-Id": "evil"})

    assert "FAKE" not in str(logged)
    assert "evil" not in str(logged)
    assert "\x1b" not in str(logged)


async def test_a_head_that_never_ends_ends_its_connection(world, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)

    writer.write(b"GET /livez HTTP/1.1\r\nX-Slow: ")

    assert await reader.read() == b""
    writer.close()


async def test_a_connection_on_which_nothing_is_asked_ends(world, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)

    assert await reader.read() == b""
    writer.close()


async def test_an_answer_that_takes_its_time_is_not_cut_off(world, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.05)
    world.provisioning.gate = asyncio.Event()
    call = asyncio.create_task(world.call("PUT", "/v1/stacks/ada"))
    await eventually(lambda: bool(world.provisioning.calls))
    slow = await asyncio.open_connection("127.0.0.1", world.port)
    assert await slow[0].read() == b"", "the time for a head has passed"
    slow[1].close()

    world.provisioning.gate.set()

    assert (await call).status in {200, 202}
