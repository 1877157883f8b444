"""What `explain` says of a stack in each situation: what it should be, what it is, what comes next, what that waits for."""

import json
from datetime import UTC, datetime

import pytest

from fakes.rollout_answers import member, rollout
from fakes.service_answers import (
    SINCE,
    condition,
    event,
    items,
    migration,
    operation,
    order,
    readiness,
    stack,
    staleness,
    waiting_stack,
)
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.explanation import Known, explain
from opencode_lifecycle.model.states import Desired, MigrationState, Phase

NOW = datetime(2026, 1, 2, 3, 5, 0, tzinfo=UTC)
ADA = "GET /v1/stacks/ada"
IN_FIVE_MINUTES = "2026-01-02T03:10:00Z"
PROMPT = staleness(facet="prompt", have="aa", want="bb", severity="info", restart=False)


def said(about: str, seen=None, /, **known) -> list[str]:
    rows = explain(Known(stack=seen if seen is not None else stack(), **known), now=NOW)
    return [says for what, says in rows if what == about]


def moving(state: str, *reasons, **changes):
    return stack(
        migration_state=state,
        staleness=list(reasons or [staleness()]),
        migration=migration(state, **changes),
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "running on rel_2; resources small, group default"),
        ({"pinned": True}, "running on rel_2, to which it is pinned; resources small, group default"),
        ({"desired": "stopped"}, "stopped"),
        ({"desired": "deleted"}, "gone"),
    ],
)
def test_it_says_what_the_stack_should_be(changes, expected):
    assert said("should be", stack(**changes)) == [expected]


def test_it_says_what_the_stack_is():
    assert said("is") == [
        "running, healthy, on rel_1: OpenCode 1.18.34 on node-a",
        "It runs.",
        "Its address is proven, and it answers.",
    ]


def test_each_reason_of_staleness_comes_with_what_it_has_and_should_have():
    assert said("stale", moving("stale", staleness(), PROMPT)) == [
        "image: v1 → v2 (warning, restarts it)",
        "prompt: aa → bb (info, needs no restart)",
    ]


def test_a_current_stack_has_nothing_next_and_waits_for_nothing():
    assert said("next") == ["Nothing: it is as it should be."]
    assert said("waits for") == []
    assert said("migration") == ["current"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("live", "its instructions are written; they count from the next turn of its agent on"),
        ("reload", "its process reads configuration and prompts anew while its agent is idle, and runs on"),
        ("restart", "its runtime is stopped while its agent is idle, and started on rel_2"),
        (None, "it is put right in place, and nothing is interrupted"),
    ],
)
def test_what_comes_next_follows_from_the_class(kind, expected):
    (sentence,) = said("next", moving("stale", **{"class": kind}))

    assert sentence.startswith(f"Unless `when_stale` is `report`, {expected}")


def test_a_queued_stack_waits_for_proof_that_its_agent_is_idle():
    queued = moving("queued", order=order(deadline=IN_FIVE_MINUTES))

    proof, deadline = said("waits for", queued)

    assert said("migration", queued) == ["queued, class restart, by order of rollout ro_1"]
    assert said("next", queued)[0].startswith("Its runtime is stopped while its agent is idle")
    assert proof == "proof that its agent is idle: what cannot be seen counts as work."
    assert deadline.startswith(f"For that it is waited until {IN_FIVE_MINUTES}")


def test_a_paused_rollout_is_named_with_its_reason_and_how_to_let_it_go_on():
    rollout = {"id": "ro_1", "state": "paused", "message": "2 of 10 failed"}

    advice = said("to do", moving("draining", order=order()), rollout=rollout)[-1]

    assert advice == (
        "its rollout is paused (2 of 10 failed), which moves nobody else: `opencode-lifecycle rollout resume ro_1`"
    )


@pytest.mark.parametrize(
    ("at_deadline", "then"),
    [
        ("skip", "then it is left as it is, and the rollout goes on without it."),
        ("hold", "then it is left as it is until an operator says otherwise."),
        ("force", "then its running turns are aborted, and it is moved."),
    ],
)
def test_a_draining_stack_waits_for_its_agent_until_the_deadline_and_it_says_what_then(at_deadline, then):
    draining = moving("draining", order=order(deadline=IN_FIVE_MINUTES, at_deadline=at_deadline))

    agent, deadline = said("waits for", draining)

    assert agent.startswith("its agent, which works, waits for a permission or holds a terminal")
    assert "`idle_after`" in agent
    assert deadline == f"For that it is waited until {IN_FIVE_MINUTES} (in 5 m 0 s); {then}"


def test_what_an_order_moves_is_not_said_to_be_put_right_by_itself():
    assert said("to do", moving("draining", order=order())) == [
        "see the rollout: `opencode-lifecycle rollout show ro_1`"
    ]


def test_a_deadline_that_has_passed_is_told_as_such():
    draining = moving("draining", order=order(deadline="2026-01-02T03:04:50Z"))

    assert "(10 s ago)" in said("waits for", draining)[1]


def test_an_order_back_is_told_as_such_and_names_its_rollout():
    back = moving("draining", order=order(id="ro_1.back.2"))

    assert said("migration", back) == [
        "draining, class restart, by order of rollout ro_1, which takes it back"
    ]
    assert said("to do", back) == ["see the rollout: `opencode-lifecycle rollout show ro_1`"]


def test_an_order_that_takes_a_stack_back_is_told_with_who_asked_for_that():
    back = moving("draining", order=order(id="ro_1.back.2"))
    rollout = in_rollout("ordered") | ROLLED_BACK_BY_OLGA | {"state": "rolling_back"}

    assert said("migration", back, rollout=rollout) == [
        "draining, class restart, by order of rollout ro_1, which takes it back, as olga asked"
    ]


def test_an_order_without_a_deadline_waits_as_long_as_it_takes():
    draining = moving("draining", order=order(id="op_7"))

    assert said("migration", draining) == ["draining, class restart, by order of operation op_7"]
    assert said("waits for", draining)[1] == "For that it is waited as long as it takes."


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (
            {"due_at": "2026-01-02T03:05:42Z", "steps": ["call it pending", "register the job"]},
            "It is looked at again at 2026-01-02T03:05:42Z (in 42 s); if all is as now, then: call it pending, register the job.",
        ),
        (
            {"due_at": "2026-01-02T03:05:42Z"},
            "It is looked at again at 2026-01-02T03:05:42Z (in 42 s); if all is as now, then: nothing.",
        ),
        (
            {"due_at": "2026-01-02T03:04:59Z", "steps": ["stop the job"]},
            "It is due, and taken up as soon as a worker is free: stop the job.",
        ),
        ({"due_at": None}, "It is looked at again when something of it is seen to change, or somebody asks."),
        ({"due_at": "2026-01-02T03:05:42Z", "at_work": True}, "It is just being seen to."),
    ],
    ids=["later", "nothing to do", "due", "never by itself", "at work"],
)
def test_it_says_when_the_next_try_is_and_what_is_tried(look, expected):
    assert said("next", next_look=look)[-1] == expected


def test_a_work_lease_is_waited_for_while_it_holds():
    leased = moving("draining", busy_until="2026-01-02T03:05:40Z")

    assert said("waits for", leased)[-1] == (
        "its backend, which said that it works until 2026-01-02T03:05:40Z (in 40 s) and may say so again."
    )


def test_a_work_lease_that_has_lapsed_is_not_waited_for():
    lapsed = moving("stale", busy_until="2026-01-02T03:04:40Z")

    assert said("waits for", lapsed) == []


def test_a_stack_that_is_being_verified_says_what_it_goes_back_to():
    verifying = moving("verifying", since="2026-01-02T03:04:48Z", footing_release="rel_1")

    assert said("migration", verifying) == ["verifying, class restart, for 12 s"]
    assert said("next", verifying) == [
        "If what is new is delivered and healthy, it is current; else it goes back to rel_1."
    ]


def test_a_refused_change_says_what_it_stays_on_and_how_to_have_it_tried_again():
    refused = moving("failed", refused="0123456789abcdef", footing_release="rel_1")

    assert said("next", refused) == [
        "Nothing by itself: what was tried is not tried again before somebody asks."
    ]
    assert said("refused", refused) == [
        "What was tried last was taken back; it stays on rel_1 while the same is asked for."
    ]
    assert said("to do", refused) == ["correct what was refused, then `opencode-lifecycle recover ada`"]


def test_a_held_migration_says_how_to_release_it():
    held = moving("held", order=order())

    assert said("next", held) == ["Nothing, until an operator says otherwise."]
    assert any("`opencode-lifecycle recover ada`" in each for each in said("to do", held))
    assert "see the rollout: `opencode-lifecycle rollout show ro_1`" in said("to do", held)


def test_what_the_brake_holds_back_waits_for_a_person_to_judge_the_condition():
    braked = stack(reason="brake", phase="pending", runtime=None)

    (waits,) = said("waits for", braked, conditions=[condition()])

    assert waits.startswith("a person to judge cond_01JABCDEFGHJKMNPQRSTVWXYZ0: 7 of 9 stacks")
    assert any(
        "conditions confirm cond_01JABCDEFGHJKMNPQRSTVWXYZ0" in each
        for each in said("to do", braked, conditions=[condition()])
    )


def test_a_condition_that_holds_nothing_of_this_stack_is_left_out():
    assert said("waits for", stack(), conditions=[condition()]) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"phase": "pending"}, "Its job is registered with Nomad, on rel_2."),
        ({"phase": "starting"}, "Its address is handed out as soon as it is proven."),
        ({"phase": "stopping"}, "When Nomad says that its allocation has ended, it is started on rel_2."),
        ({"phase": "stopped"}, "It is started on rel_2."),
        ({"phase": "deleting"}, "When its deletion has ended, it is made anew."),
        (
            {"phase": "failed", "reason": "no_capacity"},
            "It is tried again by itself, after pauses that grow to 5 min.",
        ),
        (
            {"phase": "failed", "reason": "job_rejected"},
            "Nothing by itself: trying again cannot help until the cause is seen to and somebody asks.",
        ),
        (
            {"phase": "stopped", "desired": "stopped"},
            "Nothing: it stays stopped until somebody asks for it.",
        ),
        ({"phase": "stopping", "desired": "stopped"}, "It is stopped; its workspace stays."),
        (
            {"phase": "deleting", "desired": "deleted"},
            "What it owns is taken away step by step; it ends when all of it is proven gone.",
        ),
    ],
)
def test_a_stack_that_does_not_run_says_what_comes_next(changes, expected):
    assert said("next", waiting_stack(observed_generation=3, **changes)) == [expected]


def test_a_change_that_no_worker_took_up_yet_is_waited_for():
    assert said("waits for", stack(generation=4)) == [
        "a worker to take up the latest change that was accepted."
    ]


def test_a_neighbour_that_is_away_is_waited_for():
    (waits,) = said("waits for", stack(reason="vault_unavailable"))

    assert "Vault cannot be reached" in waits


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("desired", Desired)
def test_whatever_the_phase_it_says_what_comes_next(phase, desired):
    assert said("next", stack(phase=phase, desired=desired))


@pytest.mark.parametrize("state", MigrationState)
def test_whatever_the_state_of_a_migration_it_says_what_comes_next(state):
    (sentence,) = said("next", moving(state))

    assert sentence
    assert "{" not in sentence


def test_what_a_newer_service_says_is_not_guessed_at():
    newer = stack(
        phase="floating", migration_state="hovering", reason="gremlins", migration={"class": "warp"}
    )

    assert said("next", newer) == []
    assert said("migration", newer) == ["hovering, class warp"]


ROLLED_BACK_BY_OLGA = {
    "state": "rolled_back",
    "reason": "operator",
    "message": "by olga; 1 stack kept the newer version with what was written since: bob",
}


def in_rollout(state, *, over=False, **changes):
    return {
        "id": "ro_1",
        "state": "running",
        "release": "rel_3",
        "wave": 1,
        "waves": 3,
        "finished_at": SINCE if over else None,
        "members": items(member(state=state, **changes)),
    }


def test_a_stack_whose_turn_in_a_rollout_has_not_come_says_when_it_does():
    rollout = in_rollout("waiting", wave=2)

    assert said("rollout", rollout=rollout) == [
        "its turn comes in wave 2 of ro_1, which is running, wave 1 of 3"
    ]
    assert said("next", rollout=rollout) == ["When its turn comes, it is moved to rel_3."]
    assert said("to do", rollout=rollout) == ["see the rollout: `opencode-lifecycle rollout show ro_1`"]


def test_a_stack_that_gave_its_place_to_another_says_why():
    rollout = in_rollout("waiting", wave=4, reason="at_work")

    assert said("rollout", rollout=rollout) == [
        "its turn comes after all waves of ro_1, which is running, wave 1 of 3; its agent is at work"
    ]


@pytest.mark.parametrize(
    ("state", "changes", "expected"),
    [
        ("skipped", {"reason": "at_work"}, "skipped in ro_1: its agent is at work"),
        ("left_out", {"reason": "pinned"}, "left out in ro_1: it is pinned to another release"),
        ("failed", {"message": "exit code 1"}, "failed in ro_1: exit code 1"),
        ("taken_back", {}, "taken back in ro_1, which olga rolled back"),
    ],
)
def test_what_became_of_a_stack_in_the_last_rollout_is_told_when_it_was_not_moved(state, changes, expected):
    rollout = in_rollout(state, over=True, **changes) | ROLLED_BACK_BY_OLGA

    assert said("rollout", rollout=rollout) == [expected]


def test_what_a_rollout_has_taken_back_by_itself_is_told_with_the_cause():
    failed = {"state": "failed", "reason": "canary_failed", "message": "1 stack failed: bob (exit code 1)"}

    assert said("rollout", rollout=in_rollout("taken_back", over=True) | failed) == [
        "taken back in ro_1: a canary did not pass: 1 stack failed: bob (exit code 1)"
    ]


def test_that_a_stack_was_moved_is_told_until_its_rollout_is_over():
    assert said("rollout", rollout=in_rollout("migrated")) == [
        "it was moved by ro_1, which is running, wave 1 of 3"
    ]
    assert said("rollout", rollout=in_rollout("migrated", over=True)) == []


def test_a_stack_that_is_being_moved_speaks_for_itself():
    assert said("rollout", moving("draining", order=order()), rollout=in_rollout("ordered")) == []


def test_who_waits_is_told_of_a_neighbour_that_is_away_and_who_does_not_is_not():
    away = ["Vault, which the service cannot reach: sealed"]

    assert said("waits for", moving("queued", order=order()), away=away)[-1] == away[0]
    assert said("waits for", stack(phase="starting"), away=away) == away
    assert said("waits for", away=away) == []


def test_the_neighbours_are_looked_at(run, service):
    ask(service, moving("queued", order=order()))
    service.answers("GET /v1/rollouts/ro_1", in_rollout("ordered"))
    service.answers("GET /readyz", readiness("nomad"), status=503)

    assert "Nomad, which the service cannot reach: sealed" in run("explain", "ada").stdout


def test_no_agent_is_said_to_work_that_cannot_be_seen():
    unseen = moving("draining", order=order()) | {"reason": "unknown"}

    assert said("waits for", unseen)[0] == "proof that its agent is idle: what cannot be seen counts as work."


def ask(service, seen):
    service.answers(ADA, seen)
    service.answers("GET /v1/operations/op_1", operation())
    service.answers("GET /v1/stacks/ada/events", items(*(event(id=f"evt_{each}") for each in range(12))))
    service.answers("GET /v1/conditions", items())
    service.answers("GET /v1/rollouts", items())


def test_one_screen_has_the_sentences_the_operation_the_events_and_nomads_commands(run, service):
    ask(service, moving("draining", order=order()))
    service.answers("GET /v1/rollouts/ro_1", {"id": "ro_1", "state": "running", "message": ""})
    told = {"rollout": "ro_1", "order": "ro_1.back.7", "wanted_release": "rel_2"}
    service.now_answers("GET /v1/stacks/ada/events", items(event(kind="stack.ordered", data=told)))

    result = run("explain", "ada")

    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert result.exit_code == ExitCode.OK
    assert "stale image: v1 → v2 (warning, restarts it)" in lines
    assert any(line.startswith("ensure op_1 succeeded, ") for line in lines)
    assert any(line.endswith(" stack.ordered backend-1 rollout=ro_1, wanted_release=rel_2") for line in lines)
    assert "nomad job status -namespace=opencode oc-ada-abcdefghijklmnopqrst" in lines
    assert any(line.startswith("nomad alloc logs -namespace=opencode 11111111-") for line in lines)


def test_what_the_token_may_not_see_is_left_out(run, service):
    service.refuses("GET /v1/conditions", 403, "forbidden")
    service.refuses("GET /v1/rollouts/ro_1", 403, "forbidden")
    ask(service, moving("draining", order=order()))

    assert run("explain", "ada").exit_code == ExitCode.OK


def test_a_token_that_may_see_no_rollouts_has_the_rest_explained(run, service):
    service.refuses("GET /v1/rollouts", 403, "forbidden")
    ask(service, stack())

    assert run("explain", "ada").exit_code == ExitCode.OK


def test_the_latest_rollout_is_asked_about_the_user_alone(run, service):
    ask(service, stack())
    service.now_answers("GET /v1/rollouts", items(rollout("running", id="ro_1")))
    service.answers("GET /v1/rollouts/ro_1", in_rollout("waiting", wave=2))

    result = run("explain", "ada")

    assert "its turn comes in wave 2 of ro_1" in result.stdout
    [asked] = [each for each in service.asked if each.path == "/v1/rollouts/ro_1"]
    assert asked.query == {"user": "ada"}


def test_json_has_everything_that_was_asked_for_and_the_sentences(run, service):
    seen = moving("stale")
    ask(service, seen)

    document = json.loads(run("explain", "ada", "--json").stdout)

    assert document["stack"] == seen
    assert document["operation"]["id"] == "op_1"
    assert len(document["events"]) == 10
    assert document["rollout"] is None
    assert {"about": "stale", "says": "image: v1 → v2 (warning, restarts it)"} in document["explanation"]


def test_a_stack_that_is_not_there_is_exit_code_5(run, service):
    service.refuses(ADA, 404, "stack-not-found")

    assert run("explain", "ada").exit_code == ExitCode.NOT_FOUND
