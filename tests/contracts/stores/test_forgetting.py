"""What is known of what is gone: when a stack was deleted, and events until they are too old."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from database_examples import ADA, BOB, NOW, a_stack, an_event, put, take
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.ports.stores import OperationOutcome

YOUNG = NOW + timedelta(days=1)
AT_ONCE = 1000


async def delete(database, *, successor=None):
    await database.finish_deletion(
        await take(database),
        outcome=OperationOutcome(state=OperationState.SUCCEEDED),
        events=[],
        kept=None,
        successor=successor,
    )


async def test_of_a_stack_that_never_was_no_deletion_is_known(database):
    await put(database, BOB)

    assert await database.deleted_at(ADA) is None
    assert await database.deleted_at(BOB) is None


async def test_when_a_stack_was_deleted_is_known_to_the_moment(database):
    await put(database)
    before = utc_now()

    await delete(database)

    deleted_at = await database.deleted_at(ADA)
    assert before <= deleted_at <= utc_now()
    assert deleted_at.tzinfo is UTC


async def test_a_stack_that_came_back_is_not_deleted(database):
    await put(database)
    await delete(database)

    await put(database)

    assert await database.deleted_at(ADA) is None


async def test_whose_stacks_were_deleted_is_known_of_all_but_those_that_came_back(database):
    for stack in (a_stack(), a_stack(BOB)):
        await put(database, stack)
    assert list(await database.removed_users()) == []

    await delete(database)

    assert list(await database.removed_users()) == [ADA]
    await put(database)
    assert list(await database.removed_users()) == []


async def test_of_two_deletions_the_last_is_told(database):
    for _ in range(2):
        await put(database)
        between = utc_now()
        await delete(database)

    assert await database.deleted_at(ADA) >= between


async def test_a_deletion_that_makes_room_for_a_successor_leaves_a_stack_and_no_deletion(database):
    await put(database)

    await delete(database, successor=a_stack())

    assert await database.deleted_at(ADA) is None


async def test_a_deletion_is_known_as_long_as_its_receipt(database):
    await put(database)
    await delete(database)
    deleted_at = await database.deleted_at(ADA)

    await database.prune_operations(deleted_at)
    kept = await database.deleted_at(ADA)
    await database.prune_operations(deleted_at + timedelta(microseconds=1))

    assert kept == deleted_at
    assert await database.deleted_at(ADA) is None


async def test_another_users_deletion_is_not_ones_own(database):
    for user_id in ("ada", "Ada", "ada-"):
        await put(database, user_id)
    await delete(database)

    assert await database.deleted_at("Ada") is None
    assert await database.deleted_at("ada-") is None


def events(many: int, *, at: datetime = NOW):
    return [replace(an_event(kind=str(number)), at=at) for number in range(many)]


@pytest.mark.parametrize("many", [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 2 * AT_ONCE + 500])
async def test_all_that_is_old_is_forgotten_and_counted_however_much_there_is(database, many):
    young = [replace(an_event(kind=f"young {number}"), at=YOUNG) for number in range(3)]
    await database.append([young[0], *events(many), *young[1:]])

    assert await database.prune_events(YOUNG) == many

    assert (await database.find_events(user_id=None, after=None, limit=500)).items == young
    assert await database.prune_events(YOUNG) == 0


@pytest.mark.databases
async def test_what_is_old_is_forgotten_in_parts_between_which_others_may_write(database):
    removed, commits = [], []
    await database.append(events(2 * AT_ONCE + 500))

    @event.listens_for(database._writing.engine, "after_cursor_execute")
    def note(*about):
        if about[2].startswith("DELETE FROM events"):
            removed.append(about[1].rowcount)

    @event.listens_for(database._writing.engine, "commit")
    def committed(_):
        commits.append(len(removed))

    await database.prune_events(YOUNG)

    assert removed == [AT_ONCE, AT_ONCE, 500]
    assert commits == [1, 2, 3]


async def test_what_is_old_is_forgotten_wherever_it_stands_among_what_is_not(database):
    late, early = events(1, at=YOUNG), events(AT_ONCE + 1)
    await database.append([*late, *early])

    assert await database.prune_events(YOUNG) == AT_ONCE + 1

    assert (await database.find_events(user_id=None, after=None, limit=9)).items == late
