"""A stack that is ordered to another release, as a rollout does: what its tests begin with and wait for."""

from dataclasses import replace
from datetime import timedelta

from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.migration import MigrationOrder, OrderOutcome
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.states import MigrationState
from opencode_lifecycle.ports.stores import Decision
from world import ADA, World, content

QUICK = Limits(
    start=timedelta(seconds=60),
    stop=timedelta(seconds=60),
    poll=timedelta(milliseconds=20),
    idle_after=timedelta(0),
    idle_poll=timedelta(milliseconds=20),
    delivery=timedelta(seconds=60),
    delivery_poll=timedelta(milliseconds=20),
)


async def a_release(world: World, **changes) -> ReleaseId:
    made = content(**changes)
    release = Release(
        id=made.id,
        number=0,
        created_at=utc_now(),
        **{name: getattr(made, name) for name in made.__dataclass_fields__},
    )
    await world.store.add_release(release)
    return release.id


async def order(world: World, release: ReleaseId | None = None, *, fresh: bool = False, **what) -> str:
    """Order that the stack be brought to *release*, as a rollout does."""
    generation = world.stack().intent.generation + 1
    asked = MigrationOrder(id=f"ro_test.{generation}", **what)

    def decide(situation):
        intent = replace(
            situation.stack.intent,
            generation=generation,
            order=asked,
            recovered=generation,
            wanted_release=release or situation.stack.intent.wanted_release,
            rotation=generation if asked.rotate else situation.stack.intent.rotation,
            fresh_start=generation if fresh else situation.stack.intent.fresh_start,
        )
        return Decision(stack=replace(situation.stack, intent=intent), wake=True)

    _, decision = await world.store.decide(ADA, decide)
    world.plane.fleet.put(decision.stack)
    world.plane.dispatcher.hint(ADA)
    return asked.id


async def until_outcome(world: World, order_id: str) -> OrderOutcome | None:
    await world.until(lambda: world.stack().status.order_done == order_id)
    return world.stack().status.order_outcome


async def until_state(world: World, state: MigrationState) -> None:
    await world.until(lambda: world.stack().status.migration_state is state)


async def kinds_of_events(world: World) -> dict[str, dict]:
    page = await world.store.find_events(user_id=ADA, after=None, limit=200)
    return {event.kind: dict(event.data) for event in page.items}
