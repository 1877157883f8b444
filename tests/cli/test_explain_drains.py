"""What `explain` says of a stack whose node is drained, or takes nothing new."""

from datetime import UTC, datetime

import pytest

from fakes.service_answers import migration, stack
from opencode_lifecycle.cli.explanation import Known, explain

NOW = datetime(2026, 1, 2, 3, 5, 0, tzinfo=UTC)
FORCED, DEADLINE = "2026-01-02T04:03:00Z", "2026-01-02T04:05:00Z"


def said(about: str, seen) -> list[str]:
    return [says for what, says in explain(Known(stack=seen), now=NOW) if what == about]


def node(**changes) -> dict[str, object]:
    return {"name": "node-a", "draining": True, "forced_at": FORCED, "deadline": DEADLINE, **changes}


def waiting(state: str = "draining", **changes):
    return stack(
        migration_state=state,
        reason="node_draining",
        message="waits until it is idle: node node-a is being drained",
        migration=migration(state, **{"class": None}, order=None, node=node(**changes)),
    )


HELD = stack(
    phase="stopped",
    health="unknown",
    runtime=None,
    migration_state="held",
    reason="node_draining",
    message="its workspace lies on node node-a, which takes nothing new",
    migration=migration(
        "held", **{"class": None}, order=None, node=node(draining=False, forced_at=None, deadline=None)
    ),
)


def test_what_waits_to_leave_its_node_says_which_until_when_and_what_then():
    agent, until = said("waits for", waiting())

    assert agent.startswith("its agent, which works")
    assert until == (
        f"For that it is waited until {FORCED} (in 58 m 0 s); then its running turns are aborted, and it is stopped, "
        f"before Nomad ends what is left on node node-a at {DEADLINE}."
    )


@pytest.mark.parametrize("state", ["queued", "draining"])
def test_a_drain_without_a_deadline_is_waited_for_as_long_as_it_lasts(state):
    until = said("waits for", waiting(state, forced_at=None, deadline=None))[1]

    assert until == "For that it is waited as long as node node-a is being drained."


def test_what_comes_after_the_stop_is_told():
    (after,) = said("next", waiting())

    assert "it is started again when the node takes jobs again" in after


def test_what_is_held_by_its_node_waits_for_that_and_for_no_person():
    assert said("next", HELD) == ["It is started on rel_2 when its node takes jobs again."]
    assert said("waits for", HELD) == ["node node-a, which takes nothing new."]
    assert not any("recover" in advice for advice in said("to do", HELD))


def test_a_node_that_cannot_be_seen_is_told_as_such():
    unseen = {**HELD, "migration": {**HELD["migration"], "node": None}}

    assert said("waits for", unseen) == ["its node, which cannot be seen at the moment."]
