"""A Nomad that a replica sees once, and words for requests that cross each other."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.migration import MigrationOrder
from opencode_lifecycle.model.view import EnsureRequest
from opencode_lifecycle.ports.orchestrator import Connected
from opencode_lifecycle.ports.stores import Decision
from world import ADA, BACKEND, World

ASKED = {"by": BACKEND, "if_match": None}
UNCHANGED = EnsureRequest()
DOWN = UpstreamUnavailable("nomad", "call", "connection refused")


def of(world: World):
    return world.plane.provisioning


async def order_fresh_start(world: World) -> None:
    """Order it as a rollout does."""
    generation = world.stack().intent.generation + 1

    def decide(situation):
        asked = MigrationOrder(id="ro_test", fresh=True)
        intent = replace(situation.stack.intent, generation=generation, order=asked, fresh_start=generation)
        return Decision(stack=replace(situation.stack, intent=intent), wake=True)

    _, decision = await world.store.decide(ADA, decide)
    world.plane.fleet.put(decision.stack)
    world.plane.dispatcher.hint(ADA)


def milliseconds(number: int) -> timedelta:
    return timedelta(milliseconds=number)


class StuckNomad:
    """The Nomad that a replica sees whose stream and listings hang after the first: it lives on what it saw once."""

    def __init__(self, real) -> None:
        self._real = real
        self._listings = 0

    def __getattr__(self, name: str):
        return getattr(self._real, name)

    async def list_all(self, deadline):
        self._listings += 1
        if self._listings > 1:
            async with deadline.enforce():
                await asyncio.Event().wait()
        return await self._real.list_all(deadline)

    async def follow(self, index: int | None):
        yield Connected(index=index or 0)
        await asyncio.Event().wait()
