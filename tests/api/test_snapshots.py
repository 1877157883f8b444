"""What is shown of the snapshots of a stack's data."""

from datetime import timedelta

from api.in_memory import NOW
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.snapshot import (
    Migrations,
    Snapshot,
    SnapshotFile,
    SnapshotsSeen,
    StartRefused,
    Written,
)

SNAPSHOT = Snapshot(
    id="01ARZ3NDEKTSV4RRFFQ69G5FAV",
    taken_at=NOW,
    opencode_version="1.17.0",
    before_version="1.18.34",
    migrations=Migrations(count=32, last="20260511173437_session-metadata"),
    bytes=12,
    files=(SnapshotFile(path="opencode.db", bytes=12, sha256="a" * 64),),
    restored_at=NOW + timedelta(hours=1),
)


async def test_snapshots_are_listed_with_when_they_were_seen(world):
    world.provisioning.given("ada")
    world.snapshots.seen[UserId("ada")] = SnapshotsSeen(snapshots=(SNAPSHOT,), observed_at=NOW)

    answer = await world.call("GET", "/v1/stacks/ada/snapshots", by="operator")

    assert answer.status == 200
    [item] = answer.json["items"]
    assert item["id"] == SNAPSHOT.id
    assert (item["opencode_version"], item["before_version"]) == ("1.17.0", "1.18.34")
    assert item["migrations"] == {"count": 32, "last": "20260511173437_session-metadata"}
    assert item["files"] == [{"path": "opencode.db", "bytes": 12, "sha256": "a" * 64}]
    assert item["restored_at"] is not None
    assert answer.json["next_cursor"] is None
    assert answer.json["observed_at"] is not None
    assert answer.json["refused"] is None


async def test_why_a_version_was_not_started_is_told_in_the_entrypoints_words(world):
    world.provisioning.given("ada")
    written = Written(sessions=1, messages=2, other=0, since=None)
    refused = StartRefused(code=65, reason="OpenCode 1.17.0 is older than the data", written=written)
    world.snapshots.seen[UserId("ada")] = SnapshotsSeen(observed_at=NOW, refused=refused)

    answer = await world.call("GET", "/v1/stacks/ada/snapshots", by="operator")

    assert answer.json["refused"] == {
        "code": 65,
        "reason": "OpenCode 1.17.0 is older than the data",
        "written": {"sessions": 1, "messages": 2, "other": 0, "since": None},
    }


async def test_a_stack_of_which_none_was_ever_seen_has_an_empty_list(world):
    world.provisioning.given("ada")

    answer = await world.call("GET", "/v1/stacks/ada/snapshots", by="operator")

    assert answer.json == {"items": [], "next_cursor": None, "observed_at": None, "refused": None}


async def test_a_stack_that_is_not_there_has_none(world):
    answer = await world.call("GET", "/v1/stacks/nobody/snapshots", by="operator")

    assert (answer.status, answer.code) == (404, "stack-not-found")
