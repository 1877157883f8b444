"""Whether Nomad could place what a rollout would start: its own plan call, for as many stacks as a plan may take time for."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.rollout import Placement, PlannedStack
from opencode_lifecycle.model.stack import Stack

Place = Callable[[Stack, ReleaseId | None], Awaitable[tuple[Placement, str]]]
"""Asks Nomad whether it could place the job of a stack on a release; never raises."""

MOST_PLACED: Final = 200
"""Of how many stacks Nomad is asked in one plan."""
_PLACED_AT_ONCE: Final = 8


async def placed(
    stacks: Sequence[PlannedStack], release: ReleaseId | None, *, fleet: Fleet, place: Place
) -> Sequence[PlannedStack]:
    """Ask Nomad about those whose migration needs another job, up to a bound; of the others nothing is known."""
    asked = [each for each in stacks if each.migration_class is MigrationClass.RESTART][:MOST_PLACED]
    found: dict[UserId, tuple[Placement, str]] = {}
    slots = asyncio.Semaphore(_PLACED_AT_ONCE)

    async def ask(each: PlannedStack) -> None:
        known = fleet.get(each.user_id)
        if known is not None:
            async with slots:
                found[each.user_id] = await place(known.stack, release)

    async with asyncio.TaskGroup() as tasks:
        for each in asked:
            tasks.create_task(ask(each), name=f"place {each.user_id}")
    return [
        replace(each, placement=found[each.user_id][0], message=found[each.user_id][1])
        if each.user_id in found
        else each
        for each in stacks
    ]
