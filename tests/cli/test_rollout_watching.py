"""rollout watch: what it prints until the end, what it says that is waited for, and how it ends."""

import json

import pytest

from cli.rollout_calls import ENDED, GET, NOW, draining, lines_of
from fakes.rollout_answers import ROLLOUT, member, rollout_detail
from fakes.service_answers import SINCE, items, readiness, stack
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.rollout_words import OF_MEMBERS, OF_ROLLOUTS, waits_of
from opencode_lifecycle.model.rollout import MemberReason, MemberState, RolloutReason, RolloutState

pytestmark = pytest.mark.usefixtures("nobody_drains")


def test_a_rollout_is_watched_to_its_end_with_a_line_for_each_change(run, service):
    for _ in range(3):
        service.answers(GET, rollout_detail())
    service.answers(GET, rollout_detail(wave=2, counts={"migrated": 5, "failed": 1, "ordered": 4}))
    service.answers(GET, rollout_detail("succeeded", **ENDED))

    result = run("rollout", "watch", ROLLOUT)

    assert result.exit_code == ExitCode.OK
    assert result.stderr.splitlines() == [
        f"{ROLLOUT}: running, wave 1 of 2: 2 in flight, 3 migrated, 5 waiting",
        f"{ROLLOUT}: running, wave 2 of 2: 4 in flight, 5 migrated, 1 failed",
        f"{ROLLOUT}: succeeded: 10 migrated",
    ]
    assert "done 10 of 10" in lines_of(result)


@pytest.mark.parametrize("state", ["failed", "aborted", "rolled_back"])
def test_a_rollout_that_does_not_succeed_is_exit_code_1_and_says_why(run, service, state):
    service.answers(GET, rollout_detail(state, reason="failures", message="3 of 10", **ENDED))

    result = run("rollout", "watch", ROLLOUT)

    assert result.exit_code == ExitCode.FAILED
    assert "more stacks failed than the failure budget allows: 3 of 10" in result.stderr


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("failed", "has failed: olga asked for it"),
        ("aborted", "was aborted: olga asked for it"),
        ("rolled_back", "was rolled back: olga asked for it"),
    ],
)
def test_how_it_ended_and_who_asked_for_that_is_a_sentence(run, service, state, said):
    service.answers(GET, rollout_detail(state, reason="operator", message="by olga", **ENDED))

    assert f"Error: {ROLLOUT} {said}\n" in run("rollout", "watch", ROLLOUT).stderr


def test_a_rollout_that_is_not_over_in_time_is_exit_code_6(run, service):
    service.answers(GET, rollout_detail())

    assert run("rollout", "watch", ROLLOUT, "--wait", "0s").exit_code == ExitCode.NOT_IN_TIME


def test_a_service_that_is_away_for_a_moment_does_not_end_the_watching(run, service):
    service.answers(GET, rollout_detail())
    service.refuses(GET, 503, "unavailable", "It is shutting down.")
    service.answers(GET, rollout_detail("succeeded", **ENDED))

    assert run("rollout", "watch", ROLLOUT).exit_code == ExitCode.OK


def test_watching_as_json_prints_how_it_ended_and_nothing_else(run, service):
    service.answers(GET, rollout_detail())
    service.answers(GET, rollout_detail("succeeded", **ENDED))

    result = run("rollout", "watch", ROLLOUT, "--json")

    assert json.loads(result.stdout) == rollout_detail("succeeded", **ENDED)
    assert result.stderr == ""


def waits(*draining, state="running", **changes):
    return list(waits_of({**rollout_detail(state, **changes), "draining": list(draining)}, now=NOW))


def test_a_rollout_waits_for_those_in_flight_and_for_agents_at_work_by_name():
    assert waits(draining(), draining("bob", f"{ROLLOUT}.back.2", "2026-01-02T03:04:05Z")) == [
        "2 stacks in flight",
        "the agent of ada, until 2026-01-02T04:04:05Z (in 59 m 5 s)",
        "the agent of bob, until 2026-01-02T03:04:05Z",
    ]


def test_agents_that_somebody_else_waits_for_are_not_named():
    assert waits(draining(order_id="op_1"), stack()) == ["2 stacks in flight"]


def test_whoever_was_at_work_at_his_turn_comes_last_and_is_called_so(run, service):
    late = [{"wave": 3, "counts": {"ordered": 1}}]
    service.answers(GET, rollout_detail(wave=3, waves=2, wave_counts=late))

    lines = lines_of(run("rollout", "show", ROLLOUT))

    assert "state running, those that were at work" in lines
    assert "at work 1 1" in lines


def test_after_the_last_wave_nobody_is_said_to_have_been_at_work_who_was_not(run, service):
    service.answers(GET, rollout_detail(wave=3, waves=2, counts={"migrated": 10}))

    assert "state running, all waves done" in lines_of(run("rollout", "show", ROLLOUT))


def test_a_rollout_on_its_way_back_is_at_no_wave(run, service):
    service.answers(GET, rollout_detail("rolling_back", goes_back=True))

    assert "state rolling back" in lines_of(run("rollout", "show", ROLLOUT))


@pytest.mark.parametrize("reason", ["no_canary", "inconclusive", "unavailable"])
def test_what_a_message_says_is_not_said_twice(reason):
    (person,) = waits(state="paused", reason=reason, message="as it is", counts={"waiting": 7})

    assert "it is paused (as it is); then" in person


def test_a_rollout_that_soaks_says_until_when():
    assert waits(counts={"migrated": 5}, soaks_until="2026-01-02T03:05:20Z") == [
        "its wave to show itself sound, until 2026-01-02T03:05:20Z (in 20 s)"
    ]


def test_a_rollout_that_has_soaked_waits_for_its_gate():
    assert waits(counts={"migrated": 5}, soaks_until="2026-01-02T03:04:20Z") == [
        "the gate: what was moved must be healthy as it should be"
    ]


def test_a_gate_that_puts_a_prompt_waits_for_the_answer():
    asking = {"strategy": {"gate": {"prompt": "Say hello."}}}

    assert waits(counts={"migrated": 5}, soaks_until="2026-01-02T03:04:20Z", specification=asking) == [
        "the gate: what was moved must be healthy and answer the prompt"
    ]


def test_a_few_that_are_in_flight_are_named():
    members = items(*(member(user) for user in ("ada", "bob")))

    assert waits(counts={"ordered": 7}, members=members) == ["7 stacks in flight: ada, bob and 5 more"]
    assert waits(counts={"ordered": 2}, members=members) == ["2 stacks in flight: ada, bob"]


def test_a_neighbour_that_is_away_is_what_is_waited_for(run, service):
    service.answers(GET, rollout_detail("running", member()))
    service.answers("GET /readyz", readiness("vault"), status=503)

    lines = lines_of(run("rollout", "show", ROLLOUT))

    assert "waits for Vault, which the service cannot reach: sealed" in lines


def test_the_neighbours_are_not_asked_at_each_look(run, service):
    for _ in range(5):
        service.answers(GET, rollout_detail("running", member()))
    service.answers("GET /readyz", readiness())
    service.answers(GET, rollout_detail("succeeded", **ENDED))

    run("rollout", "watch", ROLLOUT)

    assert len([each for each in service.asked if each.path == "/readyz"]) == 1


def test_no_agent_is_said_to_be_at_work_that_cannot_be_seen():
    unseen = draining() | {"reason": "unknown"}

    assert waits(unseen)[-1].startswith("a look at ada, until ")


def test_whoever_asked_for_a_pause_is_named():
    (person,) = waits(state="paused", reason="operator", message="by olga", counts={"waiting": 7})

    assert "it is paused (olga asked for it); then" in person


def test_a_paused_rollout_waits_for_a_person_and_says_why_and_what_can_be_done():
    (person,) = waits(state="paused", reason="failures", message="3 of 10", counts={"waiting": 7})

    assert "more stacks failed than the failure budget allows: 3 of 10" in person
    assert person.endswith(f"opencode-lifecycle rollout resume, abort or rollback {ROLLOUT}")


@pytest.mark.parametrize("state", RolloutState)
def test_a_rollout_that_is_over_waits_for_nothing(state):
    assert waits(state=state, finished_at=SINCE) == []


def test_every_reason_of_a_rollout_and_of_a_member_has_a_meaning():
    assert set(OF_ROLLOUTS) == set(RolloutReason)
    assert set(OF_MEMBERS) == set(MemberReason)


@pytest.mark.parametrize("state", MemberState)
def test_every_state_of_a_member_is_counted(run, service, state):
    service.answers(GET, rollout_detail(counts={state: 7}, wave_counts=[{"wave": 0, "counts": {state: 7}}]))

    lines = lines_of(run("rollout", "show", ROLLOUT))

    assert "canary 7 7" in lines


def test_what_a_newer_service_says_is_shown_as_it_came(run, service):
    service.answers(
        GET, rollout_detail("hovering", member(state="warped", reason="gremlins"), reason="gremlins")
    )

    lines = lines_of(run("rollout", "show", ROLLOUT, "--members"))

    assert "state hovering, wave 1 of 2" in lines
    assert "why gremlins" in lines
