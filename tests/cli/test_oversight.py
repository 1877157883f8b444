"""Commands on the whole: what is stale, what would be done, what stands in the way, what has no row."""

import json

import pytest

from fakes.service_answers import JOB, SINCE, condition, items, orphan, stack
from opencode_lifecycle.cli import client
from opencode_lifecycle.cli.exit_codes import ExitCode

CONDITION = condition()
ORPHAN = orphan()


def report(**changes):
    return {
        "dry_run": True,
        "at": SINCE,
        "index": 42,
        "compared": 9,
        "frozen": False,
        "conditions": [],
        "stacks": [],
        "orphans": [],
        "orphans_unseen": None,
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


def test_a_fleet_in_which_none_is_stale_has_no_table(run, service):
    service.answers("GET /v1/staleness", {"stacks": 1, "stale": 0, "items": [], "next_cursor": None})

    result = run("staleness")

    assert (result.stdout, result.stderr) == ("", "1 stack, and none is stale.\n")


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
    assert result.stderr == (
        "9 stacks compared with Nomad at index 42: 0 stacks and 0 orphans would be put right.\n"
    )


def test_a_dry_run_says_that_orphans_could_not_be_looked_for(run, service):
    service.answers("POST /v1/reconcile", report(orphans_unseen="vault: list all: the connection failed"))

    result = run("reconcile", "--dry-run")

    assert "orphans could not be looked for: vault: list all: the connection failed" in result.stderr


def test_a_reconcile_is_given_longer_than_other_calls(run, service, monkeypatch):
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.1)
    service.is_slow("POST /v1/reconcile", 0.5, report())
    service.is_slow("GET /v1/staleness", 0.5, {"stacks": 0, "stale": 0, "items": []})

    assert run("reconcile", "--dry-run").exit_code == ExitCode.OK
    assert run("staleness").exit_code == ExitCode.UNREACHABLE


def test_a_reconcile_ends_well_when_there_was_something_to_do(run, service):
    service.answers("POST /v1/reconcile", report(dry_run=False, stacks=[PLAN]))

    assert run("reconcile").exit_code == ExitCode.OK


def test_a_reconcile_says_what_holds_it_back(run, service):
    service.answers("POST /v1/reconcile", report(frozen=True, conditions=[CONDITION]))

    result = run("reconcile", "--dry-run")

    assert "mass_disappearance" in result.stdout
    assert "what rests on absence is held back" in result.stderr


def test_orphans_are_listed_with_their_owner_and_how_often_they_were_found(run, service):
    service.answers("GET /v1/orphans", items(ORPHAN))

    result = run("orphans", "list")

    assert f"{ORPHAN['id']}  job   {JOB}  ada   2 times" in result.stdout
    assert "the service sees to the others" in result.stderr


def test_an_orphan_is_adopted_by_its_id(run, service):
    service.answers("POST /v1/orphans/orp_0123456789abcdef01234567/adopt", stack())

    result = run("orphans", "adopt", "orp_0123456789abcdef01234567")

    assert result.stdout == f"ada has its stack again: {JOB}\n"
    assert "Idempotency-Key" in service.asked[0].headers


def test_an_orphan_that_is_not_proven_ours_is_refused_with_what_to_do(run, service):
    service.refuses("POST /v1/orphans/orp_0123456789abcdef01234567/delete", 409, "orphan-not-proven")

    result = run("orphans", "delete", "orp_0123456789abcdef01234567", "--yes")

    assert result.exit_code == ExitCode.FAILED
    assert "What to do" in result.stderr


def test_an_orphan_is_deleted_by_its_id(run, service):
    service.answers("POST /v1/orphans/orp_0123456789abcdef01234567/delete", status=204)

    assert run("orphans", "delete", "orp_0123456789abcdef01234567", "--yes").exit_code == ExitCode.OK


def test_deleting_an_orphan_is_asked_about_where_somebody_can_answer(terminal, service):
    service.answers("POST /v1/orphans/orp_0123456789abcdef01234567/delete", status=204)

    no = terminal("orphans", "delete", "orp_0123456789abcdef01234567", answer="n\n")
    asked_after_no = len(service.asked)
    yes = terminal("orphans", "delete", "orp_0123456789abcdef01234567", answer="y\n")

    assert "a volume with all its data?" in no.text
    assert (no.exit_code, asked_after_no) == (ExitCode.FAILED, 0)
    assert (yes.exit_code, len(service.asked)) == (ExitCode.OK, 1)


def test_deleting_an_orphan_is_refused_where_nobody_can_answer(run, service):
    result = run("orphans", "delete", "orp_0123456789abcdef01234567")

    assert result.exit_code == ExitCode.USAGE
    assert "add --yes" in result.stderr
    assert service.asked == []


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({"proven": False}, "not proven to be ours"),
        ({"kind": "volume"}, "it holds data"),
        ({"kind": "secret"}, "unless its stack was deleted"),
        ({}, ""),
    ],
)
def test_orphans_that_wait_for_a_person_say_so(run, service, changes, waits):
    service.answers("GET /v1/orphans", items(orphan(**changes)))

    result = run("orphans", "list")

    assert waits in result.stdout
    assert f"1 orphan at the last comparison; {1 if waits else 0} wait" in result.stderr


def test_what_a_job_that_gets_its_row_back_owns_waits_for_nobody(run, service):
    volume = orphan(id="orp_volume", kind="volume", reference="vol-1")
    service.answers("GET /v1/orphans", items(ORPHAN, volume))

    assert "2 orphans at the last comparison; 0 wait" in run("orphans", "list").stderr


def test_what_a_job_owns_that_may_be_anybodys_waits_for_a_person(run, service):
    volume = orphan(id="orp_volume", kind="volume", reference="vol-1")
    service.answers("GET /v1/orphans", items(orphan(proven=False), volume))

    assert "2 wait for a person" in run("orphans", "list").stderr


def test_no_orphans_are_told_as_such(run, service):
    service.answers("GET /v1/orphans", items())

    result = run("orphans", "list")

    assert (result.stdout, result.stderr) == ("", "No orphans: whatever bears our names has its stack.\n")


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (("orphans", "adopt", "x"), "POST /v1/orphans/x/adopt"),
        (("orphans", "delete", "x", "--yes"), "POST /v1/orphans/x/delete"),
        (("conditions", "confirm", "x"), "POST /v1/conditions/x/confirm"),
    ],
)
def test_what_is_no_id_is_refused_in_the_services_own_words(run, service, arguments, call):
    service.refuses(call, 400, "invalid-request", "An id here is orp_ and 24 hexadecimal digits.")

    result = run(*arguments)

    assert result.exit_code == ExitCode.USAGE
    assert "An id here is orp_ and 24 hexadecimal digits. (invalid-request)" in result.stderr


def test_conditions_show_what_they_hold_back_and_how_to_confirm_them(run, service):
    service.answers("GET /v1/conditions", items(CONDITION))

    result = run("conditions", "list")

    assert "mass_disappearance  standing, holds work back" in result.stdout
    assert "compare with `nomad job status`" in result.stderr
    assert f"`opencode-lifecycle conditions confirm {CONDITION['id']}`" in result.stderr
    assert service.asked[0].query["standing"] == "true"


@pytest.mark.parametrize(
    ("status", "told"),
    [("confirmed", "confirmed by root"), ("cleared", "cleared, confirmed by root")],
)
def test_conditions_say_who_confirmed_them(run, service, status, told):
    service.answers("GET /v1/conditions", items(condition(status=status, freezes=False, confirmed_by="root")))

    result = run("conditions", "list", "--all")

    assert f"  {told}  " in result.stdout
    assert result.stderr == ""


def test_cleared_conditions_are_listed_when_asked_for(run, service):
    service.answers("GET /v1/conditions", items())

    result = run("conditions", "list", "--all")

    assert service.asked[0].query["standing"] == "false"
    assert "Nothing stands in the way." in result.stderr


def test_a_condition_is_confirmed_by_its_id(run, service):
    service.answers(
        "POST /v1/conditions/cond_01JABCDEFGHJKMNPQRSTVWXYZ0/confirm", {**CONDITION, "status": "confirmed"}
    )

    assert (
        run("conditions", "confirm", "cond_01JABCDEFGHJKMNPQRSTVWXYZ0").stdout
        == "mass_disappearance is confirmed.\n"
    )


def test_with_json_each_is_the_services_answer(run, service):
    service.answers("POST /v1/reconcile", report(stacks=[PLAN]))

    assert json.loads(run("reconcile", "--dry-run", "--json").stdout) == report(stacks=[PLAN])


def test_a_dry_run_that_only_reports_orphans_ends_well(run, service):
    plan = {"orphan": ORPHAN, "action": "report", "message": "it is not proven to be ours"}
    service.answers("POST /v1/reconcile", report(orphans=[plan]))

    assert run("reconcile", "--dry-run").exit_code == ExitCode.OK
