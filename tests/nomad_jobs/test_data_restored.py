"""A snapshot that is put back: which, when, and what becomes of what it replaces."""

import hashlib
import json
import os

import pytest

from nomad_jobs.workspaces import KNOWN, NEW, NEWER, OLD, SAME, digests, migrations_in, sessions_in
from opencode_lifecycle.workspace_data import snapshots


def test_rollback_restores_the_pair_of_version_and_data(migrated):
    [receipt] = migrated.report()["snapshots"]

    start = migrated.run(OLD, session="after", restore=receipt["id"])

    assert start.report["refused"] is None
    assert start.report["restored"]["id"] == receipt["id"]
    assert migrated.sessions() == {"of-the-old", "after"}
    assert migrations_in(migrated.data) == {"count": 3, "last": "20260003_step"}
    assert (migrated.data / "auth.json").read_text() == '{"3": "credential-of-a-provider"}'


def test_what_a_restore_replaces_is_set_aside_as_a_snapshot_itself(migrated):
    [receipt] = migrated.report()["snapshots"]

    report = migrated.run(OLD, restore=receipt["id"]).report

    aside = report["snapshots"][-1]
    assert report["restored"]["set_aside"] == aside["id"]
    assert aside["opencode_version"] == NEW
    assert sessions_in(migrated.snapshots / aside["id"]) == {"of-the-old", "of-the-new"}


def test_what_was_set_aside_is_kept_as_long_as_nothing_else_is_restored(migrated):
    [receipt] = migrated.report()["snapshots"]
    aside = migrated.run(OLD, restore=receipt["id"]).report["restored"]["set_aside"]

    for minor in range(5):
        KNOWN[f"1.21.{minor}"] = minor + 10
        report = migrated.run(f"1.21.{minor}", session=f"of-{minor}").report

    assert aside in [each["id"] for each in report["snapshots"]]
    assert sessions_in(migrated.snapshots / aside) == {"of-the-old", "of-the-new"}


def test_a_restore_is_not_done_again_when_the_task_restarts(migrated):
    [receipt] = migrated.report()["snapshots"]
    migrated.run(OLD, session="after", restore=receipt["id"])

    again = [migrated.run(OLD, session=f"again-{n}", restore=receipt["id"]).report for n in range(2)]

    assert migrated.sessions() == {"of-the-old", "after", "again-0", "again-1"}
    assert [report["restored"]["id"] for report in again] == [receipt["id"]] * 2


def test_an_old_text_of_the_job_does_not_restore_what_was_restored_before(migrated):
    [receipt] = migrated.report()["snapshots"]
    migrated.run(OLD, session="after", restore=receipt["id"])
    migrated.run(NEW, session="forward", restore=receipt["id"])

    start = migrated.run(OLD, session="never", restore=receipt["id"])

    assert start.was_refused
    assert "already" in start.said
    assert migrated.sessions() == {"of-the-old", "after", "forward"}


def test_nothing_is_restored_when_the_data_is_not_newer(workspace):
    workspace.run(OLD, session="first")
    workspace.run(SAME, session="second")
    [receipt] = workspace.report()["snapshots"]

    report = workspace.run(OLD, session="third", restore=receipt["id"]).report

    assert report["restored"] is None
    assert workspace.sessions() == {"first", "second", "third"}


def test_a_snapshot_of_another_version_is_not_restored(migrated):
    [receipt] = migrated.report()["snapshots"]

    start = migrated.run(SAME, restore=receipt["id"])

    assert start.was_refused
    assert OLD in start.said


@pytest.mark.parametrize("snapshot", ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "../../../etc", "x" * 5000, "é\n"])
def test_a_snapshot_that_is_not_there_is_said(migrated, snapshot):
    start = migrated.run(OLD, restore=snapshot)

    assert start.was_refused
    assert len(start.said.splitlines()) == 1
    assert len(start.said) < 300


@pytest.mark.parametrize("file", ["opencode.db", "auth.json", snapshots.RECEIPT])
def test_a_damaged_snapshot_is_not_restored(migrated, file):
    [receipt] = migrated.report()["snapshots"]
    damaged = migrated.snapshots / receipt["id"] / file
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = digests(migrated.data)

    assert migrated.run(OLD, restore=receipt["id"]).was_refused
    assert digests(migrated.data) == before
    assert migrated.run(NEW).report["refused"] is None


def test_the_snapshot_that_is_restored_outlives_those_that_are_newer(workspace):
    workspace.run(OLD, session="first")
    for version in (NEW, NEWER, "1.20.0"):
        KNOWN.setdefault(version, 10)
        workspace.run(version, session=version)
    oldest = workspace.report()["snapshots"][0]

    report = workspace.run(OLD, restore=oldest["id"]).report

    assert oldest["id"] in [each["id"] for each in report["snapshots"]]
    assert workspace.sessions() == {"first"}


def test_a_snapshot_that_the_agent_planted_leads_nowhere(migrated, tmp_path):
    [receipt] = migrated.report()["snapshots"]
    secret = tmp_path / "of-the-host"
    secret.write_text("x")
    planted = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    place = migrated.snapshots / planted
    place.mkdir()
    (place / "opencode.db").symlink_to(secret)
    for path in ("../../../../of-the-host", "opencode.db"):
        line = {"path": path, "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
        (place / snapshots.RECEIPT).write_text(json.dumps({**receipt, "id": planted, "files": [line]}))

        assert migrated.run(OLD, restore=planted).was_refused


@pytest.mark.parametrize(
    "place",
    [
        "workspace/.opencode-lifecycle/data.json",
        "workspace/.opencode-lifecycle/data.json.new",
        "alloc/data/opencode-lifecycle.json.new",
        "alloc/data/opencode-lifecycle.json",
    ],
)
def test_a_pipe_that_the_agent_planted_holds_nothing_up(migrated, tmp_path, place):
    pipe = tmp_path / place
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)

    migrated.run(NEWER)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"last": 5, "migrations": [], "restored": "x", "before": {}, "restoring": "../x"}',
        b'{"last": "9.9.9.9", "migrations": {"1.17.0": 3, "x": {}}, "restored": {"id": 1}}',
    ],
)
def test_a_record_that_is_none_of_ours_is_taken_for_none(migrated, record):
    migrated.record.write_bytes(record)

    report = migrated.run(NEWER, session="on").report

    assert report["refused"] is None
    assert [each["opencode_version"] for each in report["snapshots"]] == [OLD, ""]
