"""How a stack is shown that is on its way from what runs to what it should be."""

from dataclasses import replace
from datetime import timedelta

from api.in_memory import NOW, RELEASE
from opencode_lifecycle.model.facets import Facet, Facets
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.migration import AtDeadline, Footing, MigrationOrder
from opencode_lifecycle.model.node import ClosedNode, Drain
from opencode_lifecycle.model.staleness import Severity, Staleness
from opencode_lifecycle.model.states import MigrationState, Phase, Reason

IMAGE = Staleness(facet=Facet.IMAGE, have="v1", want="v2", severity=Severity.WARNING, restart=True)
ORDER = MigrationOrder(
    id="ro_01JABCDEFGHJKMNPQRSTVWXYZ0", deadline=NOW + timedelta(hours=1), at_deadline=AtDeadline.HOLD
)
FOOTING = Footing(
    release=ReleaseId("rel_01JABCDEFGHJKMNPQRSTVWXYZ9"),
    resources="small",
    environment={},
    facets=Facets(
        image="v1", opencode_version="1.18.33", template="a", environment="b", resources="c", secret_version=1,
        prompt="d", config="e", labels="f", endpoints="g",
    ),
)  # fmt: skip


def given(world, *, staleness=(), busy_until=None, order=None, closed_node=None, **status):
    """Have ada's stack be what is asked for, and nothing else."""
    view = world.provisioning.given("ada")
    stack = replace(
        view.stack,
        intent=replace(view.stack.intent, order=order),
        status=replace(view.stack.status, **status),
        busy_until=busy_until,
    )
    world.provisioning.views["ada"] = replace(view, stack=stack, staleness=staleness, closed_node=closed_node)


async def shown(world):
    return (await world.call("GET", "/v1/stacks/ada")).json["migration"]


async def test_a_stack_that_is_as_it_should_be_has_no_migration(world):
    given(world)

    assert await shown(world) is None


async def test_a_stale_stack_shows_the_class_of_what_is_left_to_do(world):
    given(world, staleness=(IMAGE,), migration_state=MigrationState.STALE)

    assert await shown(world) == {
        "state": "stale",
        "class": "restart",
        "order": None,
        "since": None,
        "busy_until": None,
        "refused": None,
        "footing_release": None,
        "node": None,
    }


async def test_a_migration_that_was_ordered_shows_by_what_until_when_and_what_then(world):
    given(
        world, staleness=(IMAGE,), migration_state=MigrationState.DRAINING, order=ORDER, migrating_since=NOW
    )

    migration = await shown(world)

    assert migration["order"] == {
        "id": ORDER.id,
        "deadline": "2026-11-24T13:00:00Z",
        "at_deadline": "hold",
    }
    assert (migration["state"], migration["since"]) == ("draining", "2026-11-24T12:00:00Z")


async def test_an_order_that_was_seen_to_the_end_is_not_shown_any_more(world):
    given(world, order=ORDER, order_done=ORDER.id)

    assert await shown(world) is None


async def test_what_was_refused_is_shown_with_the_release_that_it_stays_on(world):
    given(world, migration_state=MigrationState.FAILED, refused="0123456789abcdef", footing=FOOTING)

    migration = await shown(world)

    assert (migration["refused"], migration["footing_release"]) == ("0123456789abcdef", FOOTING.release)


async def test_a_work_lease_is_shown_of_a_stack_that_is_current_too(world):
    given(world, busy_until=NOW + timedelta(seconds=60))

    migration = await shown(world)

    assert (migration["state"], migration["class"]) == ("current", None)
    assert migration["busy_until"] == "2026-11-24T12:01:00Z"


async def test_a_pin_is_shown(world):
    world.provisioning.given("ada", pinned=True)

    answer = await world.call("GET", "/v1/stacks/ada")

    assert (answer.json["pinned"], answer.json["wanted_release"]) == (True, RELEASE)


async def test_a_stack_that_leaves_its_node_shows_which_and_until_when(world):
    drain = Drain(deadline=NOW + timedelta(hours=1))
    given(
        world,
        closed_node=ClosedNode(id="n1", name="node-1", drain=drain),
        migration_state=MigrationState.DRAINING,
        reason=Reason.NODE_DRAINING,
    )

    assert (await shown(world))["node"] == {
        "name": "node-1",
        "draining": True,
        "forced_at": "2026-11-24T12:58:00Z",
        "deadline": "2026-11-24T13:00:00Z",
    }


async def test_a_stack_that_is_held_shows_the_node_that_it_waits_for(world):
    given(
        world,
        closed_node=ClosedNode(id="n1", name="node-1", drain=None),
        phase=Phase.STOPPED,
        runtime=None,
        migration_state=MigrationState.HELD,
        reason=Reason.NODE_DRAINING,
    )

    node = (await shown(world))["node"]

    assert node == {"name": "node-1", "draining": False, "forced_at": None, "deadline": None}


async def test_a_node_that_is_only_ineligible_is_no_migration_of_what_runs_there(world):
    given(world, closed_node=ClosedNode(id="n1", name="node-1", drain=None))

    assert await shown(world) is None
