"""Calls of operators on the whole: what is stale, what stands in the way, what has no row."""

from dataclasses import replace

import pytest

from api.in_memory import NOW
from api.oversight_in_memory import a_condition, an_orphan
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import ConditionId, UserId, job_id_of
from opencode_lifecycle.model.staleness import Severity, StaleCount, Staleness, StalenessSummary
from opencode_lifecycle.model.states import Phase, Reason
from opencode_lifecycle.model.view import NextLook, StackPlan

ADA = UserId("ada")


async def test_the_fleet_is_shown_by_the_reasons_why_it_is_stale(world):
    world.oversight.summary = StalenessSummary(
        stacks=9,
        stale=3,
        facets=(
            StaleCount(facet=Facet.IMAGE, stacks=3, restart=True),
            StaleCount(facet=Facet.EDITED_OUTSIDE, stacks=2, restart=True),
            StaleCount(facet=Facet.PROMPT, stacks=1, restart=False),
        ),
    )

    answer = await world.call("GET", "/v1/staleness", by="auditor")

    assert answer.json == {
        "stacks": 9,
        "stale": 3,
        "items": [
            {"facet": "image", "stacks": 3, "severity": "warning", "restart": True},
            {"facet": "edited_outside", "stacks": 2, "severity": "warning", "restart": True},
            {"facet": "prompt", "stacks": 1, "severity": "info", "restart": False},
        ],
        "next_cursor": None,
    }


async def test_it_is_shown_when_a_stack_is_taken_up_next_and_what_is_done_then(world):
    steps = ["call it pending", "register the job"]
    world.oversight.looks[ADA] = NextLook(user_id=ADA, due_at=NOW, at_work=False, steps=steps, message="")

    answer = await world.call("GET", "/v1/stacks/ada/next", by="backend")

    assert answer.json == {
        "user_id": "ada",
        "due_at": "2026-11-24T12:00:00Z",
        "at_work": False,
        "steps": steps,
        "message": "",
    }


async def test_a_stack_that_is_not_there_is_never_taken_up(world):
    answer = await world.call("GET", "/v1/stacks/nobody/next", by="backend")

    assert (answer.status, answer.code) == (404, "stack-not-found")


async def test_a_dry_run_says_what_would_be_done_for_each_stack_and_begins_nothing(world):
    world.oversight.plans = [
        StackPlan(
            user_id=ADA,
            job_id=job_id_of("main", ADA),
            phase=Phase.RUNNING,
            reason=Reason.LOST,
            steps=["call it pending (lost)", "register the job"],
            message="",
            staleness=[
                Staleness(
                    facet=Facet.MISSING,
                    have="absent",
                    want="running",
                    severity=Severity.CRITICAL,
                    restart=True,
                )
            ],
        )
    ]

    answer = await world.call("POST", "/v1/reconcile?dry_run=true", by="operator")

    assert answer.status == 200
    assert answer.json["dry_run"] is True
    assert answer.json["stacks"][0]["steps"] == ["call it pending (lost)", "register the job"]
    assert answer.json["stacks"][0]["staleness"][0]["facet"] == "missing"
    assert world.oversight.calls == ["look"]


async def test_a_reconcile_that_is_no_dry_run_is_begun(world):
    answer = await world.call("POST", "/v1/reconcile", by="operator")

    assert (answer.status, answer.json["dry_run"]) == (200, False)
    assert world.oversight.calls == ["reconcile"]


async def test_a_reconcile_that_is_repeated_with_its_key_is_begun_once(world):
    for _ in range(2):
        await world.call("POST", "/v1/reconcile", by="operator", headers={"Idempotency-Key": "k"})

    assert world.oversight.calls == ["reconcile", "look"]


@pytest.mark.parametrize(
    "target",
    ["/v1/reconcile?dry_run=maybe", "/v1/reconcile?dry-run=true", "/v1/reconcile?dry_run=true&dry_run=true"],
)
async def test_a_dry_run_that_cannot_be_read_is_refused_and_begins_nothing(world, target):
    answer = await world.call("POST", target, by="operator")

    assert answer.status == 400
    assert world.oversight.calls == []


async def test_standing_conditions_say_what_they_freeze(world):
    world.oversight.conditions_there.append(a_condition())

    answer = await world.call("GET", "/v1/conditions", by="auditor")

    (condition,) = answer.json["items"]
    assert (condition["kind"], condition["status"], condition["freezes"]) == (
        "mass_disappearance",
        "standing",
        True,
    )
    assert condition["details"] == {"missing": 7, "of": 9}


async def test_what_is_cleared_is_listed_only_when_asked_for(world):
    world.oversight.conditions_there.append(a_condition(cleared_at=NOW))

    standing = await world.call("GET", "/v1/conditions", by="operator")
    everything = await world.call("GET", "/v1/conditions?standing=false", by="operator")

    assert standing.json["items"] == []
    assert [each["status"] for each in everything.json["items"]] == ["cleared"]


async def test_conditions_come_in_pages_that_a_cursor_of_other_filters_does_not_continue(world):
    for letter in "01":
        world.oversight.conditions_there.append(
            a_condition(id=ConditionId(f"cond_01JABCDEFGHJKMNPQRSTVWXYZ{letter}"))
        )

    first = await world.call("GET", "/v1/conditions?limit=1", by="operator")
    cursor = first.json["next_cursor"]
    second = await world.call("GET", f"/v1/conditions?limit=1&cursor={cursor}", by="operator")
    other = await world.call("GET", f"/v1/conditions?standing=false&cursor={cursor}", by="operator")

    assert second.json["items"][0]["id"].endswith("1")
    assert other.status == 400


async def test_confirming_a_condition_names_who_did(world):
    world.oversight.conditions_there.append(a_condition())

    answer = await world.call("POST", f"/v1/conditions/{a_condition().id}/confirm", by="operator")

    assert (answer.status, answer.json["status"], answer.json["confirmed_by"]) == (
        200,
        "confirmed",
        "operator",
    )
    assert answer.json["freezes"] is False


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/v1/conditions/cond_01JABCDEFGHJKMNPQRSTVWXYZ9/confirm", 404, "condition-not-found"),
        ("/v1/conditions/cond_1/confirm", 400, "invalid-request"),
        ("/v1/orphans/orp_000000000000000000000000/adopt", 404, "orphan-not-found"),
        ("/v1/orphans/orp_000000000000000000000000/delete", 404, "orphan-not-found"),
        ("/v1/orphans/orp_XYZ/delete", 400, "invalid-request"),
    ],
)
async def test_what_is_not_there_or_no_id_is_refused(world, target, status, code):
    answer = await world.call("POST", target, by="operator")

    assert (answer.status, answer.code) == (status, code)


async def test_orphans_say_whose_they_are_and_whether_that_is_proven(world):
    world.oversight.orphans_there.append(an_orphan())

    answer = await world.call("GET", "/v1/orphans", by="operator")

    (orphan,) = answer.json["items"]
    assert (orphan["kind"], orphan["user_id"], orphan["proven"]) == ("job", "ada", True)


async def test_adopting_an_orphan_answers_with_its_stack_and_where_it_is(world):
    world.oversight.orphans_there.append(an_orphan())

    answer = await world.call("POST", f"/v1/orphans/{an_orphan().id}/adopt", by="operator")

    assert (answer.status, answer.json["user_id"]) == (200, "ada")
    assert answer.headers["Location"] == "/v1/stacks/ada"


async def test_deleting_an_orphan_answers_with_nothing_and_is_done_once(world):
    world.oversight.orphans_there.append(an_orphan())
    target = f"/v1/orphans/{an_orphan().id}/delete"

    answers = [
        await world.call("POST", target, by="operator", headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]

    assert [answer.status for answer in answers] == [204, 204]
    assert world.oversight.calls == ["delete"]


async def test_what_is_not_proven_ours_is_neither_adopted_nor_deleted(world):
    orphan = replace(an_orphan(), proven=False)
    world.oversight.orphans_there.append(orphan)

    answers = [
        await world.call("POST", f"/v1/orphans/{orphan.id}/{what}", by="operator")
        for what in ("adopt", "delete")
    ]

    assert [(answer.status, answer.code) for answer in answers] == [(409, "orphan-not-proven")] * 2
    assert world.oversight.calls == []


@pytest.mark.parametrize("value", ["true", "false", "image", "edited_outside", "missing"])
async def test_stacks_can_be_listed_by_whether_and_in_what_they_are_stale(world, value):
    answer = await world.call("GET", f"/v1/stacks?stale={value}", by="operator")

    assert answer.status == 200


async def test_a_facet_that_there_is_not_is_refused(world):
    answer = await world.call("GET", "/v1/stacks?stale=colour", by="operator")

    assert (answer.status, answer.code) == (400, "invalid-request")
