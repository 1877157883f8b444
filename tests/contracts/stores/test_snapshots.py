"""What is remembered of the snapshots in a workspace, and when it is forgotten."""

from dataclasses import replace
from datetime import timedelta

import pytest

from contracts.stores.test_finishing_deletions import SUCCEEDED, deletion_of
from database_examples import ADA, NOW, WORKSPACE, a_stack, put
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


async def test_snapshots_come_back_as_they_were_stored_oldest_first(database):
    await put(database)

    await database.put_snapshots(ADA, [SECOND, FIRST], observed_at=NOW)

    assert await database.snapshots_of(ADA) == SnapshotsSeen(snapshots=(FIRST, SECOND), observed_at=NOW)


async def test_what_was_seen_later_replaces_all_that_was_known(database):
    await put(database)
    await database.put_snapshots(ADA, [FIRST], observed_at=NOW)

    await database.put_snapshots(ADA, [SECOND], observed_at=LATER)

    assert await database.snapshots_of(ADA) == SnapshotsSeen(snapshots=(SECOND,), observed_at=LATER)


async def test_what_was_seen_earlier_replaces_nothing(database):
    await put(database)
    await database.put_snapshots(ADA, [FIRST], observed_at=LATER)

    await database.put_snapshots(ADA, [], observed_at=NOW)

    assert (await database.snapshots_of(ADA)).snapshots == (FIRST,)


async def test_of_a_stack_that_is_not_there_nothing_is_remembered(database):
    await database.put_snapshots(ADA, [FIRST], observed_at=NOW)

    assert await database.snapshots_of(ADA) == SnapshotsSeen(snapshots=(), observed_at=None)


async def test_each_user_has_their_own(database):
    await put(database)
    await put(database, UserId("grace"))
    await database.put_snapshots(ADA, [FIRST], observed_at=NOW)
    await database.put_snapshots(UserId("grace"), [FIRST], observed_at=NOW)

    await database.put_snapshots(ADA, [], observed_at=LATER)

    assert (await database.snapshots_of(ADA)).snapshots == ()
    assert (await database.snapshots_of(UserId("grace"))).snapshots == (FIRST,)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("goes_on", [True, False])
async def test_they_are_forgotten_with_the_workspace_and_only_with_it(database, kept, goes_on):
    claimed, _ = await deletion_of(database)
    await database.put_snapshots(ADA, [FIRST], observed_at=NOW)
    workspace = KeptWorkspace(user_id=ADA, job_id=claimed.stack.job_id, workspace=WORKSPACE, kept_at=NOW)

    await database.finish_deletion(
        claimed,
        outcome=SUCCEEDED,
        events=[],
        kept=workspace if kept else None,
        successor=a_stack(generation=4) if goes_on else None,
    )

    assert (await database.snapshots_of(ADA)).snapshots == ((FIRST,) if kept else ())
