"""rollout plan: what it shows, and how it ends."""

import json

import pytest

from cli.rollout_calls import PLAN_CALL, lines_of
from fakes.rollout_answers import NEXT_RELEASE, PLAN, RELEASE, plan, planned_stack, specification
from fakes.service_answers import staleness
from opencode_lifecycle.cli.exit_codes import ExitCode

pytestmark = pytest.mark.usefixtures("nobody_drains")


def test_a_plan_shows_why_class_busy_and_placement_of_each_stack(run, service):
    service.answers(
        PLAN_CALL,
        plan(
            planned_stack("bob", wave=1, busy="busy"),
            planned_stack(
                "ada", wave=0, why=[staleness(), staleness(facet="prompt", have="aa11", want="bb22")]
            ),
            planned_stack("eve", **{"class": None}, why=[], placement="refused", message="1 node exhausted"),
        ),
    )

    lines = lines_of(run("rollout", "plan"))

    assert lines[0] == "USER WHY CLASS WAVE BUSY PLACEMENT NOTE"
    assert lines[1] == "ada image v1 → v2, prompt restart canary idle possible -"
    assert lines[2] == "bob image v1 → v2 restart 1 busy possible -"
    assert lines[3] == "eve - start 1 - refused 1 node exhausted"


def test_a_plan_says_of_a_stack_that_is_current_what_is_done_with_it_all_the_same(run, service):
    asked = {**specification(), "rotate_passwords": True, "recreate": True}
    service.answers(PLAN_CALL, plan(planned_stack(why=[]), specification=asked))

    assert "ada   a new password, a fresh allocation" in run("rollout", "plan").stdout


def test_a_plan_says_who_is_left_out_and_why(run, service):
    service.answers(
        PLAN_CALL,
        plan(planned_stack(), planned_stack("joe", left_out="pinned", wave=None, **{"class": None})),
    )

    lines = lines_of(run("rollout", "plan"))

    assert lines[lines.index("Left out") + 1 :][:2] == [
        "USER LEFT OUT WHY",
        "joe pinned it is pinned to another release",
    ]
    assert "2 stacks selected: 1 to move (1 restart), 1 left out (1 pinned)." in lines


def test_a_plan_counts_who_is_waited_for_and_whom_nomad_cannot_place(run, service):
    service.answers(
        PLAN_CALL, plan(planned_stack("ada", busy="unknown"), planned_stack("bob", placement="refused"))
    )

    (totals,) = [line for line in lines_of(run("rollout", "plan")) if "selected" in line]

    assert totals.endswith(
        "; 1 busy or not seen to be idle, which are waited for; 1 that Nomad cannot place now."
    )


def test_a_plan_is_silent_about_what_does_not_matter_to_a_class(run, service):
    unseen = {"busy": "unknown", "placement": "unknown"}
    service.answers(
        PLAN_CALL,
        plan(
            planned_stack("ada", **{"class": "live"}, **unseen),
            planned_stack("bob", **{"class": "reload"}, **unseen),
        ),
    )

    lines = lines_of(run("rollout", "plan"))

    assert lines[1].endswith(" live 1 - - -")
    assert lines[2].endswith(" reload 1 unknown - -")


def test_a_plan_counts_of_whom_nomad_was_not_asked(run, service):
    unknown = planned_stack("ada", placement="unknown")
    live = planned_stack("bob", placement="unknown", **{"class": "live"})
    service.answers(PLAN_CALL, plan(unknown, live))

    (totals,) = [line for line in lines_of(run("rollout", "plan")) if "selected" in line]

    assert totals.endswith("; 1 of which Nomad was not asked, or could not say, whether it can place them.")


def test_a_plan_ends_with_its_id_and_the_exact_command_that_applies_it(run, service):
    service.answers(
        PLAN_CALL, plan(planned_stack(wave=0), planned_stack("bob"), planned_stack("eve", wave=2))
    )

    lines = lines_of(run("rollout", "plan"))

    assert f"plan {PLAN}" in lines
    assert f"target {RELEASE} → {NEXT_RELEASE}" in lines
    assert "waves canary 1, then 1 and 1" in lines
    assert lines[-2:] == ["Apply it with", f"opencode-lifecycle rollout start --plan {PLAN}"]


@pytest.mark.parametrize(
    ("answer", "code"), [(plan(), ExitCode.OK), (plan(planned_stack()), 1), (plan(has_changes=True), 1)]
)
def test_the_exit_code_of_a_plan_says_whether_there_is_anything_to_do(run, service, answer, code):
    service.answers(PLAN_CALL, answer)

    assert run("rollout", "plan").exit_code == code
    assert run("rollout", "plan", "--json").exit_code == code


def test_a_plan_with_nothing_to_do_says_so_and_offers_nothing_to_apply(run, service):
    service.answers(PLAN_CALL, plan(planned_stack(left_out="moved")))

    result = run("rollout", "plan")

    assert lines_of(result)[-1] == "Nothing to do."
    assert "rollout start" not in result.stdout


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "unauthenticated"), (403, "forbidden"), (422, "invalid-body"), (503, "unavailable")],
)
def test_whatever_goes_wrong_with_a_plan_is_exit_code_2(run, service, status, code):
    service.refuses(PLAN_CALL, status, code)

    assert run("rollout", "plan").exit_code == 2


def test_a_service_that_is_not_there_is_exit_code_2_of_a_plan(cli, token_file):
    assert cli("rollout", "plan", "--url", "http://127.0.0.1:1").exit_code == 2


def test_the_json_of_a_plan_is_the_services(run, service):
    service.answers(PLAN_CALL, plan(planned_stack()))

    assert json.loads(run("rollout", "plan", "--json").stdout) == plan(planned_stack())
