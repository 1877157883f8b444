"""Work leases over HTTP."""

from datetime import timedelta

import pytest

from api.in_memory import NOW
from opencode_lifecycle.lifecycle.requests.rate_limits import RateClass
from opencode_lifecycle.model.errors import StackDraining, StackNotFound

ACTIVITY = "/v1/stacks/ada/activity"


async def test_a_lease_is_answered_with_the_time_until_which_it_holds(world):
    answer = await world.call("POST", ACTIVITY, json={"ttl": "60s"})

    assert answer.status == 200
    assert answer.json == {"busy_until": (NOW + timedelta(seconds=60)).isoformat().replace("+00:00", "Z")}


@pytest.mark.parametrize(
    ("ttl", "seconds"), [("1s", 1), ("60s", 60), ("2m", 120), ("600s", 600), ("10m", 600)]
)
async def test_a_lease_may_be_taken_for_a_second_up_to_ten_minutes(world, ttl, seconds):
    assert (await world.call("POST", ACTIVITY, json={"ttl": ttl})).status == 200
    assert world.leases.calls == [("ada", timedelta(seconds=seconds))]


@pytest.mark.parametrize(
    "ttl",
    [
        "0s",
        "601s",
        "11m",
        "-1s",
        "1h",
        "60",
        60,
        1.5,
        "",
        " 60s",
        "60s\n",
        "1.5s",
        "\u0666\u0660s",
        None,
        True,
        ["60s"],
    ],
    ids=repr,
)
async def test_any_other_ttl_is_a_wrong_value_and_is_never_clamped(world, ttl):
    answer = await world.call("POST", ACTIVITY, json={"ttl": ttl})

    assert (answer.status, answer.code) == (422, "invalid-body")
    assert [fault["pointer"] for fault in answer.json["errors"]] == ["/ttl"]
    assert world.leases.calls == []


async def test_a_ttl_that_is_out_of_range_is_answered_with_the_range(world):
    answer = await world.call("POST", ACTIVITY, json={"ttl": "1h"})

    [fault] = answer.json["errors"]
    assert "1s to 600s" in fault["detail"]


@pytest.mark.parametrize("body", [{"json": {}}, {}], ids=["an empty object", "no body"])
async def test_how_long_the_lease_is_to_hold_must_be_said(world, body):
    answer = await world.call("POST", ACTIVITY, **body)

    assert (answer.status, answer.code) == (422, "invalid-body")
    assert world.leases.calls == []


async def test_a_field_that_a_lease_does_not_have_is_refused(world):
    answer = await world.call("POST", ACTIVITY, json={"ttl": "60s", "until": "tomorrow"})

    assert (answer.status, answer.code) == (422, "invalid-body")


async def test_once_the_stop_is_committed_a_lease_is_refused_with_the_time_to_come_back(world):
    world.leases.refuses_with = StackDraining("The runtime is being stopped.", retry_after=2)

    answer = await world.call("POST", ACTIVITY, json={"ttl": "60s"})

    assert (answer.status, answer.code) == (409, "stack-draining")
    assert answer.headers["Retry-After"] == "2"
    assert answer.json["detail"] == "The runtime is being stopped."


async def test_a_stack_that_is_not_there_has_no_lease(world):
    world.leases.refuses_with = StackNotFound(user_id="ada")

    answer = await world.call("POST", ACTIVITY, json={"ttl": "60s"})

    assert (answer.status, answer.code) == (404, "stack-not-found")


async def test_a_user_says_that_its_own_runtime_is_at_work_and_sees_no_other(world):
    own = await world.call("POST", ACTIVITY, by="ada", json={"ttl": "60s"})
    anothers = await world.call("POST", "/v1/stacks/bob/activity", by="ada", json={"ttl": "60s"})

    assert own.status == 200
    assert (anothers.status, anothers.code) == (404, "stack-not-found")
    assert [user for user, _ in world.leases.calls] == ["ada"]


@pytest.mark.parametrize("role", ["operator", "auditor"])
async def test_who_does_not_send_work_to_runtimes_takes_no_lease(world, role):
    answer = await world.call("POST", ACTIVITY, by=role, json={"ttl": "60s"})

    assert (answer.status, answer.code) == (403, "forbidden")
    assert world.leases.calls == []


async def test_leases_are_limited_as_reads_are(world):
    answer = await world.call("POST", ACTIVITY, json={"ttl": "60s"})

    assert answer.headers["RateLimit"].startswith(f'"{RateClass.READ}"')


async def test_a_renewal_is_no_line_of_the_access_log_and_a_refusal_is(world, logged):
    await world.call("POST", ACTIVITY, json={"ttl": "60s"})
    renewed = [line for line in logged if line["event"] == "request answered"]
    world.leases.refuses_with = StackDraining(retry_after=2)
    await world.call("POST", ACTIVITY, json={"ttl": "60s"})
    refused = [line for line in logged if line["event"] == "request answered"]

    assert [line["log_level"] for line in renewed] in ([], ["debug"])
    assert refused[-1]["log_level"] == "info"


async def test_a_lease_that_is_asked_for_again_with_its_key_is_answered_as_it_was_and_taken_once(world):
    key = {"Idempotency-Key": "k"}
    first = await world.call("POST", ACTIVITY, json={"ttl": "60s"}, headers=key)
    again = await world.call("POST", ACTIVITY, json={"ttl": "60s"}, headers=key)

    assert (again.status, again.json, again.headers["Idempotent-Replayed"]) == (200, first.json, "true")
    assert world.leases.calls == [("ada", timedelta(seconds=60))]


async def test_a_key_of_another_lease_is_refused(world):
    key = {"Idempotency-Key": "k"}
    await world.call("POST", ACTIVITY, json={"ttl": "60s"}, headers=key)

    answer = await world.call("POST", ACTIVITY, json={"ttl": "61s"}, headers=key)

    assert (answer.status, answer.code) == (422, "idempotency-mismatch")
    assert len(world.leases.calls) == 1


async def test_a_lease_that_was_refused_leaves_its_key_free(world):
    key = {"Idempotency-Key": "k"}
    world.leases.refuses_with = StackDraining(retry_after=2)
    refused = await world.call("POST", ACTIVITY, json={"ttl": "60s"}, headers=key)
    world.leases.refuses_with = None

    answer = await world.call("POST", ACTIVITY, json={"ttl": "60s"}, headers=key)

    assert (refused.status, answer.status) == (409, 200)
