"""What `show` tells of a stack in plain sentences, and of its staleness as tables."""

import pytest

from fakes.service_answers import runtime, stack, staleness
from opencode_lifecycle.cli import advice
from opencode_lifecycle.cli.situation import situation_of, what_to_do
from opencode_lifecycle.model.states import Reason

EDIT = staleness(
    facet="edited_outside",
    have="Priority = 70; TaskGroup[opencode].Task[server].Env[FOO] = (not shown), and 3 more",
    want="Priority = 50; TaskGroup[opencode].Task[server].Env[FOO] = absent, and 3 more",
    severity="warning",
)


@pytest.fixture
def shown(run, service):
    """Show a stack and return what is printed, line by line with single spaces."""

    def show(**changes):
        service.answers("GET /v1/stacks/ada", stack(**changes))
        return [" ".join(line.split()) for line in run("show", "ada").stdout.splitlines()]

    return show


def test_a_stack_that_is_as_it_should_be_is_told_as_such_and_there_is_nothing_to_do(shown):
    lines = shown()

    assert lines[:3] == ["It runs.", "Its address is proven, and it answers.", ""]
    assert not any(line.startswith("what to do") for line in lines)


@pytest.mark.parametrize(
    ("changes", "said", "to_do"),
    [
        (
            {"reason": "crash_loop", "message": "exit code 137", "phase": "starting", "runtime": None},
            [
                "It was proven and has exited since; Nomad starts it again.",
                "Exit code 137.",
            ],
            "`opencode-lifecycle logs ada --type stderr`",
        ),
        (
            {"reason": "out_of_memory", "phase": "starting", "runtime": None},
            ["It was killed because it used more memory than it may."],
            "`opencode-lifecycle ensure ada --resources NAME`",
        ),
        (
            {"reason": "unresponsive", "phase": "stopping"},
            ["It took connections and answered none, so it is being replaced."],
            "nothing: it answered nothing for long",
        ),
        (
            {"reason": "contested", "phase": "starting"},
            ["Consul lists its address for another runtime as well, so it was withdrawn until one is left."],
            "`consul catalog nodes -service=NAME`",
        ),
        (
            {"reason": "brake"},
            ["It ran when it was last seen.", "a standing condition holds back what would be done."],
            "`opencode-lifecycle conditions list`",
        ),
        (
            {"reason": "secret_missing", "phase": "failed"},
            ["Its password, or the version of it that the job names, is not in Vault."],
            "`opencode-lifecycle rotate-password ada`",
        ),
        (
            {"reason": "no_capacity", "phase": "starting", "message": "2 nodes exhausted"},
            ["Nomad can place its job on no node.", "2 nodes exhausted."],
            "`nomad node status`",
        ),
        (
            {"health": "unresponsive"},
            ["It runs.", "It takes connections and answers none; it is replaced if that lasts."],
            "",
        ),
        ({"desired": "deleted", "phase": "stopping"}, ["It is being deleted"], ""),
        ({"generation": 9}, ["A change was accepted that is not carried out yet."], ""),
    ],
)
def test_what_is_the_matter_is_said_in_sentences_with_what_to_do(shown, changes, said, to_do):
    text = "\n".join(shown(**changes)).partition("\nStack\n")[0]

    for sentence in said:
        assert sentence in text
    assert to_do in text
    assert ("what to do" in text) is bool(to_do)


def test_a_held_stack_is_told_as_such(shown):
    held = "an operator holds it: no ensure starts it, until a start or a recover does"
    lines = shown(phase="stopped", desired="stopped", health="unknown", runtime=None, message=held)

    assert lines[:3] == [
        "It is stopped, and its workspace waits.",
        "An operator holds it: no ensure starts it, until a start or a recover does.",
        "",
    ]


def test_a_message_that_says_what_the_reason_says_is_not_said_twice():
    seen = stack(reason="unknown", message="it cannot be seen at the moment; this is what was known last")

    assert situation_of(seen) == [
        "It ran when it was last seen.",
        "It cannot be seen at the moment; this is what was known last.",
    ]


@pytest.mark.parametrize(
    ("reasons", "said"),
    [
        (
            [staleness(), staleness(facet="prompt", restart=False)],
            "(image, prompt); putting that right restarts it.",
        ),
        ([staleness(facet="prompt", restart=False)], "(prompt); putting that right needs no restart."),
    ],
)
def test_a_stale_stack_is_told_in_what_and_whether_putting_it_right_restarts_it(reasons, said):
    stale = stack(staleness=reasons)

    assert situation_of(stale)[-1] == f"It is stale {said}"
    assert "`opencode-lifecycle recreate ada`" in what_to_do(stale)[-1]


def test_what_was_refused_is_not_promised_to_be_put_right_by_itself():
    refused = stack(staleness=[staleness()], migration_state="failed")

    assert situation_of(refused)[-1].endswith("is not tried again by itself.")
    assert what_to_do(refused) == ["correct what was refused, then `opencode-lifecycle recover ada`"]


def test_staleness_is_a_table_of_what_is_and_what_should_be(shown):
    lines = shown(
        staleness=[staleness(), staleness(facet="labels", have="a", want="b", severity="info", restart=False)]
    )

    assert "FACET HAVE WANT SEVERITY RESTART" in lines
    assert "image v1 v2 warning yes" in lines
    assert "labels a b info no" in lines
    assert "FIELD HAVE WANT" not in lines


def test_fields_that_were_edited_outside_are_shown_one_by_one(shown):
    lines = shown(staleness=[EDIT])

    assert "edited_outside 5 fields changed as registered warning yes" in lines
    assert lines[lines.index("FIELD HAVE WANT") + 1 :][:3] == [
        "Priority 70 50",
        "TaskGroup[opencode].Task[server].Env[FOO] (not shown) absent",
        "and 3 more, not shown here - -",
    ]


def test_an_edit_that_does_not_come_apart_evenly_is_shown_as_it_came(shown):
    lines = shown(staleness=[{**EDIT, "have": "UI.Description = a; b = c", "want": "UI.Description = d"}])

    assert "edited_outside UI.Description = a; b = c UI.Description = d warning yes" in lines


def test_a_stack_of_a_newer_service_is_shown_without_what_is_not_known(shown):
    lines = shown(phase="floating", health="radiant", reason="gremlins", message="", runtime=runtime())

    assert "phase floating" in lines
    assert "reason gremlins" in lines


def test_every_reason_has_a_meaning():
    assert set(advice.MEANING) == set(Reason)
