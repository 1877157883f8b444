"""The calls on one stack, answered as the contract says."""

from datetime import timedelta

import pytest

from api.in_memory import ALLOCATION, PASSWORD
from api.world import SECRETS
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.states import Health, MigrationState, Phase, Reason
from opencode_lifecycle.ports.stores import StackQuery

STACK_FIELDS = {
    "user_id", "job_id", "namespace", "region", "group", "labels", "resources", "generation", "observed_generation",
    "desired", "phase", "health", "migration_state", "reason", "message", "release", "wanted_release", "pinned",
    "runtime", "staleness", "migration", "observed_at", "last_operation", "created_at", "updated_at",
}  # fmt: skip
RUNTIME_FIELDS = {
    "job_version", "allocation_id", "node", "image", "opencode_version", "labels", "revision", "restarts", "started_at",
    "addresses",
}  # fmt: skip
OPERATION_FIELDS = {
    "id", "kind", "user_id", "state", "phases", "reason", "message", "receipt", "created_at", "finished_at",
}  # fmt: skip


async def test_a_first_ensure_is_accepted_with_the_stack_and_the_place_of_its_operation(world):
    answer = await world.call("PUT", "/v1/stacks/ada", json={"group": "team-a", "labels": {"team": "search"}})

    operation = await world.call("GET", answer.headers["Location"])
    assert answer.status == 202
    assert set(answer.json) == STACK_FIELDS
    assert answer.headers["Location"] == f"/v1/operations/{answer.json['last_operation']}"
    assert (answer.json["group"], answer.json["labels"]) == ("team-a", {"team": "search"})
    assert set(operation.json) == OPERATION_FIELDS
    assert (operation.json["kind"], operation.json["state"]) == ("ensure", "accepted")


async def test_an_ensure_of_a_running_and_current_stack_is_answered_from_memory(world):
    world.provisioning.given("ada", generation=4)

    answer = await world.call("PUT", "/v1/stacks/ada", by="ada", headers={"Idempotency-Key": "k"})

    assert (answer.status, answer.headers["ETag"]) == (200, '"4"')
    assert set(answer.json["runtime"]) == RUNTIME_FIELDS
    assert answer.json["runtime"]["addresses"] == {"internal": "http://10.0.0.7:21234", "public": None}
    assert "Location" not in answer.headers
    assert world.provisioning.calls == []
    assert world.idempotency.kept == {}


async def test_an_ensure_that_says_what_is_already_so_changes_nothing(world):
    world.provisioning.given("ada", labels={"team": "search"})

    answer = await world.call(
        "PUT", "/v1/stacks/ada", json={"labels": {"team": "search"}, "resources": "small"}
    )

    assert answer.status == 200
    assert world.provisioning.calls == []


async def test_what_an_answer_shows_is_never_older_than_the_view_it_is_made_of(world):
    world.provisioning.given("ada", generation=1)
    first = await world.call("PUT", "/v1/stacks/ada")
    world.provisioning.given("ada", generation=2, group="other")

    second = await world.call("PUT", "/v1/stacks/ada")

    assert [first.json["generation"], second.json["generation"]] == [1, 2]
    assert second.json["group"] == "other"


async def test_an_ensure_of_changed_values_is_a_new_generation(world):
    world.provisioning.given("ada", generation=1)

    answer = await world.call("PUT", "/v1/stacks/ada", json={"resources": "large"})

    assert (answer.status, answer.json["generation"], answer.json["resources"]) == (202, 2, "large")


async def test_absent_fields_are_unchanged_and_empty_ones_are_emptied(world):
    world.provisioning.given("ada", labels={"team": "search"}, group="team-a")

    answer = await world.call("PUT", "/v1/stacks/ada", json={"labels": {}})

    assert (answer.json["labels"], answer.json["group"]) == ({}, "team-a")


async def test_an_ensure_that_waits_answers_200_when_it_got_ready(world):
    answer = await world.call("PUT", "/v1/stacks/ada?wait=20s")

    assert (answer.status, answer.json["phase"]) == (200, "running")


async def test_times_are_rfc_3339_in_utc(world):
    world.provisioning.given("ada")

    answer = await world.call("GET", "/v1/stacks/ada")

    assert answer.json["created_at"] == "2026-11-24T12:00:00Z"
    assert answer.headers["Content-Type"] == "application/json"


async def test_a_stack_that_is_not_there_is_not_found(world):
    for method, path, by in (
        ("GET", "", "backend"), ("GET", "/address", "backend"), ("POST", "/credentials", "backend"),
        ("POST", "/start", "backend"), ("DELETE", "", "backend"), ("GET", "/logs", "operator"),
    ):  # fmt: skip
        answer = await world.call(method, f"/v1/stacks/nobody{path}", by=by)

        assert (answer.status, answer.code) == (404, "stack-not-found")


async def test_an_address_is_the_proven_one(world):
    world.provisioning.given("ada")

    answer = await world.call("GET", "/v1/stacks/ada/address")

    assert answer.json == {
        "url": "http://10.0.0.7:21234",
        "host": "10.0.0.7",
        "port": 21234,
        "audience": "internal",
        "allocation_id": ALLOCATION,
        "generation": 1,
        "proven_at": "2026-11-24T12:00:00Z",
    }


async def test_a_stack_that_is_not_ready_has_no_address_and_no_credentials_yet(world):
    world.provisioning.given("ada", phase=Phase.STARTING)

    for method, path in (("GET", "address"), ("POST", "credentials")):
        answer = await world.call(method, f"/v1/stacks/ada/{path}")

        assert (answer.status, answer.code) == (409, "runtime-not-ready")
        assert answer.headers["Retry-After"] == "2"


async def test_without_an_ingress_there_is_no_public_address(world):
    world.provisioning.given("ada")

    answer = await world.call("GET", "/v1/stacks/ada/address?audience=public")

    assert (answer.status, answer.code) == (409, "no-public-address")


async def test_credentials_are_shown_to_their_caller_and_to_nobody_else(world, logged):
    world.provisioning.given("ada")

    answer = await world.call("POST", "/v1/stacks/ada/credentials", headers={"Idempotency-Key": "k"})

    assert answer.json == {
        "username": "opencode",
        "password": PASSWORD,
        "secret_version": 1,
        "allocation_id": ALLOCATION,
    }
    assert answer.headers["Cache-Control"] == "no-store"
    assert PASSWORD not in str(logged)
    assert world.idempotency.kept == {}


async def test_credentials_can_be_wrapped(world):
    world.provisioning.given("ada")

    answer = await world.call("POST", "/v1/stacks/ada/credentials?wrap=60s")

    assert answer.json == {"wrapping_token": "hvs.wrapped", "ttl_seconds": 60}
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("call", ["start", "stop", "recreate", "rotate-password", "recover", "DELETE"])
async def test_what_takes_time_is_accepted_with_an_operation(world, call):
    world.provisioning.given("ada")

    answer = await (
        world.call("DELETE", "/v1/stacks/ada?workspace=delete")
        if call == "DELETE"
        else world.call("POST", f"/v1/stacks/ada/{call}")
    )

    assert answer.status == 202
    assert set(answer.json) == OPERATION_FIELDS
    assert answer.headers["Location"] == f"/v1/operations/{answer.json['id']}"
    assert answer.json["kind"] == call.lower().replace("-", "_")


async def test_stacks_can_be_selected_by_label_and_phase(world):
    world.provisioning.given("ada", labels={"team": "search"})
    world.provisioning.given("bob", labels={"team": "ads"})
    world.provisioning.given("eve", labels={"team": "search"}, phase=Phase.STOPPED)

    answer = await world.call("GET", "/v1/stacks?label=team%3Dsearch&phase=running", by="auditor")

    assert [stack["user_id"] for stack in answer.json["items"]] == ["ada"]
    assert answer.json["next_cursor"] is None


@pytest.mark.parametrize(
    ("parameter", "asked"),
    [
        ("phase=failed", {"phase": Phase.FAILED}),
        ("health=unresponsive", {"health": Health.UNRESPONSIVE}),
        ("migration_state=held", {"migration_state": MigrationState.HELD}),
        ("release=rel_1", {"release": "rel_1"}),
        ("reason=out_of_memory", {"reason": Reason.OUT_OF_MEMORY}),
        ("stale=true", {"stale": True}),
        ("stale=false", {"stale": False}),
        ("stale=edited_outside", {"stale": Facet.EDITED_OUTSIDE}),
        ("group=beta", {"group": "beta"}),
        ("label=team%3Da%26b%3Dc", {"labels": {"team": "a&b=c"}}),
        ("limit=7", {"limit": 7}),
    ],
)
async def test_a_filter_of_the_list_is_asked_of_the_store_and_no_other(world, parameter, asked):
    answer = await world.call("GET", f"/v1/stacks?{parameter}", by="operator")

    assert answer.status == 200
    assert world.provisioning.queries == [StackQuery(**asked)]


async def test_filters_of_the_list_are_joined(world):
    await world.call("GET", "/v1/stacks?stale=image&phase=running&group=beta&label=team%3Dx", by="backend")

    assert world.provisioning.queries == [
        StackQuery(stale=Facet.IMAGE, phase=Phase.RUNNING, group="beta", labels={"team": "x"})
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"4"', 200),
        ('"3"', 412),
        ('W/"4"', 412),
        ("*", 412),
        ('"4", "5"', 412),
        ("4", 400),
        ("", 400),
        ('"4', 400),
    ],
)
async def test_if_match_is_compared_with_the_generation(world, value, expected):
    world.provisioning.given("ada", generation=4)

    hot = await world.call("PUT", "/v1/stacks/ada", headers={"If-Match": value})
    cold = await world.call("POST", "/v1/stacks/ada/stop", headers={"If-Match": value})

    assert (hot.status, cold.status) == (expected, 202 if expected == 200 else expected)
    if expected == 412:
        assert hot.code == cold.code == "precondition-failed"


async def test_a_key_makes_a_write_happen_once(world):
    world.provisioning.given("ada")
    key = {"Idempotency-Key": "first-try"}

    first = await world.call("POST", "/v1/stacks/ada/stop", headers=key)
    again = await world.call("POST", "/v1/stacks/ada/stop", headers=key)

    assert (first.status, again.status) == (202, 202)
    assert first.headers["Location"] == again.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert world.provisioning.calls == ["stop", "operation"]


async def test_a_repeated_ensure_is_answered_with_the_first_operation_and_the_stack_of_now(world):
    key = {"Idempotency-Key": "k"}
    first = await world.call("PUT", "/v1/stacks/ada", json={"group": "a"}, headers=key)

    again = await world.call("PUT", "/v1/stacks/ada", json={"group": "a"}, headers=key)

    assert (again.status, again.headers["Location"]) == (202, first.headers["Location"])
    assert again.json["generation"] == first.json["generation"] == 1


async def test_a_key_with_another_request_is_a_mismatch(world):
    key = {"Idempotency-Key": "k"}
    await world.call("PUT", "/v1/stacks/ada", json={"group": "a"}, headers=key)

    other_body = await world.call("PUT", "/v1/stacks/ada", json={"group": "b"}, headers=key)
    other_stack = await world.call("PUT", "/v1/stacks/bob", json={"group": "a"}, headers=key)

    assert [other_body.status, other_stack.status] == [422, 422]
    assert other_body.code == "idempotency-mismatch"
    assert world.provisioning.calls == ["ensure"]


async def test_keys_of_different_callers_and_routes_are_strangers(world):
    world.provisioning.given("ada")
    key = {"Idempotency-Key": "k"}
    one = await world.call("POST", "/v1/stacks/ada/stop", headers=key)

    by_another = await world.call("POST", "/v1/stacks/ada/stop", headers=key, by="operator")
    on_another_route = await world.call("POST", "/v1/stacks/ada/start", headers=key)

    assert len({a.headers["Location"] for a in (one, by_another, on_another_route)}) == 3


async def test_a_key_that_is_in_flight_is_a_conflict(world):
    world.provisioning.given("ada")
    await world.call("POST", "/v1/stacks/ada/stop", headers={"Idempotency-Key": "k"})
    (place,) = world.idempotency.kept
    request_hash, lapses_at, _ = world.idempotency.kept[place]
    world.idempotency.kept[place] = (request_hash, lapses_at, None)

    answer = await world.call("POST", "/v1/stacks/ada/stop", headers={"Idempotency-Key": "k"})

    assert (answer.status, answer.code) == (409, "idempotency-in-flight")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_a_key_is_free_again_after_a_refusal_and_after_a_day(world):
    key = {"Idempotency-Key": "k"}
    refused = await world.call("POST", "/v1/stacks/ada/stop", headers=key)
    world.provisioning.given("ada")
    first = await world.call("POST", "/v1/stacks/ada/stop", headers=key)

    world.clocks.pass_by(timedelta(hours=24))
    later = await world.call("POST", "/v1/stacks/ada/stop", headers=key)

    assert [refused.status, first.status, later.status] == [404, 202, 202]
    assert first.headers["Location"] != later.headers["Location"]


@pytest.mark.parametrize("key", ["", " ", "a b", "a\tb", "x" * 256, "caf\xe9"])
async def test_a_malformed_key_is_refused_wherever_keys_are_honoured(world, key):
    world.provisioning.given("ada")
    for line in ("PUT /v1/stacks/ada", "POST /v1/stacks/ada/stop"):
        status, _ = await world.raw_call(line, headers=f"Idempotency-Key: {key}\r\n")

        assert status == 400
    assert world.provisioning.calls == []


async def test_two_keys_are_refused(world):
    status, _ = await world.raw_call(
        "POST /v1/stacks/ada/stop", headers="Idempotency-Key: a\r\nIdempotency-Key: b\r\n"
    )

    assert status == 400


async def test_the_secret_of_a_token_is_shown_once_even_if_the_request_is_repeated(world):
    key = {"Idempotency-Key": "k"}
    body = {"name": "ci", "role": "backend"}

    first = await world.call("POST", "/v1/tokens", by="operator", json=body, headers=key)
    again = await world.call("POST", "/v1/tokens", by="operator", json=body, headers=key)

    assert (first.status, again.status) == (201, 201)
    assert again.json == {**first.json, "secret": None}
    assert len(world.access.tokens) == len(SECRETS) + 1


async def test_revoking_a_token_twice_with_one_key_is_answered_alike(world):
    issued = await world.call("POST", "/v1/tokens", by="operator", json={"name": "ci", "role": "auditor"})
    path, key = f"/v1/tokens/{issued.json['id']}", {"Idempotency-Key": "k"}

    answers = [await world.call("DELETE", path, by="operator", headers=key) for _ in range(2)]

    assert [(answer.status, answer.text) for answer in answers] == [(204, ""), (204, "")]


@pytest.mark.parametrize(("body", "data"), [(None, "keep"), ({}, "keep"), ({"data": "restore"}, "restore")])
async def test_a_recover_keeps_what_was_written_unless_an_operator_says_otherwise(world, body, data):
    world.provisioning.given("ada")

    answer = await world.call("POST", "/v1/stacks/ada/recover", by="operator", json=body)

    assert answer.status == 202
    assert world.provisioning.recovered_with == data


async def test_a_backend_may_not_give_up_what_a_user_wrote(world):
    world.provisioning.given("ada")

    answer = await world.call("POST", "/v1/stacks/ada/recover", by="backend", json={"data": "restore"})

    assert (answer.status, answer.code) == (403, "forbidden")
