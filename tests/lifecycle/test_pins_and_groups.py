"""Who is held on another release than the fleet, and from when."""

from dataclasses import replace
from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.releases import ReleaseContent
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import (
    InvalidBody,
    PreconditionFailed,
    ReleaseNotFound,
    StackNotFound,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.group import GroupWish
from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.operation import OperationKind, OperationState
from opencode_lifecycle.model.states import Desired, Phase
from opencode_lifecycle.ports.stores import StackQuery
from world import ADA, OPERATOR


async def another_release(world, **changes):
    """Store a release that differs from the fleet's target, and return its id."""
    content = replace(
        ReleaseContent.of(world.plane.releases.current), **{"instructions": "Other.", **changes}
    )
    stored = await world.store.add_release(content.release(now=utc_now(), created_by="olga"))
    return stored.id


async def pin(world, release, user=ADA, *, if_match=None):
    return await world.plane.provisioning.pin(UserId(user), release, by=OPERATOR, if_match=if_match)


async def unpin(world, user=ADA):
    return await world.plane.provisioning.unpin(UserId(user), by=OPERATOR, if_match=None)


async def set_group(world, name="team-a", **wish):
    return await world.plane.groups.put(name, GroupWish(names=frozenset(wish), **wish), by=OPERATOR)


async def stop(world, user=ADA):
    operation = await world.plane.provisioning.stop(UserId(user), by=OPERATOR, hold=False, if_match=None)
    await world.finished(operation)


async def test_a_pinned_stack_wants_that_release_also_when_it_starts_again(world):
    await world.ensure()
    release, target = await another_release(world), world.plane.releases.current.id

    operation = await pin(world, release)
    await world.finished(operation)
    await stop(world)
    await world.ensure()

    intent = world.stack().intent
    assert operation.kind is OperationKind.PIN
    assert (intent.wanted_release, intent.pinned) == (release, True)
    assert release != target


async def test_a_pin_is_a_new_generation_with_an_event_and_the_same_pin_again_is_none(world):
    await world.ensure()
    release = await another_release(world)
    before = world.stack().intent.generation

    first, again = await pin(world, release), await pin(world, release)

    assert world.stack().intent.generation == before + 1
    assert again.state is OperationState.SUCCEEDED
    events = (await world.plane.provisioning.events(ADA, None, 50)).items
    [event] = [each for each in events if each.kind == "stack.pin"]
    assert (event.actor, event.generation) == ("operator", first.generation)
    assert event.data["wanted_release"]["to"] == release
    assert event.data["pinned"] == {"from": False, "to": True}


async def test_an_unpinned_stack_wants_the_fleets_target_again(world):
    await world.ensure()
    await pin(world, await another_release(world))

    operation = await unpin(world)

    intent = world.stack().intent
    assert operation.kind is OperationKind.UNPIN
    assert (intent.wanted_release, intent.pinned) == (world.plane.releases.current.id, False)
    assert (await unpin(world)).state is OperationState.SUCCEEDED


async def test_a_stack_is_not_pinned_to_what_is_not_there(world):
    await world.ensure()

    with pytest.raises(ReleaseNotFound):
        await pin(world, ReleaseId("rel_none"))
    with pytest.raises(StackNotFound):
        await pin(world, await another_release(world), "nobody")

    assert not world.stack().intent.pinned


async def test_a_stack_is_not_pinned_to_a_release_without_its_resource_class(world):
    await world.ensure(resources="large")
    small = world.plane.releases.current.resource_classes["small"]
    release = await another_release(world, resource_classes={"small": small})

    with pytest.raises(InvalidBody) as refused:
        await pin(world, release)

    [fault] = refused.value.faults
    assert fault.pointer == "/release"
    assert "resource class large" in fault.detail


async def test_a_pin_may_be_bound_to_the_generation_that_was_seen(world):
    await world.ensure()

    with pytest.raises(PreconditionFailed):
        await pin(world, await another_release(world), if_match=99)


async def test_a_stack_that_is_being_deleted_cannot_be_pinned(world):
    await world.ensure()
    release = await another_release(world)
    world.nomad.faults.fail_next("deregister", UpstreamUnavailable("nomad", "stop"), times=None)
    await world.plane.provisioning.delete(ADA, by=OPERATOR, delete_workspace=False, if_match=None)

    with pytest.raises(StackNotFound):
        await pin(world, release)

    assert world.stack().intent.desired is Desired.DELETED
    assert not world.stack().intent.pinned


async def test_a_new_stack_of_a_group_wants_what_the_group_is_pinned_to(world):
    release = await another_release(world)
    await set_group(world, pin=release)

    await world.ensure("ada", group="team-a")
    await world.ensure("bob")

    assert world.stack("ada").intent.wanted_release == release
    assert not world.stack("ada").intent.pinned
    assert world.stack("ada").status.release == release
    assert world.stack("bob").intent.wanted_release == world.plane.releases.current.id


async def test_the_pin_of_a_group_counts_from_the_next_start_and_ends_so(world):
    await world.ensure(group="team-a")
    release, target = await another_release(world), world.plane.releases.current.id

    await set_group(world, pin=release)
    assert world.stack().intent.wanted_release == target
    await stop(world)
    await world.ensure()
    assert world.stack().intent.wanted_release == release

    await set_group(world, pin=None)
    operation = await world.plane.provisioning.recreate(ADA, by=OPERATOR, if_match=None)
    await world.finished(operation)
    assert world.stack().intent.wanted_release == target


async def test_a_pin_of_its_own_counts_more_than_the_groups(world):
    await world.ensure(group="team-a")
    mine, theirs = await another_release(world), await another_release(world, instructions="Theirs.")
    await pin(world, mine)
    await set_group(world, pin=theirs)

    await stop(world)
    await world.ensure()
    assert world.stack().intent.wanted_release == mine

    await unpin(world)
    assert world.stack().intent.wanted_release == theirs


async def test_an_ensure_is_checked_against_the_release_of_the_group(world):
    small = world.plane.releases.current.resource_classes["small"]
    release = await another_release(world, resource_classes={"small": small, "gpu": small})
    await set_group(world, pin=release)

    await world.ensure("ada", group="team-a", resources="gpu")
    with pytest.raises(InvalidBody):
        await world.ensure("bob", resources="gpu")
    with pytest.raises(InvalidBody):
        await world.ensure("cleo", group="team-a", resources="large")

    assert world.stack("ada").status.phase is Phase.RUNNING


async def test_a_group_is_not_pinned_to_what_is_not_there(world):
    with pytest.raises(ReleaseNotFound):
        await set_group(world, pin=ReleaseId("rel_none"))

    assert world.plane.groups.pins == {}


async def test_of_a_group_only_what_was_named_changes_and_the_event_says_what(world):
    release = await another_release(world)
    await set_group(world, pin=release, idle_stop_after=timedelta(minutes=30))
    await set_group(world, idle_stop_after=None)
    again = await set_group(world, idle_stop_after=None)

    assert (again.pin, again.idle_stop_after) == (release, None)
    assert world.plane.groups.idle_stop_after("team-a") is None
    events = (await world.store.find_events(user_id=None, after=None, limit=50)).items
    assert [each.data for each in events if each.kind == "group.changed"] == [
        {
            "group": "team-a",
            "pin": {"from": None, "to": release},
            "idle_stop_after": {"from": None, "to": "1800s"},
        },
        {"group": "team-a", "idle_stop_after": {"from": "1800s", "to": None}},
    ]


async def test_of_two_who_set_different_things_of_a_group_at_once_both_get_theirs(world, monkeypatch):
    release = await another_release(world)
    get, meddled = world.store.get_group, []

    async def read_before_another_writes(name):
        found = await get(name)
        if not meddled:
            meddled.append(name)
            await set_group(world, idle_stop_after=timedelta(minutes=30))
        return found

    monkeypatch.setattr(world.store, "get_group", read_before_another_writes)
    await set_group(world, pin=release)

    group = await world.plane.groups.show("team-a")
    assert (group.pin, group.idle_stop_after) == (release, timedelta(minutes=30))


async def test_what_was_said_of_a_group_outlives_a_restart(world):
    release = await another_release(world)
    await set_group(world, pin=release, idle_stop_after=timedelta(minutes=30))

    other = world.another_plane()
    await other.groups.refresh()

    assert other.groups.pins == {"team-a": release}
    assert other.groups.idle_stop_after("team-a") == timedelta(minutes=30)
    assert other.groups.idle_stop_after("default") is None


@pytest.mark.parametrize("how", ["feed", "list", "direct read"])
async def test_another_replica_calls_a_stack_stale_in_a_release_that_is_new_to_it(world, how):
    await world.ensure()
    other = world.another_plane()
    await world.begin(other)
    await pin(world, await another_release(world))

    if how == "feed":
        await other._changes.catch_up()
    elif how == "direct read":
        other.provisioning._uncertain.add(ADA)
    if how == "list":
        (view,) = (await other.provisioning.find(StackQuery())).items
    else:
        view = await other.provisioning.inspect(ADA)

    assert [reason.facet for reason in view.staleness] == [Facet.PROMPT]
