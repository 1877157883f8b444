"""Releases, pins and groups over HTTP."""

import pytest

from api.in_memory import NOW, RELEASE
from api.in_memory_releases import a_release
from opencode_lifecycle.model.errors import BodyFault, BundleTooLarge, InvalidBody, RolloutActive
from opencode_lifecycle.model.release import ReleaseWish, ResourceClass

UNKNOWN = "rel_01JABCDEFGHJKMNPQRSTVWXYZ9"
SMALL = {"cpu": 200, "memory": 512, "memory_max": 2048}


async def create(world, body=None, **options):
    return await world.call("POST", "/v1/releases", by="operator", json=body or {}, **options)


def faults(answer):
    return {fault["pointer"]: fault["detail"] for fault in answer.json["errors"]}


async def test_a_new_release_is_answered_with_where_it_is_and_everything_it_is_made_of(world):
    answer = await create(
        world, {"instructions": "Be brief.", "agent_prompts": {"build": "Build."}, "note": "calmer"}
    )

    assert answer.status == 201
    assert answer.headers["Location"] == f"/v1/releases/{answer.json['id']}"
    shown = await world.call("GET", answer.headers["Location"], by="auditor")
    assert shown.status == 200
    assert {**shown.json, "checks": answer.json["checks"]} == answer.json
    assert answer.json["checks"] == {
        "template": "accepted by Nomad",
        "config": "accepted by OpenCode 1.18.34",
    }
    assert (shown.json["instructions"], shown.json["note"]) == ("Be brief.", "calmer")
    assert shown.json["managed"] == '{"agent":{"build":{"prompt":"Build."}}}'
    assert (shown.json["number"], shown.json["is_current"], shown.json["created_by"]) == (
        2,
        False,
        "operator",
    )


async def test_content_that_exists_is_that_release_and_no_new_one(world):
    made = await create(world, {"instructions": "Be brief.", "note": "first"})
    again = await create(world, {"instructions": "Be brief.", "note": "second"})

    assert (made.status, again.status) == (201, 200)
    assert again.json["id"] == made.json["id"]
    assert (again.json["note"], again.json["checks"]) == ("first", {})


async def test_what_is_absent_is_as_in_the_base_and_what_is_empty_is_empty(world):
    await create(world, {"base": RELEASE})
    await create(world, {"instructions": "", "environment": {}, "managed_config": {"share": "disabled"}})

    assert world.releasing.wishes == [
        ReleaseWish(base=RELEASE),
        ReleaseWish(instructions="", environment={}, managed_config='{"share":"disabled"}'),
    ]


async def test_a_configuration_written_as_text_is_taken_as_it_is_written(world):
    answer = await create(world, {"managed_config": '{ "share": "disabled" }'})

    assert answer.json["managed_config"] == answer.json["managed"] == '{ "share": "disabled" }'


async def test_resource_classes_are_given_whole(world):
    await create(world, {"resource_classes": {"small": SMALL}})

    [wish] = world.releasing.wishes
    assert wish.resource_classes == {"small": ResourceClass(cpu=200, memory=512, memory_max=2048)}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"opencode_version": "1.18"}, "/opencode_version"),
        ({"image": "a b"}, "/image"),
        ({"managed_config": 7}, "/managed_config"),
        ({"managed_config": "\0"}, "/managed_config"),
        ({"instructions": "a\0b"}, "/instructions"),
        ({"instructions": None}, "/instructions"),
        ({"agent_prompts": {"": "x"}}, "/agent_prompts/"),
        ({"environment": {"A": "${node.unique.id}"}}, "/environment/A"),
        ({"environment": {"A": "{{ secret }}"}}, "/environment/A"),
        ({"environment": {"lower": "x"}}, "/environment/lower"),
        ({"resource_classes": {}}, "/resource_classes"),
        ({"resource_classes": {"small": {**SMALL, "memory_max": 1}}}, "/resource_classes/small"),
        ({"resource_classes": {"small": {**SMALL, "cpu": 0}}}, "/resource_classes/small/cpu"),
        ({"base": "7"}, "/base"),
        ({"note": "two\nlines"}, "/note"),
        ({"labels": {}}, "/labels"),
    ],
)
async def test_a_body_that_no_release_could_be_made_of_is_refused_where_it_is_wrong(world, body, pointer):
    answer = await create(world, body)

    assert (answer.status, answer.code) == (422, "invalid-body")
    assert set(faults(answer)) == {pointer}
    assert world.releasing.wishes == []


async def test_what_a_check_refuses_comes_with_its_place_and_its_words(world):
    world.releasing.fails_with = InvalidBody([BodyFault("/template", "Nomad refuses it: no job")])

    answer = await create(world)

    assert (answer.status, answer.code) == (422, "invalid-body")
    assert faults(answer) == {"/template": "Nomad refuses it: no job"}


async def test_a_text_that_cannot_be_delivered_has_a_code_of_its_own(world):
    world.releasing.fails_with = BundleTooLarge([BodyFault("/instructions", "larger than 60000 bytes")])

    answer = await create(world)

    assert (answer.status, answer.code) == (422, "bundle-too-large")
    assert faults(answer) == {"/instructions": "larger than 60000 bytes"}


async def test_a_release_may_be_larger_than_other_bodies_and_not_without_end(world):
    async def pieces(size):
        for _ in range(size // 10_000):
            yield b"x" * 10_000

    as_json = {"Content-Type": "application/json"}

    large = await create(world, {"instructions": "é" * 100_000})
    too_large, elsewhere = (
        await world.call("POST", "/v1/releases", by="operator", data=pieces(2_000_000), headers=as_json),
        await world.call("PUT", "/v1/stacks/ada", data=pieces(100_000), headers=as_json),
    )

    assert large.status == 201
    assert (too_large.status, too_large.code) == (413, "body-too-large")
    assert (elsewhere.status, elsewhere.code) == (413, "body-too-large")


async def test_repeating_a_creation_with_its_key_gives_the_same_answer(world):
    headers = {"Idempotency-Key": "k1"}
    first = await create(world, {"instructions": "Be brief."}, headers=headers)
    again = await create(world, {"instructions": "Be brief."}, headers=headers)

    assert (first.status, again.status) == (201, 201)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(world.releasing.wishes) == 1


async def test_releases_are_listed_in_short_newest_first_and_page_by_page(world):
    for number in range(2, 5):
        other = a_release(id=f"rel_01JABCDEFGHJKMNPQRSTVWXYZ{number}", number=number)
        world.releasing.there[other.id] = other

    first = await world.call("GET", "/v1/releases?limit=3", by="auditor")
    second = await world.call("GET", f"/v1/releases?cursor={first.json['next_cursor']}", by="auditor")

    assert [each["number"] for each in first.json["items"]] == [4, 3, 2]
    [last] = second.json["items"]
    assert second.json["next_cursor"] is None
    assert set(last) == {
        "id", "number", "image", "opencode_version", "digests", "note", "created_by", "created_at", "is_current", "stacks",
    }  # fmt: skip
    assert set(last["digests"]) == {"template", "prompt", "config", "environment", "resources"}
    assert (last["is_current"], last["stacks"]) == (True, 2)


async def test_a_made_up_cursor_of_releases_is_refused(world):
    answer = await world.call("GET", "/v1/releases?cursor=abc", by="auditor")

    assert (answer.status, answer.code) == (400, "invalid-request")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"/v1/releases/{UNKNOWN}", None),
        ("POST", f"/v1/releases/{UNKNOWN}/use", None),
        ("POST", "/v1/releases", {"base": UNKNOWN}),
        ("PUT", "/v1/stacks/ada/pin", {"release": UNKNOWN}),
    ],
)
async def test_a_release_that_is_not_there_is_not_found(world, method, path, body):
    world.provisioning.given("ada")

    answer = await world.call(method, path, by="operator", json=body)

    assert (answer.status, answer.code) == (404, "release-not-found")


@pytest.mark.parametrize("path", ["/v1/releases/7", "/v1/releases/rel_/use", "/v1/groups/Team"])
async def test_an_id_that_was_never_given_out_is_a_bad_request(world, path):
    answer = await world.call("POST" if path.endswith("use") else "GET", path, by="operator")

    assert (answer.status, answer.code) == (400, "invalid-request")


async def test_using_a_release_makes_it_the_target(world):
    made = await create(world, {"instructions": "Be brief."})

    used = await world.call("POST", f"/v1/releases/{made.json['id']}/use", by="operator")

    assert (used.status, used.json["is_current"]) == (200, True)
    assert world.releasing.current == made.json["id"]


async def test_the_target_is_not_changed_beside_a_rollout(world):
    world.releasing.fails_with = RolloutActive(rollout="ro_1")

    answer = await world.call("POST", f"/v1/releases/{RELEASE}/use", by="operator")

    assert (answer.status, answer.code) == (409, "rollout-active")
    assert answer.json["facts"] == {"rollout": "ro_1"}


async def test_a_pin_is_accepted_with_an_operation_and_says_so_twice_the_same(world):
    world.provisioning.given("ada")
    headers = {"Idempotency-Key": "k1", "If-Match": '"1"'}

    pinned, again = [
        await world.call(
            "PUT", "/v1/stacks/ada/pin", by="operator", json={"release": RELEASE}, headers=headers
        )
        for _ in range(2)
    ]
    unpinned = await world.call("DELETE", "/v1/stacks/ada/pin", by="operator")

    assert (pinned.status, pinned.json["kind"]) == (202, "pin")
    assert again.json == pinned.json
    assert (unpinned.status, unpinned.json["kind"]) == (202, "unpin")
    assert world.provisioning.calls.count("pin") == 1


async def test_a_pin_of_a_stack_that_changed_meanwhile_is_refused(world):
    world.provisioning.given("ada")

    answer = await world.call(
        "PUT", "/v1/stacks/ada/pin", by="operator", json={"release": RELEASE}, headers={"If-Match": '"9"'}
    )

    assert (answer.status, answer.code) == (412, "precondition-failed")


@pytest.mark.parametrize("body", [{}, {"release": "latest"}, {"release": RELEASE, "why": "x"}])
async def test_a_pin_names_one_release(world, body):
    world.provisioning.given("ada")

    answer = await world.call("PUT", "/v1/stacks/ada/pin", by="operator", json=body)

    assert (answer.status, answer.code) == (422, "invalid-body")


async def test_a_group_of_which_nothing_was_said_has_the_defaults(world):
    answer = await world.call("GET", "/v1/groups/team-a", by="auditor")

    assert answer.json == {
        "group": "team-a", "pin": None, "idle_stop_after": None, "changed_at": None, "changed_by": None,
    }  # fmt: skip


async def test_of_a_group_only_what_is_named_changes_and_null_takes_away(world):
    await world.call("PUT", "/v1/groups/team-a", by="operator", json={"pin": RELEASE})
    both = await world.call("PUT", "/v1/groups/team-a", by="operator", json={"idle_stop_after": "5400s"})
    one = await world.call("PUT", "/v1/groups/team-a", by="operator", json={"pin": None})

    assert (both.json["pin"], both.json["idle_stop_after"]) == (RELEASE, "90m")
    assert (one.json["pin"], one.json["idle_stop_after"]) == (None, "90m")
    assert one.json["changed_by"] == "operator"
    assert one.json["changed_at"] == NOW.isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"idle_stop_after": "59s"}, "/idle_stop_after"),
        ({"idle_stop_after": 1800}, "/idle_stop_after"),
        ({"idle_stop_after": "half an hour"}, "/idle_stop_after"),
        ({"pin": "latest"}, "/pin"),
        ({"limit": 3}, "/limit"),
    ],
)
async def test_a_group_is_not_set_to_what_it_cannot_be(world, body, pointer):
    answer = await world.call("PUT", "/v1/groups/team-a", by="operator", json=body)

    assert (answer.status, answer.code) == (422, "invalid-body")
    assert set(faults(answer)) == {pointer}
    assert world.groups.there == {}
