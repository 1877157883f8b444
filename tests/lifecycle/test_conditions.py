"""Standing conditions: who raises, keeps, confirms and clears them, also where several do so at once."""

import asyncio
from datetime import timedelta

import pytest

from opencode_lifecycle.model.identifiers import UserId
from world import OPERATOR, World

USERS = ("ada", "bob", "cyd", "dan")


@pytest.fixture
async def world(tmp_path):
    """One in which nothing is listed but when a test lists it."""
    world = World(tmp_path, resync_interval=timedelta(hours=1))
    async with world.running():
        await world.until(lambda: world.plane._orphans.pulse.age() is not None)
        await world.until(lambda: world.plane._nomad.stream_age() == 0.0)
        world.plane.conditions._on_confirmation = lambda condition: None
        yield world


async def a_disappearance(world: World):
    """Return the condition that four users raise who are not listed any more."""
    for user in USERS:
        await world.ensure(user)
    world.nomad.hide_from_listings()
    await world.plane._nomad.list_once()
    (condition,) = world.plane.conditions.standing()
    return condition


async def history(world: World) -> list[str]:
    events = (await world.plane.provisioning.events(UserId(""), None, 100)).items
    return [each.kind for each in events if each.kind.startswith("condition.")]


async def test_of_two_who_confirm_at_once_one_has_confirmed(world):
    condition = await a_disappearance(world)
    confirm = world.plane.oversight.confirm_condition

    first, second = await asyncio.gather(
        confirm(condition.id, by=OPERATOR), confirm(condition.id, by=OPERATOR)
    )

    assert first == second
    assert await history(world) == ["condition.raised", "condition.confirmed"]


async def test_what_was_cleared_while_it_was_confirmed_does_not_stand_again(world, monkeypatch):
    condition = await a_disappearance(world)
    change, reached, may_go_on = world.store.change_condition, asyncio.Event(), asyncio.Event()

    async def after_the_other(*args, **kwargs):
        monkeypatch.setattr(world.store, "change_condition", change)
        reached.set()
        await may_go_on.wait()
        return await change(*args, **kwargs)

    monkeypatch.setattr(world.store, "change_condition", after_the_other)
    confirming = asyncio.create_task(world.plane.conditions.confirm(condition.id, by=OPERATOR))
    await reached.wait()
    world.nomad.show_in_listings()
    listing = asyncio.create_task(world.plane._nomad.list_once())
    await world.until(lambda: world.plane.conditions.standing() == ())
    may_go_on.set()
    await asyncio.gather(confirming, listing)

    assert world.plane.conditions.standing() == ()
    assert not world.plane.fleet.frozen
    assert (await world.store.find_conditions(standing=True)).items == []
