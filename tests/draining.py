"""A stack on a node that is drained: what its tests begin with."""

from datetime import timedelta

from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.states import MigrationState, Phase, Reason
from world import ADA, World

NODE, OTHER = "node-1", "node-2"
QUICK = Limits(
    start=timedelta(seconds=60),
    stop=timedelta(seconds=60),
    poll=timedelta(milliseconds=20),
    idle_after=timedelta(0),
    idle_poll=timedelta(milliseconds=20),
    delivery_poll=timedelta(milliseconds=20),
)

UNBOUND = """
variable "job_id" { type = string }
variable "installation" { type = string }
variable "user_id" { type = string }
variable "image" { type = string }
variable "opencode_version" { type = string }
variable "template_digest" { type = string }
variable "environment_digest" { type = string }
variable "resources_digest" { type = string }
variable "secret_version" { type = number }
variable "secret_path" { type = string }
variable "revision" { type = string }
"""
"""A job template that keeps no workspace."""


async def waits_for_its_agent(world: World) -> None:
    await world.until(lambda: world.stack().status.migration_state is MigrationState.DRAINING)


async def is_held(world: World) -> None:
    await world.until(lambda: world.stack().is_held_by_node)
    assert world.stack().status.migration_state is MigrationState.HELD


async def runs_again(world: World) -> None:
    await world.phase(Phase.RUNNING)
    await world.until(lambda: world.stack().status.migration_state is MigrationState.CURRENT)
    assert world.stack().status.reason is None


async def is_held_on_a_drained_node(world: World) -> None:
    await world.ensure()
    world.nomad.nodes.drain(NODE, deadline=None)
    await is_held(world)


async def has_listed_the_nodes(world: World, times: int = 2) -> None:
    """Wait until what is so now was listed, and everything that came of it is done."""
    calls = world.nomad.faults.calls
    seen = calls["closed_nodes"]
    await world.until(lambda: calls["closed_nodes"] >= seen + times and world.plane.dispatcher.at_work == 0)


async def history(world: World) -> list[tuple[str, dict]]:
    page = await world.store.find_events(user_id=ADA, after=None, limit=200)
    return [(event.kind, dict(event.data)) for event in page.items]


def said_of(world: World) -> tuple[Phase, MigrationState, Reason | None]:
    status = world.stack().status
    return status.phase, status.migration_state, status.reason
