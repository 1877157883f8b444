"""
Rollouts that are asked for wrongly (B22): each gets its exact refusal, with a pointer to what is wrong, and begins nothing.

What is wrong in itself is 422 and can be corrected in the body; what only stands against how things are is 409.
"""

import pytest

from api.in_memory import NOW, RELEASE
from api.rollouts_in_memory import NEXT_RELEASE, PRUNED_RELEASE, left_out
from opencode_lifecycle.model.identifiers import new_plan_id
from opencode_lifecycle.model.rollout import MemberReason, RolloutState

TARGETS = ["/v1/rollouts", "/v1/rollouts/plan"]


async def refusal(world, target, body):
    """Send *body* and return the pointers of the refusal and all that it says."""
    answer = await world.call("POST", target, by="operator", json=body)
    assert (answer.status, answer.code) == (422, "invalid-body"), answer.text
    assert world.rollouts.rollouts == {}
    assert world.rollouts.plans == {}
    return {fault["pointer"]: fault["detail"] for fault in answer.json["errors"]}


@pytest.fixture(params=TARGETS)
def refused(request, world):
    async def ask(body):
        return await refusal(world, request.param, body)

    return ask


@pytest.mark.parametrize("wave", ["0", "0%", "101%"])
async def test_b22_a_wave_of_none_or_of_more_than_all(refused, wave):
    faults = await refused({"strategy": {"waves": ["1", wave]}})

    assert faults == {"/strategy/waves/1": "must be at least 1, or from 1% to 100%"}


async def test_b22_no_wave_at_all(refused):
    assert set(await refused({"strategy": {"waves": []}})) == {"/strategy/waves"}


async def test_b22_more_waves_than_a_person_reads(refused):
    assert set(await refused({"strategy": {"waves": ["1"] * 101}})) == {"/strategy/waves"}


async def test_b22_more_than_all_as_canaries(refused):
    assert await refused({"strategy": {"canary": "101%"}}) == {"/strategy/canary": "must be at most 100%"}


@pytest.mark.parametrize("amount", ["0", "0%"])
async def test_b22_none_may_be_unavailable_while_a_wave_is_to_move(refused, amount):
    faults = await refused({"strategy": {"waves": ["10"], "max_unavailable": amount}})

    assert faults == {
        "/strategy/max_unavailable": "must be at least 1 or 1%: with 0, no wave could move anything"
    }


async def test_b22_more_than_all_may_be_unavailable(refused):
    assert set(await refused({"strategy": {"max_unavailable": "101%"}})) == {"/strategy/max_unavailable"}


@pytest.mark.parametrize("number", [0, -1, 1001, 10**30])
async def test_b22_nobody_or_too_many_in_flight(refused, number):
    assert set(await refused({"strategy": {"max_in_flight": number}})) == {"/strategy/max_in_flight"}


@pytest.mark.parametrize("number", ["10", 1.5, True, None])
async def test_b22_in_flight_is_a_whole_number(refused, number):
    assert set(await refused({"strategy": {"max_in_flight": number}})) == {"/strategy/max_in_flight"}


@pytest.mark.parametrize(
    "amount",
    ["", " 1", "1 ", "+1", "-1", "01", "1.5%", "1%%", "%", "ten", "1e3", "\uff11\uff10", "99999999", 10, 10.0, True, None, ["1"]],
)  # fmt: skip
async def test_b22_an_amount_is_written_as_10_or_as_10_percent(refused, amount):
    assert set(await refused({"strategy": {"canary": amount}})) == {"/strategy/canary"}


@pytest.mark.parametrize(
    "span", ["", "30", "30 s", "-1s", "1.5h", "1h30m", "1d", "\u0663s", "99999999s", 30, None]
)
async def test_b22_a_duration_is_written_as_90s(refused, span):
    assert set(await refused({"strategy": {"soak": span}})) == {"/strategy/soak"}


@pytest.mark.parametrize(("field", "span"), [("soak", "25h"), ("deadline", "169h"), ("deadline", "9999999h")])
async def test_b22_a_soak_or_a_deadline_beyond_any_use(refused, field, span):
    assert set(await refused({"strategy": {field: span}})) == {f"/strategy/{field}"}


async def test_b22_an_unknown_end_of_the_deadline(refused):
    assert set(await refused({"strategy": {"at_deadline": "kill"}})) == {"/strategy/at_deadline"}


@pytest.mark.parametrize(
    "filters",
    [
        {"reasons": ["image"]},
        {"releases": [RELEASE]},
        {"labels": {"team": "search"}},
        {"groups": ["default"]},
        {"users": ["ada"]},
    ],
)
async def test_b22_selectors_that_overlap(refused, filters):
    faults = await refused({"selector": {"all_stale": True, **filters}})

    assert set(faults) == {"/selector/all_stale"}
    assert next(iter(filters)) in faults["/selector/all_stale"]


@pytest.mark.parametrize("change", ["recreate", "rotate_passwords"])
@pytest.mark.parametrize("selector", [{"all_stale": True}, {"reasons": ["image"]}])
async def test_b22_what_is_stale_and_what_is_not_at_once(refused, change, selector):
    assert set(await refused({change: True, "selector": selector})) == {f"/selector/{next(iter(selector))}"}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("users", ["ada", "bob", "ada"]),
        ("groups", ["a", "b", "a"]),
        ("reasons", ["image", "prompt", "image"]),
        ("releases", [RELEASE, NEXT_RELEASE, RELEASE]),
    ],
)
async def test_b22_a_selector_that_names_one_twice(refused, name, values):
    assert await refused({"selector": {name: values}}) == {f"/selector/{name}/2": "is named twice"}


@pytest.mark.parametrize(
    ("selector", "pointer"),
    [
        ({"users": ["a/b"]}, "/selector/users/0"),
        ({"users": ["ada", ""]}, "/selector/users/1"),
        ({"users": "ada"}, "/selector/users"),
        ({"groups": ["Group"]}, "/selector/groups/0"),
        ({"labels": {"Team": "a"}}, "/selector/labels/Team"),
        ({"labels": {"team": "a\n"}}, "/selector/labels/team"),
        ({"labels": {"team": "${x}"}}, "/selector/labels/team"),
        ({"reasons": ["colour"]}, "/selector/reasons/0"),
        ({"releases": ["main"]}, "/selector/releases/0"),
        ({"all_stale": "yes"}, "/selector/all_stale"),
        ({"stale": True}, "/selector/stale"),
    ],
)
async def test_b22_a_selector_of_what_cannot_be(refused, selector, pointer):
    assert set(await refused({"selector": selector})) == {pointer}


@pytest.mark.parametrize(
    "selector", [{"users": []}, {"groups": []}, {"labels": {}}, {"users": [], "all_stale": False}]
)
async def test_b22_a_selector_whose_filters_are_all_empty(refused, selector):
    assert await refused({"selector": selector}) == {
        f"/selector/{next(iter(selector))}": "selects nobody, since it is empty; leave it out for every stack that differs"
    }


async def test_b22_more_users_than_a_body_is_for(world):
    world.max_body_bytes = 10**6  # what bounds this in practice is the size of the body
    users = [f"u{number}" for number in range(10_001)]

    answer = await world.call("POST", "/v1/rollouts", by="operator", json={"selector": {"users": users}})

    assert answer.status in {413, 422}
    assert world.rollouts.rollouts == {}


async def test_b22_a_release_that_is_not_there(refused):
    assert await refused({"release": PRUNED_RELEASE}) == {"/release": "there is no release with this id"}


@pytest.mark.parametrize("release", ["", "latest", "rel_", "rel_a b", "../rel_1", 1])
async def test_b22_what_is_no_id_of_a_release(refused, release):
    assert set(await refused({"release": release})) == {"/release"}


@pytest.mark.parametrize(
    ("gate", "pointer"),
    [
        ({"failure_budget": "101%"}, "/strategy/gate/failure_budget"),
        ({"failure_budget": 5}, "/strategy/gate/failure_budget"),
        ({"health": "on"}, "/strategy/gate/health"),
        ({"prompt": "   "}, "/strategy/gate/prompt"),
        ({"prompt": "x" * 2001}, "/strategy/gate/prompt"),
        ({"errors": "5%"}, "/strategy/gate/errors"),
    ],
)
async def test_b22_a_gate_that_cannot_be(refused, gate, pointer):
    assert set(await refused({"strategy": {"gate": gate}})) == {pointer}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"wave": "10"}, "/wave"),
        ({"state": "running"}, "/state"),
        ({"created_by": "eve"}, "/created_by"),
        ({"strategy": {"max_surge": 1}}, "/strategy/max_surge"),
        ({"strategy": []}, "/strategy"),
        ({"recreate": 1}, "/recreate"),
    ],
)
async def test_b22_fields_that_there_are_not(refused, body, pointer):
    assert set(await refused(body)) == {pointer}


async def test_b22_everything_that_is_wrong_is_told_at_once(refused):
    faults = await refused(
        {
            "release": PRUNED_RELEASE,
            "selector": {"all_stale": True, "users": ["ada"]},
            "strategy": {"waves": ["0"], "max_unavailable": "0"},
        }
    )

    assert set(faults) == {
        "/release", "/selector/all_stale", "/strategy/waves/0", "/strategy/max_unavailable",
    }  # fmt: skip


async def test_b22_a_plan_and_a_specification_at_once(world):
    faults = await refusal(world, "/v1/rollouts", {"plan": new_plan_id(), "recreate": True, "strategy": {}})

    assert faults == {"/plan": "is applied as it was made; leave out recreate, strategy"}


@pytest.mark.parametrize("plan_id", ["", "plan_1", "ro_01JABCDEFGHJKMNPQRSTVWXYZ0", 7])
async def test_b22_what_is_no_id_of_a_plan(world, plan_id):
    assert set(await refusal(world, "/v1/rollouts", {"plan": plan_id})) == {"/plan"}


async def test_b22_a_plan_is_not_planned_again(world):
    assert set(await refusal(world, "/v1/rollouts/plan", {"plan": new_plan_id()})) == {"/plan"}


async def test_b22_the_target_is_what_there_is_already(world):
    world.rollouts.planned = [left_out("ada", MemberReason.MOVED)]

    answer = await world.call("POST", "/v1/rollouts", by="operator", json={"release": RELEASE})

    assert (answer.status, answer.code) == (409, "nothing-to-do")
    assert world.rollouts.rollouts == {}


@pytest.mark.parametrize("state", [RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ROLLING_BACK])
async def test_b22_two_rollouts_at_once(world, state):
    active = world.rollouts.given(state=state)

    answer = await world.call("POST", "/v1/rollouts", by="operator", json={})

    assert (answer.status, answer.code) == (409, "rollout-active")
    assert answer.json["facts"] == {"rollout_id": active.id}
    assert set(world.rollouts.rollouts) == {active.id}


async def test_b22_two_rollouts_at_once_by_a_plan(world):
    planned = (await world.call("POST", "/v1/rollouts/plan", by="operator")).json
    world.rollouts.given()

    answer = await world.call("POST", "/v1/rollouts", by="operator", json={"plan": planned["id"]})

    assert (answer.status, answer.code) == (409, "rollout-active")


async def test_b22_a_plan_may_be_made_while_a_rollout_runs(world):
    world.rollouts.given()

    answer = await world.call("POST", "/v1/rollouts/plan", by="operator")

    assert answer.status == 200


async def test_b22_a_rollback_to_a_version_that_was_pruned(world):
    rollout = world.rollouts.given(
        state=RolloutState.SUCCEEDED, finished_at=NOW, target_before=PRUNED_RELEASE
    )

    answer = await world.call("POST", f"/v1/rollouts/{rollout.id}/rollback", by="operator")

    assert (answer.status, answer.code) == (409, "rollback-impossible")
    assert answer.json["facts"] == {"release": PRUNED_RELEASE}
    assert world.rollouts.rollouts[rollout.id] == rollout


@pytest.mark.parametrize(
    ("verb", "state"),
    [
        ("pause", RolloutState.SUCCEEDED),
        ("pause", RolloutState.ABORTED),
        ("resume", RolloutState.SUCCEEDED),
        ("resume", RolloutState.ABORTED),
        ("abort", RolloutState.ROLLED_BACK),
        ("abort", RolloutState.FAILED),
        ("rollback", RolloutState.ROLLED_BACK),
        ("rollback", RolloutState.FAILED),
    ],
)
async def test_b22_what_cannot_be_done_to_a_rollout_in_its_state(world, verb, state):
    rollout = world.rollouts.given(state=state, finished_at=NOW)

    answer = await world.call("POST", f"/v1/rollouts/{rollout.id}/{verb}", by="operator")

    assert (answer.status, answer.code) == (409, "rollout-finished")
    assert answer.json["facts"] == {"state": state}
    assert world.rollouts.rollouts[rollout.id] == rollout
