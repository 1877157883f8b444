"""What the entrypoint keeps of the data before another version of OpenCode starts, shown on real processes and databases."""

import hashlib

from nomad_jobs.workspaces import KNOWN, NEW, OLD, digests, dying, names_in, sessions_in
from opencode_lifecycle.workspace_data import documents, snapshots


def test_a_first_start_takes_no_snapshot(workspace):
    start = workspace.run(OLD, session="first")

    assert start.report["refused"] is None
    assert (start.report["version"], start.report["snapshots"], start.report["snapshot_taken"]) == (
        OLD,
        [],
        None,
    )


def test_the_same_version_again_takes_no_snapshot(workspace):
    workspace.run(OLD, session="first")

    assert [workspace.run(OLD, session="again").report["snapshots"] for _ in range(3)] == [[], [], []]


def test_another_version_finds_a_snapshot_taken_with_all_that_the_log_holds(workspace):
    workspace.run(OLD, session="kept in the log alone")
    assert (workspace.data / "opencode.db-wal").stat().st_size > 0

    report = workspace.run(NEW, session="later").report

    [receipt] = report["snapshots"]
    taken = workspace.snapshots / receipt["id"]
    assert report["snapshot_taken"] == receipt["id"]
    assert sessions_in(taken) == {"kept in the log alone"}
    assert (receipt["opencode_version"], receipt["before_version"]) == (OLD, NEW)
    assert receipt["migrations"] == {"count": 3, "last": "20260003_step"}
    assert (taken / "auth.json").read_text() == '{"3": "credential-of-a-provider"}'


def test_the_receipt_tells_every_file_with_its_size_and_digest(migrated):
    [receipt] = migrated.report()["snapshots"]

    taken = migrated.snapshots / receipt["id"]
    expected = [
        {
            "path": file.name,
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(taken.iterdir())
        if file.name != snapshots.RECEIPT
    ]
    assert [file["path"] for file in expected] == ["auth.json", "opencode.db", "opencode.db-wal"]
    assert receipt["files"] == expected
    assert receipt["bytes"] == sum(file["bytes"] for file in expected)
    assert receipt["taken_at"].endswith("Z")


def test_data_of_which_no_version_is_known_is_kept_before_any_start(migrated):
    migrated.record.unlink()

    report = migrated.run(OLD).report

    assert [each["opencode_version"] for each in report["snapshots"]] == [OLD, ""]
    assert report["refused"] is None


def test_the_last_three_snapshots_are_kept(workspace):
    for minor in range(7):
        KNOWN[f"1.20.{minor}"] = minor + 10
        report = workspace.run(f"1.20.{minor}", session=f"of-{minor}").report

    assert [each["opencode_version"] for each in report["snapshots"]] == ["1.20.3", "1.20.4", "1.20.5"]
    assert names_in(workspace.snapshots) == [each["id"] for each in report["snapshots"]]


def test_the_snapshot_that_a_rollback_over_a_migration_needs_outlives_those_that_none_needs(workspace):
    workspace.run(OLD, session="first")
    for minor in range(6):
        KNOWN[f"1.18.{minor}"] = KNOWN[NEW]
        report = workspace.run(f"1.18.{minor}", migrates=True).report

    kept = [each["opencode_version"] for each in report["snapshots"]]
    assert kept == [OLD, "1.18.2", "1.18.3", "1.18.4"]
    assert workspace.run(OLD).report["restored"]["id"] == report["snapshots"][0]["id"]


def test_no_secret_and_no_byte_of_the_data_is_in_the_report(migrated):
    text = (migrated.allocation / "data/opencode-lifecycle.json").read_text()

    assert "s3cret" not in text
    assert "credential-of-a-provider" not in text
    assert "of-the-old" not in text


def test_a_server_that_names_no_version_runs_and_leaves_the_next_one_in_doubt(workspace):
    workspace.run(NEW, session="first")

    assert workspace.start(command=["true"]).code == 0
    report = workspace.run(OLD).report

    assert report["refused"] is None
    assert [each["opencode_version"] for each in report["snapshots"]] == [""]


def test_without_room_nothing_is_taken_and_nothing_starts(workspace, tmp_path):
    workspace.run(OLD, session="first")

    report = dying(workspace, tmp_path, version=NEW, free=1 << 20)

    assert report["refused"]["code"] == documents.EXIT_DISK_FULL
    assert "MiB" in report["refused"]["reason"]
    assert workspace.run(OLD).report["snapshots"] == []


def test_without_room_nothing_is_restored_and_nothing_is_touched(migrated, tmp_path):
    [receipt] = migrated.report()["snapshots"]
    before, kept = digests(migrated.data), migrated.record.read_bytes()

    report = dying(migrated, tmp_path, version=OLD, restore=receipt["id"], free=1 << 20)

    assert report["refused"]["code"] == documents.EXIT_DISK_FULL
    assert (tmp_path / "trace").read_text() == ""
    assert (digests(migrated.data), migrated.record.read_bytes()) == (before, kept)
