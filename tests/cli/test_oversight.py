"""Commands on the whole: what is stale, what would be done, what stands in the way, what has no row."""

import json

from fakes.lifecycle_service import JOB, SINCE, items, stack, staleness
from opencode_lifecycle.cli.exit_codes import ExitCode

CONDITION = {
    "id": "cond_1",
    "kind": "mass_disappearance",
    "status": "standing",
    "freezes": True,
    "message": "7 of 9 stacks that should run are not in Nomad's listing.",
    "details": {},
    "since": SINCE,
    "confirmed_at": None,
    "confirmed_by": None,
    "cleared_at": None,
}
ORPHAN = {
    "id": "orp_1",
    "kind": "job",
    "job_id": JOB,
    "reference": JOB,
    "installation": "main",
    "user_id": "ada",
    "proven": True,
    "confirmations": 2,
    "first_seen_at": SINCE,
    "last_seen_at": SINCE,
    "details": {"stopped": False},
}


def report(**changes):
    return {
        "dry_run": True,
        "at": SINCE,
        "index": 42,
        "compared": 9,
        "frozen": False,
        "conditions": [],
        "stacks": [],
        "not_shown": 0,
        "orphans": [],
        **changes,
    }


PLAN = {
    "user_id": "ada",
    "job_id": JOB,
    "phase": "running",
    "reason": "lost",
    "steps": ["call it pending (lost)", "register the job"],
    "message": "",
    "staleness": [],
}


def test_staleness_shows_each_facet_with_its_share(run, service):
    service.answers(
        "GET /v1/staleness",
        {
            "stacks": 10,
            "stale": 5,
            "items": [{"facet": "image", "stacks": 5, "severity": "warning", "restart": True}],
            "next_cursor": None,
        },
    )

    result = run("staleness")

    assert "image" in result.stdout
    assert "50%" in result.stdout
    assert "5 of 10 stacks are stale" in result.stderr


def test_a_dry_run_shows_the_steps_and_says_by_its_exit_code_that_there_are_some(run, service):
    service.answers("POST /v1/reconcile", report(stacks=[PLAN]))

    result = run("reconcile", "--dry-run")

    assert "call it pending (lost), then register the job" in result.stdout
    assert result.exit_code == ExitCode.FAILED
    assert service.asked[0].query == {"dry_run": "true"}


def test_a_dry_run_that_finds_nothing_to_do_ends_well(run, service):
    service.answers("POST /v1/reconcile", report())

    result = run("reconcile", "--dry-run")

    assert result.exit_code == ExitCode.OK
    assert "9 stacks compared with Nomad at index 42: 0 would be put right" in result.stderr


def test_a_reconcile_ends_well_when_there_was_something_to_do(run, service):
    service.answers("POST /v1/reconcile", report(dry_run=False, stacks=[PLAN]))

    assert run("reconcile").exit_code == ExitCode.OK


def test_a_reconcile_says_what_holds_it_back(run, service):
    service.answers("POST /v1/reconcile", report(frozen=True, conditions=[CONDITION]))

    result = run("reconcile", "--dry-run")

    assert "mass_disappearance" in result.stdout
    assert "what rests on absence is held back" in result.stderr


def test_orphans_are_listed_with_their_owner_and_whether_that_is_proven(run, service):
    service.answers("GET /v1/orphans", items(ORPHAN))

    result = run("orphans", "list")

    assert JOB in result.stdout
    assert "ada" in result.stdout
    assert "stopped=no" in result.stdout


def test_an_orphan_is_adopted_by_its_id(run, service):
    service.answers("POST /v1/orphans/orp_1/adopt", stack())

    result = run("orphans", "adopt", "orp_1")

    assert result.stdout == f"ada has its stack again: {JOB}\n"
    assert "Idempotency-Key" in service.asked[0].headers


def test_an_orphan_that_is_not_proven_ours_is_refused_with_what_to_do(run, service):
    service.refuses("POST /v1/orphans/orp_1/delete", 409, "orphan-not-proven")

    result = run("orphans", "delete", "orp_1")

    assert result.exit_code == ExitCode.FAILED
    assert "What to do" in result.stderr


def test_an_orphan_is_deleted_by_its_id(run, service):
    service.answers("POST /v1/orphans/orp_1/delete", status=204)

    assert run("orphans", "delete", "orp_1").exit_code == ExitCode.OK


def test_conditions_show_what_they_freeze(run, service):
    service.answers("GET /v1/conditions", items(CONDITION))

    result = run("conditions", "list")

    assert "mass_disappearance" in result.stdout
    assert service.asked[0].query["standing"] == "true"


def test_cleared_conditions_are_listed_when_asked_for(run, service):
    service.answers("GET /v1/conditions", items())

    result = run("conditions", "list", "--all")

    assert service.asked[0].query["standing"] == "false"
    assert "Nothing stands in the way." in result.stderr


def test_a_condition_is_confirmed_by_its_id(run, service):
    service.answers("POST /v1/conditions/cond_1/confirm", {**CONDITION, "status": "confirmed"})

    assert run("conditions", "confirm", "cond_1").stdout == "mass_disappearance is confirmed.\n"


def test_with_json_each_is_the_services_answer(run, service):
    service.answers("POST /v1/reconcile", report(stacks=[PLAN]))

    assert json.loads(run("reconcile", "--dry-run", "--json").stdout) == report(stacks=[PLAN])


def test_stacks_are_listed_by_the_facet_they_are_stale_in(run, service):
    service.answers("GET /v1/stacks", items(stack(staleness=[staleness()])))

    run("list", "--stale-in", "image")

    assert service.asked[0].query["stale"] == "image"


def test_an_edit_from_outside_is_shown_field_by_field(run, service):
    edit = staleness(facet="edited_outside", have="A = 1; B = 2", want="A = 0; B = absent")
    service.answers("GET /v1/stacks/ada", stack(staleness=[edit]))

    shown = run("show", "ada").stdout

    assert "A = 1" in shown
    assert "A = 1; B" not in shown


def test_a_dry_run_that_only_reports_orphans_ends_well(run, service):
    plan = {"orphan": ORPHAN, "action": "report", "message": "it is not proven to be ours"}
    service.answers("POST /v1/reconcile", report(orphans=[plan]))

    assert run("reconcile", "--dry-run").exit_code == ExitCode.OK
