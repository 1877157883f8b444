"""Releases with everything they carry, which of them is the fleet's target, and the groups that want another."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from database_examples import LATER, NOW, RELEASE, a_release, a_stack, an_event, put
from opencode_lifecycle.model.errors import ReleaseNotFound, RolloutActive
from opencode_lifecycle.model.group import Group
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.states import Desired
from rollout_examples import a_stored_rollout as a_rollout

TWO = ReleaseId("rel_two")


def with_prompts():
    return replace(
        a_release(TWO),
        agent_prompts={"build": 'Build well — and "quoted".'},
        note="calmer",
        created_by="olga",
    )


async def kinds(database):
    return [event.kind for event in (await database.find_events(user_id=None, after=None, limit=50)).items]


async def test_a_release_keeps_its_prompts_its_note_and_who_made_it(database):
    stored = await database.add_release(with_prompts())

    assert stored == replace(with_prompts(), number=2)
    assert await database.get_release(TWO) == stored


async def test_making_a_release_is_remembered_once(database):
    for _ in range(2):
        await database.add_release(with_prompts(), an_event("", kind="release.created"))

    assert await kinds(database) == ["release.created"]


async def test_releases_are_listed_newest_first_and_page_by_page(database):
    for name in ("rel_two", "rel_three", "rel_four"):
        await database.add_release(a_release(name))

    first = await database.find_releases(before=None, limit=3)
    second = await database.find_releases(before=int(first.next_cursor), limit=3)

    assert [each.release.number for each in first.items] == [4, 3, 2]
    assert [each.release.number for each in second.items] == [1]
    assert second.next_cursor is None


async def test_a_list_of_releases_tells_the_target_and_how_many_stacks_want_each(database):
    await database.add_release(a_release(TWO))
    for user_id, release in (("ada", RELEASE), ("bob", TWO), ("cleo", TWO)):
        await put(database, a_stack(user_id, wanted_release=release))
    await put(database, a_stack("dora", wanted_release=TWO, desired=Desired.DELETED))

    page = await database.find_releases(before=None, limit=10)

    assert [(each.release.id, each.is_current, each.stacks) for each in page.items] == [
        (TWO, False, 2),
        (RELEASE, True, 1),
    ]


async def test_using_a_release_is_remembered_and_using_it_again_is_not(database):
    await database.add_release(a_release(TWO))

    for _ in range(2):
        await database.use_release(TWO, event=an_event("", kind="release.used"))

    assert (await database.current_release()).id == TWO
    assert await kinds(database) == ["release.used"]


async def test_using_a_release_wakes_whoever_waits_for_changes(database):
    await database.add_release(a_release(TWO))
    waiting = asyncio.create_task(database.wait_for_change(20))
    await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await database.use_release(TWO)
        await waiting


async def test_the_release_of_the_settings_is_known_until_they_describe_another(database):
    await database.add_release(a_release(TWO))
    assert await database.settings_release() is None

    await database.use_release(RELEASE, of_settings=True)
    await database.use_release(TWO)

    assert await database.settings_release() == RELEASE
    await database.use_release(TWO, of_settings=True)
    assert await database.settings_release() == TWO


async def test_while_a_rollout_is_active_only_it_changes_the_target(database):
    await database.add_release(a_release(TWO))
    await database.create_rollout(a_rollout(), [])

    with pytest.raises(RolloutActive) as refused:
        await database.use_release(TWO, event=an_event("", kind="release.used"), of_settings=True)

    assert refused.value.facts == {"rollout": "ro_1"}
    assert (await database.current_release()).id == RELEASE
    assert await database.settings_release() is None
    assert await kinds(database) == []
    claimed = await database.claim_rollout(now=NOW, lapses_at=LATER)
    await database.use_release(TWO, under=claimed)
    assert (await database.current_release()).id == TWO


async def test_a_group_comes_back_as_it_was_set_last(database):
    first = Group(name="team-a", pin=RELEASE, changed_at=NOW, changed_by="olga")
    last = Group(name="team-a", idle_stop_after=timedelta(minutes=30), changed_at=LATER, changed_by="pia")

    assert await database.get_group("team-a") is None
    await database.put_group(first, an_event("", kind="group.changed"))
    assert await database.get_group("team-a") == first
    await database.put_group(last)

    assert await database.get_group("team-a") == last
    assert await kinds(database) == ["group.changed"]


async def test_a_group_that_is_not_as_it_was_seen_any_more_is_left_as_it_is(database):
    nothing = Group(name="team-a")
    first = Group(name="team-a", idle_stop_after=timedelta(minutes=30), changed_at=NOW, changed_by="olga")
    last = Group(name="team-a", pin=RELEASE, changed_at=LATER, changed_by="pia")

    assert await database.put_group(first, before=nothing)
    assert not await database.put_group(last, an_event("", kind="group.changed"), before=nothing)
    assert await database.get_group("team-a") == first
    assert await kinds(database) == []

    assert await database.put_group(last, before=first)


async def test_groups_are_listed_in_the_order_of_their_names(database):
    for name in ("team-b", "default", "team-a"):
        await database.put_group(Group(name=name, changed_at=NOW, changed_by="olga"))

    assert [group.name for group in await database.find_groups()] == ["default", "team-a", "team-b"]


async def test_a_group_cannot_be_pinned_to_a_release_that_is_not_there(database):
    with pytest.raises(ReleaseNotFound):
        await database.put_group(
            Group(name="team-a", pin=ReleaseId("rel_none"), changed_at=NOW, changed_by="olga"),
            an_event("", kind="group.changed"),
        )

    assert await database.find_groups() == []
    assert await kinds(database) == []
