"""How many stacks one replica works on at once: that bounds what it asks of its neighbours, however many wait."""

import asyncio

from opencode_lifecycle.model.states import Phase
from world import World

USERS = ("ada", "bob", "cyd", "dan", "eve", "fay")


async def test_no_more_stacks_are_worked_on_at_once_than_there_are_workers(tmp_path):
    world = World(tmp_path, workers=2)
    async with world.running():
        reconciler = world.plane.dispatcher._reconciler
        reconcile, at_work, most = reconciler.reconcile, 0, 0

        async def counted(claimed):
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            try:
                return await reconcile(claimed)
            finally:
                at_work -= 1

        reconciler.reconcile = counted
        await asyncio.gather(*(world.ensure(user, wait=None) for user in USERS))
        for user in USERS:
            await world.phase(Phase.RUNNING, user)

    assert most == 2
