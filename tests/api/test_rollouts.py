"""Calls on rollouts: planning one, beginning it, and what can be done with it while it runs."""

import json
from datetime import timedelta

import pytest

from api.in_memory import NOW, RELEASE
from api.rollouts_in_memory import NEXT_RELEASE, PRUNED_RELEASE, a_planned_stack, left_out
from opencode_lifecycle.api.schemas import RolloutBody
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import new_plan_id, new_rollout_id
from opencode_lifecycle.model.migration import AtDeadline, MigrationClass
from opencode_lifecycle.model.rollout import (
    BusyState,
    MemberReason,
    MemberState,
    Placement,
    PromptVerdict,
    RolloutReason,
    RolloutState,
)
from opencode_lifecycle.model.rollout_specification import (
    Amount,
    Gate,
    RolloutSpecification,
    Selector,
    Strategy,
)

WHOLE_BODY = {
    "release": NEXT_RELEASE,
    "selector": {
        "all_stale": False,
        "reasons": ["image", "prompt"],
        "releases": [RELEASE],
        "labels": {"team": "search"},
        "groups": ["default"],
        "users": ["ada", "bob"],
    },
    "strategy": {
        "canary": "2",
        "waves": ["5", "25%"],
        "max_in_flight": 4,
        "max_unavailable": "3%",
        "soak": "90s",
        "gate": {"failure_budget": "1", "health": False, "prompt": "say yes"},
        "deadline": "2h",
        "at_deadline": "hold",
    },
    "rotate_passwords": False,
    "recreate": False,
}
WHOLE = RolloutSpecification(
    release=NEXT_RELEASE,
    selector=Selector(
        reasons=(Facet.IMAGE, Facet.PROMPT),
        releases=(RELEASE,),
        labels={"team": "search"},
        groups=("default",),
        users=("ada", "bob"),
    ),
    strategy=Strategy(
        canary=Amount(count=2),
        waves=(Amount(count=5), Amount(percent=25)),
        max_in_flight=4,
        max_unavailable=Amount(percent=3),
        soak=timedelta(seconds=90),
        gate=Gate(failure_budget=Amount(count=1), health=False, prompt="say yes"),
        deadline=timedelta(hours=2),
        at_deadline=AtDeadline.HOLD,
    ),
)


async def plan(world, body=None):
    return await world.call("POST", "/v1/rollouts/plan", by="operator", json=body)


async def start(world, body=None, **headers):
    return await world.call("POST", "/v1/rollouts", by="operator", json=body, headers=headers)


def the_specification(world):
    (rollout,) = world.rollouts.rollouts.values()
    return rollout.specification


def test_every_field_of_a_specification_can_be_asked_for():
    assert RolloutBody.model_validate(WHOLE_BODY).to_domain() == WHOLE


def test_a_body_without_anything_asks_for_the_default_strategy_over_all_that_is_stale():
    assert RolloutBody.model_validate({}).to_domain() == RolloutSpecification()


@pytest.mark.parametrize("body", [None, {}, {"selector": {"all_stale": True}}])
async def test_all_that_is_stale_is_recreated_by_a_body_that_names_nothing_else(world, body):
    answer = await start(world, body)

    assert answer.status == 201
    assert the_specification(world).strategy == Strategy()
    assert the_specification(world).release is None


async def test_what_is_shown_of_a_specification_can_be_sent_back(world):
    shown = (await plan(world, WHOLE_BODY)).json["specification"]

    assert shown == WHOLE_BODY
    assert (await plan(world, shown)).json["specification"] == shown


async def test_a_plan_says_of_each_stack_why_which_class_busy_or_not_and_whether_it_could_be_placed(world):
    world.rollouts.planned = [
        a_planned_stack("ada", busy=BusyState.BUSY),
        a_planned_stack("bob", placement=Placement.REFUSED, message="1 node exhausted: memory"),
        a_planned_stack("eve", migration_class=MigrationClass.LIVE, wave=0, busy=BusyState.UNKNOWN),
        left_out("joe", MemberReason.PINNED),
        a_planned_stack("zoe", busy=BusyState.UNKNOWN),
    ]

    answer = await plan(world, {"release": NEXT_RELEASE})

    ada, bob, eve, joe, _ = answer.json["stacks"]
    assert answer.status == 200
    assert (ada["class"], ada["busy"], ada["placement"], ada["wave"]) == ("restart", "busy", "possible", 1)
    assert ada["why"][0] == {
        "facet": "image", "have": "v1", "want": "v2", "severity": "warning", "restart": True,
    }  # fmt: skip
    assert (bob["placement"], bob["message"]) == ("refused", "1 node exhausted: memory")
    assert (eve["class"], eve["wave"]) == ("live", 0)
    assert (joe["left_out"], joe["wave"], joe["class"]) == ("pinned", None, None)
    assert answer.json["totals"] == {
        "stacks": 5, "to_move": 4, "left_out": 1, "live": 1, "reload": 0, "restart": 3, "busy": 2, "not_placeable": 1,
    }  # fmt: skip


async def test_a_plan_has_an_id_that_lapses_and_begins_nothing(world):
    answer = await plan(world)

    assert answer.json["id"].startswith("plan_")
    assert answer.json["lapses_at"] == "2026-11-24T13:00:00Z"
    assert (answer.json["has_changes"], answer.json["changes_target"]) == (True, False)
    assert world.rollouts.rollouts == {}


async def plan_with_a_key(world, body=None):
    return await world.call(
        "POST", "/v1/rollouts/plan", by="operator", json=body, headers={"Idempotency-Key": "k"}
    )


async def test_a_plan_that_is_asked_for_twice_with_one_key_is_one_plan(world):
    first = await plan_with_a_key(world, WHOLE_BODY)
    world.rollouts.planned = []
    again = await plan_with_a_key(world, WHOLE_BODY)

    assert (again.status, again.json) == (200, first.json)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert world.rollouts.calls == ["plan"]


async def test_a_plan_that_was_forgotten_is_not_made_again_under_its_key(world):
    await plan_with_a_key(world)
    world.rollouts.plans.clear()

    again = await plan_with_a_key(world)

    assert (again.status, again.code) == (409, "plan-lapsed")
    assert "another key" in again.json["detail"]


async def test_a_plan_with_nothing_to_do_says_so(world):
    world.rollouts.planned = []

    answer = await plan(world)

    assert (answer.status, answer.json["has_changes"]) == (200, False)


async def test_a_plan_is_applied_by_its_id(world):
    planned = (await plan(world, WHOLE_BODY)).json

    answer = await start(world, {"plan": planned["id"]})

    assert answer.status == 201
    assert answer.headers["Location"] == f"/v1/rollouts/{answer.json['id']}"
    assert answer.json["specification"] == WHOLE_BODY
    assert world.rollouts.calls == ["plan", "apply"]


async def test_a_rollout_that_is_asked_for_again_with_its_key_is_begun_once(world):
    first = await start(world, {}, **{"Idempotency-Key": "k"})
    again = await start(world, {}, **{"Idempotency-Key": "k"})

    assert (again.status, again.json["id"]) == (201, first.json["id"])
    assert again.headers["Idempotent-Replayed"] == "true"
    assert world.rollouts.calls == ["start"]


async def test_rollouts_are_listed_the_newest_first_page_by_page(world):
    given = sorted((world.rollouts.given(finished_at=NOW).id for _ in range(3)), reverse=True)

    first = await world.call("GET", "/v1/rollouts?limit=2", by="auditor")
    rest = await world.call("GET", f"/v1/rollouts?cursor={first.json['next_cursor']}", by="auditor")

    assert [each["id"] for each in first.json["items"] + rest.json["items"]] == given
    assert rest.json["next_cursor"] is None


async def test_a_rollout_shows_how_far_it_is_in_numbers_and_by_name(world):
    rollout = world.rollouts.given(wave=1, waves=3, counts={MemberState.MIGRATED: 1, MemberState.ORDERED: 1})
    world.rollouts.given_member(
        rollout, "ada", wave=0, state=MemberState.MIGRATED, prompt=PromptVerdict.ANSWERED
    )
    world.rollouts.given_member(
        rollout, "bob", state=MemberState.ORDERED, ordered_at=NOW, first_ordered_at=NOW, reason="at_work"
    )

    answer = await world.call("GET", f"/v1/rollouts/{rollout.id}", by="auditor")

    ada, bob = answer.json["members"]["items"]
    assert (answer.json["state"], answer.json["wave"], answer.json["waves"]) == ("running", 1, 3)
    assert answer.json["counts"] == {"migrated": 1, "ordered": 1}
    assert answer.json["wave_counts"] == [
        {"wave": 0, "counts": {"migrated": 1}},
        {"wave": 1, "counts": {"ordered": 1}},
    ]
    assert (ada["user_id"], ada["state"], ada["class"], ada["prompt"]) == (
        "ada", "migrated", "restart", "answered",
    )  # fmt: skip
    assert (bob["reason"], bob["ordered_at"], bob["deadline"]) == (
        "at_work", "2026-11-24T12:00:00Z", "2026-11-24T13:00:00Z",
    )  # fmt: skip


async def test_members_are_shown_by_state_page_by_page(world):
    rollout = world.rollouts.given()
    for user_id in ("ada", "bob", "eve"):
        world.rollouts.given_member(rollout, user_id, state=MemberState.FAILED)
    world.rollouts.given_member(rollout, "joe")
    path = f"/v1/rollouts/{rollout.id}?state=failed&limit=2"

    first = (await world.call("GET", path, by="operator")).json["members"]
    rest = (await world.call("GET", f"{path}&cursor={first['next_cursor']}", by="operator")).json["members"]

    assert [each["user_id"] for each in first["items"] + rest["items"]] == ["ada", "bob", "eve"]
    assert rest["next_cursor"] is None


async def test_what_became_of_one_user_in_a_rollout_is_asked_for_by_name(world):
    rollout = world.rollouts.given()
    for user_id in ("ada", "bob@example.org"):
        world.rollouts.given_member(rollout, user_id)
    path = f"/v1/rollouts/{rollout.id}"

    found = await world.call("GET", f"{path}?user=bob%40example.org", by="operator")
    nobody = await world.call("GET", f"{path}?user=eve", by="operator")
    invalid = await world.call("GET", f"{path}?user=a%2Fb", by="operator")

    assert [each["user_id"] for each in found.json["members"]["items"]] == ["bob@example.org"]
    assert nobody.json["members"]["items"] == []
    assert (invalid.status, invalid.code) == (400, "invalid-request")


async def test_the_cursor_of_one_state_is_refused_for_another(world):
    rollout = world.rollouts.given()
    for user_id in ("ada", "bob"):
        world.rollouts.given_member(rollout, user_id, state=MemberState.FAILED)
    path = f"/v1/rollouts/{rollout.id}?limit=1"
    page = (await world.call("GET", f"{path}&state=failed", by="operator")).json["members"]

    answer = await world.call("GET", f"{path}&state=held&cursor={page['next_cursor']}", by="operator")

    assert (answer.status, answer.code) == (400, "invalid-request")


async def test_a_wave_that_soaks_says_until_when(world):
    rollout = world.rollouts.given(settled_at=NOW)

    answer = await world.call("GET", f"/v1/rollouts/{rollout.id}", by="operator")

    assert answer.json["soaks_until"] == "2026-11-24T12:00:30Z"


async def test_a_paused_rollout_soaks_no_more(world):
    rollout = world.rollouts.given(settled_at=NOW, state=RolloutState.PAUSED, reason=RolloutReason.FAILURES)

    answer = await world.call("GET", f"/v1/rollouts/{rollout.id}", by="operator")

    assert (answer.json["soaks_until"], answer.json["reason"]) == (None, "failures")


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("pause", RolloutState.RUNNING, "paused"),
        ("resume", RolloutState.PAUSED, "running"),
        ("abort", RolloutState.PAUSED, "aborted"),
        ("rollback", RolloutState.RUNNING, "rolling_back"),
    ],
)
async def test_a_rollout_is_paused_resumed_aborted_and_rolled_back(world, verb, before, after):
    rollout = world.rollouts.given(state=before)

    answer = await world.call("POST", f"/v1/rollouts/{rollout.id}/{verb}", by="operator")

    assert (answer.status, answer.json["state"]) == (200, after)


@pytest.mark.parametrize(("body", "data"), [(None, "keep"), ({}, "keep"), ({"data": "restore"}, "restore")])
async def test_a_rollback_keeps_what_was_written_unless_it_says_otherwise(world, body, data):
    rollout = world.rollouts.given(state=RolloutState.RUNNING)

    answer = await world.call("POST", f"/v1/rollouts/{rollout.id}/rollback", by="operator", json=body)

    assert answer.status == 200
    assert world.rollouts.rolled_back_with == data


async def test_a_rollback_that_says_something_else_of_the_data_is_refused(world):
    rollout = world.rollouts.given(state=RolloutState.RUNNING)

    answer = await world.call(
        "POST", f"/v1/rollouts/{rollout.id}/rollback", by="operator", json={"data": "lose"}
    )

    assert (answer.status, answer.code) == (422, "invalid-body")
    assert world.rollouts.calls == []


@pytest.mark.parametrize("verb", ["pause", "resume", "abort", "rollback"])
async def test_what_is_asked_twice_with_one_key_is_done_once(world, verb):
    state = RolloutState.PAUSED if verb == "resume" else RolloutState.RUNNING
    rollout = world.rollouts.given(state=state)

    answers = [
        await world.call(
            "POST", f"/v1/rollouts/{rollout.id}/{verb}", by="operator", headers={"Idempotency-Key": "k"}
        )
        for _ in range(2)
    ]

    assert answers[0].json == answers[1].json
    assert world.rollouts.calls == [verb]


@pytest.mark.parametrize("verb", ["", "/pause", "/resume", "/abort", "/rollback"])
async def test_a_rollout_that_is_not_there_is_not_found(world, verb):
    method = "POST" if verb else "GET"

    answer = await world.call(method, f"/v1/rollouts/{new_rollout_id()}{verb}", by="operator")

    assert (answer.status, answer.code) == (404, "rollout-not-found")


@pytest.mark.parametrize("rollout_id", ["ro_1", "op_01JABCDEFGHJKMNPQRSTVWXYZ0", "plan", "%2e%2e"])
async def test_what_is_no_id_of_a_rollout_is_refused_as_such(world, rollout_id):
    answer = await world.call("GET", f"/v1/rollouts/{rollout_id}", by="operator")

    assert (answer.status, answer.code) == (400, "invalid-request")


async def test_a_plan_that_is_not_there_is_not_found(world):
    answer = await start(world, {"plan": new_plan_id()})

    assert (answer.status, answer.code) == (404, "plan-not-found")


async def test_a_plan_that_is_too_old_is_refused(world):
    planned = (await plan(world)).json
    world.rollouts.lapsed = True

    answer = await start(world, {"plan": planned["id"]})

    assert (answer.status, answer.code) == (409, "plan-lapsed")


async def test_what_has_ended_cannot_be_paused(world):
    rollout = world.rollouts.given(state=RolloutState.SUCCEEDED, finished_at=NOW)

    answer = await world.call("POST", f"/v1/rollouts/{rollout.id}/pause", by="operator")

    assert (answer.status, answer.code) == (409, "rollout-finished")
    assert answer.json["facts"] == {"state": "succeeded"}


async def test_a_rollback_to_what_is_gone_is_refused_with_the_reason(world):
    rollout = world.rollouts.given(target_before=PRUNED_RELEASE)

    answer = await world.call("POST", f"/v1/rollouts/{rollout.id}/rollback", by="operator")

    assert (answer.status, answer.code) == (409, "rollback-impossible")
    assert PRUNED_RELEASE in answer.json["detail"]


async def test_a_body_with_a_verb_is_refused(world):
    rollout = world.rollouts.given()

    answer = await world.call(
        "POST", f"/v1/rollouts/{rollout.id}/pause", by="operator", data=json.dumps({"for": "1h"}),
        headers={"Content-Type": "application/json"},
    )  # fmt: skip

    assert (answer.status, answer.code) == (422, "invalid-body")
    assert world.rollouts.calls == []
