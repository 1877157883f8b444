"""Task events, as kinds of trouble."""

import pytest

from opencode_lifecycle.adapters.nomad.task_trouble import trouble_of
from opencode_lifecycle.model.observation import TaskTrouble


def event(kind: str, message: str = "", **more: object) -> dict[str, object]:
    return {"Type": kind, "DisplayMessage": message, "Details": {}, "ExitCode": 0, **more}


def state(*events: dict[str, object], now: str = "dead") -> dict[str, object]:
    return {"State": now, "Events": list(events)}


@pytest.mark.parametrize(
    ("last", "trouble"),
    [
        (event("Template", "Missing: vault.read(kv/data/opencode/oc-x.v9)"), TaskTrouble.SECRET),
        (event("Killing", "Template failed: (view) vault.read: no secret exists"), TaskTrouble.SECRET),
        (event("Killing", "Vault: failed to derive vault token: 403"), TaskTrouble.SECRET),
        (event("Terminated", "Exit Code: 78", ExitCode=78), TaskTrouble.SECRET),
        (event("Terminated", "Exit Code: 65", ExitCode=65), TaskTrouble.DATA_NEWER),
        (event("Terminated", "Exit Code: 74", ExitCode=74), TaskTrouble.DISK_FULL),
        (event("Terminated", "Exit Code: 3", ExitCode=3), TaskTrouble.EXITED),
        (event("Terminated", "Exit Code: 0"), TaskTrouble.EXITED),
        (
            event("Terminated", "OOM Killed", ExitCode=137, Details={"oom_killed": "true"}),
            TaskTrouble.OUT_OF_MEMORY,
        ),
        (event("Driver Failure", "Failed to pull image"), TaskTrouble.DRIVER),
        (event("Setup Failure", 'failed to setup alloc: pre-run hook "consul" failed'), TaskTrouble.DRIVER),
        (event("Template", "Missing: nomad.var.block(opencode/bundles/x)"), None),
        (event("Started", "Task started by client"), None),
    ],
)
def test_the_newest_telling_event_counts(last, trouble):
    kind, message = trouble_of(state(event("Received"), last, now="pending"))

    assert kind is trouble
    assert message == (last["DisplayMessage"] if trouble else "")


def test_what_is_said_after_the_trouble_does_not_hide_it():
    events = [event("Driver Failure", "no such image"), event("Restarting"), event("Not Restarting")]

    assert trouble_of(state(*events)) == (TaskTrouble.DRIVER, "no such image")


def test_a_running_task_has_no_trouble():
    assert trouble_of(state(event("Terminated", ExitCode=1), event("Started"), now="running")) == (None, "")


def test_the_end_of_a_task_that_was_told_to_stop_is_no_trouble():
    events = [
        event("Started"),
        event("Killing", "Sent interrupt"),
        event("Terminated", ExitCode=143),
        event("Killed"),
    ]

    assert trouble_of(state(*events)) == (None, "")


@pytest.mark.parametrize("events", [None, [], ["text"], [{"Type": 5}]])
def test_strange_events_are_no_trouble(events):
    assert trouble_of({"State": "dead", "Events": events}) == (None, "")
