"""What is remembered of the snapshots in a workspace, and when it is forgotten."""

from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from contracts.stores.test_finishing_deletions import SUCCEEDED, deletion_of
from database_examples import ADA, NOW, WORKSPACE, a_stack, an_event, put
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.snapshot import Migrations, Snapshot, SnapshotFile, SnapshotsSeen
from opencode_lifecycle.model.stack import KeptWorkspace

LATER = NOW + timedelta(minutes=1)
FIRST = Snapshot(
    id="01ARZ3NDEKTSV4RRFFQ69G5FAV",
    taken_at=NOW,
    opencode_version="1.17.0",
    before_version="1.18.34",
    migrations=Migrations(count=32, last="20260501000000_last"),
    bytes=2**40,
    files=(
        SnapshotFile(path="auth.json", bytes=12, sha256="a" * 64),
        SnapshotFile(path="opencode.db", bytes=2**40 - 12, sha256="b" * 64),
    ),
)
SECOND = replace(
    FIRST, id="01ARZ3NDEKTSV4RRFFQ69G5FAW", opencode_version="", migrations=None, files=(), restored_at=LATER
)


async def remember(database, user, found, *, at, news=lambda _: None):
    await database.put_snapshots(user, found, observed_at=at, news=news)


async def test_snapshots_come_back_as_they_were_stored_oldest_first(database):
    await put(database)

    await remember(database, ADA, [SECOND, FIRST], at=NOW)

    assert await database.snapshots_of(ADA) == SnapshotsSeen(snapshots=(FIRST, SECOND), observed_at=NOW)


async def test_what_was_seen_later_replaces_all_that_was_known(database):
    await put(database)
    await remember(database, ADA, [FIRST], at=NOW)

    await remember(database, ADA, [SECOND], at=LATER)

    assert await database.snapshots_of(ADA) == SnapshotsSeen(snapshots=(SECOND,), observed_at=LATER)


async def test_what_was_seen_earlier_replaces_nothing(database):
    await put(database)
    await remember(database, ADA, [FIRST], at=LATER)

    await remember(database, ADA, [], at=NOW)

    assert (await database.snapshots_of(ADA)).snapshots == (FIRST,)


async def test_of_a_stack_that_is_not_there_nothing_is_remembered(database):
    await remember(database, ADA, [FIRST], at=NOW)

    assert await database.snapshots_of(ADA) == SnapshotsSeen(snapshots=(), observed_at=None)


async def test_each_user_has_their_own(database):
    await put(database)
    await put(database, UserId("grace"))
    await remember(database, ADA, [FIRST], at=NOW)
    await remember(database, UserId("grace"), [FIRST], at=NOW)

    await remember(database, ADA, [], at=LATER)

    assert (await database.snapshots_of(ADA)).snapshots == ()
    assert (await database.snapshots_of(UserId("grace"))).snapshots == (FIRST,)


async def events_of(database):
    return [event.kind for event in (await database.find_events(user_id=ADA, after=None, limit=100)).items]


async def test_what_is_news_is_asked_of_what_was_known_and_written_with_it(database):
    await put(database)
    asked = []

    def news(known):
        asked.append(tuple(known))
        return an_event(ADA, kind=f"told.{len(asked)}")

    await remember(database, ADA, [FIRST], at=NOW, news=news)
    await remember(database, ADA, [SECOND, FIRST], at=LATER, news=news)
    await remember(database, ADA, [], at=LATER, news=news)

    assert asked == [(), (FIRST,), (FIRST, SECOND)]
    assert (await events_of(database))[-3:] == ["told.1", "told.2", "told.3"]


async def test_of_what_is_not_remembered_nothing_is_told(database):
    news = partial(an_event, kind="told")
    await remember(database, ADA, [FIRST], at=NOW, news=news)
    await put(database)
    await remember(database, ADA, [FIRST], at=LATER)

    await remember(database, ADA, [], at=NOW, news=news)

    assert "told" not in await events_of(database)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("goes_on", [True, False])
async def test_they_are_forgotten_with_the_workspace_and_only_with_it(database, kept, goes_on):
    claimed, _ = await deletion_of(database)
    await remember(database, ADA, [FIRST], at=NOW)
    workspace = KeptWorkspace(user_id=ADA, job_id=claimed.stack.job_id, workspace=WORKSPACE, kept_at=NOW)

    await database.finish_deletion(
        claimed,
        outcome=SUCCEEDED,
        events=[],
        kept=workspace if kept else None,
        successor=a_stack(generation=4) if goes_on else None,
    )

    assert (await database.snapshots_of(ADA)).snapshots == ((FIRST,) if kept else ())
