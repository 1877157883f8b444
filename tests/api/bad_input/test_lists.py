"""What a list is asked for, its pages and its cursors; other parameters that cannot be read."""

import pytest


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
