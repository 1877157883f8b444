"""What the entrypoint does for the data when another version of OpenCode is to start, shown on real processes and databases."""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opencode_lifecycle import entrypoint, workspace_data
from opencode_lifecycle.workspace_data import documents, snapshots
from opencode_lifecycle.workspace_data.database import migrations_of

HERE = Path(__file__).parent
OLD, SAME, NEW, NEWER = "1.17.0", "1.17.9", "1.18.34", "1.19.0"
KNOWN = {OLD: 3, SAME: 3, NEW: 5, NEWER: 6}
"""How many migrations each version knows."""


class Workspace:
    """A workspace, on which versions of OpenCode run one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "workspace"
        self.data = self.directory / "data/opencode"
        self.snapshots = self.directory / workspace_data.PLACE / snapshots.SNAPSHOTS
        self.record = self.directory / workspace_data.PLACE / workspace_data.RECORD
        self.allocation = directory / "alloc"
        self.secrets = directory / "secrets.env"
        if not self.directory.exists():
            self.directory.mkdir()
            (self.allocation / "data").mkdir(parents=True)
            self.secrets.write_text('OPENCODE_SERVER_PASSWORD="s3cret_of-this-test"\n')

    def run(self, version: str, *, session: str = "", restore: str = "", migrates: bool = False) -> "Start":
        """Let *version* run once, open *session* and be killed. Without one it does nothing, or only *migrates*."""
        command = ["true"]
        if session or migrates:
            command = [sys.executable, str(HERE / "stand_in_opencode.py"), str(KNOWN[version]), session]
        return self.start("--opencode-version", version, "--restore", restore, command=command)

    def start(self, *options: str, command: list[str]) -> "Start":
        answer = subprocess.run(
            [
                *(sys.executable, "-I", "-S", entrypoint.__file__, "--workspace", str(self.directory)),
                *("--secrets", str(self.secrets), *options, "--", *command),
            ],
            env={
                "PATH": os.environ["PATH"],
                "XDG_DATA_HOME": str(self.directory / "data"),
                "NOMAD_ALLOC_DIR": str(self.allocation),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in answer.stderr, answer.stderr
        return Start(answer.returncode, answer.stderr, self.report())

    def write(self, *statements: str) -> None:
        """Have something written to the database while nothing runs."""
        connection = sqlite3.connect(self.data / "opencode.db")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.allocation / "data/opencode-lifecycle.json").read_text())
        return found

    def sessions(self) -> set[str]:
        return sessions_in(self.data)

    def copy(self, to: Path) -> "Workspace":
        shutil.copytree(self.directory.parent, to, dirs_exist_ok=True)
        return Workspace(to)


class Start:
    def __init__(self, code: int, said: str, report: dict[str, Any]) -> None:
        self.code = code
        self.said = said
        self.report = report

    @property
    def was_refused(self) -> bool:
        return self.code == documents.EXIT_DATA


def sessions_in(directory: Path) -> set[str]:
    """Read what a copy of the database says, so that looking at it changes nothing."""
    place = directory.parent / f"look-{directory.name}"
    shutil.copytree(directory, place)
    try:
        connection = sqlite3.connect(place / "opencode.db")
        try:
            return {row[0] for row in connection.execute("SELECT id FROM session")}
        finally:
            connection.close()
    finally:
        shutil.rmtree(place)


def names_in(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def migrations_in(directory: Path) -> dict[str, Any] | None:
    return migrations_of(str(directory / "opencode.db"))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def migrated(workspace) -> Workspace:
    """A workspace that the old version and then the new one ran on."""
    workspace.run(OLD, session="of-the-old")
    workspace.run(NEW, session="of-the-new")
    return workspace


@pytest.fixture
def untouched(workspace) -> Workspace:
    """A workspace whose data the new version has migrated, and nobody has written to since."""
    workspace.run(OLD, session="of-the-old")
    workspace.run(NEW, migrates=True)
    return workspace


# --- snapshots


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


# --- a version that is older than the data


def test_a_version_that_is_older_than_the_data_is_refused(migrated):
    before = digests(migrated.data)

    start = migrated.run(OLD, session="never")

    assert start.code == documents.EXIT_DATA
    assert start.report["refused"]["code"] == documents.EXIT_DATA
    assert start.report["refused"]["reason"] in start.said
    assert len(start.said.splitlines()) == 1
    assert OLD in start.said
    assert NEW in start.said
    assert digests(migrated.data) == before


def test_what_was_refused_changes_nothing_for_the_version_that_ran(migrated):
    migrated.run(OLD)

    start = migrated.run(NEW, session="on")

    assert start.report["refused"] is None
    assert migrated.sessions() == {"of-the-old", "of-the-new", "on"}


def test_an_older_version_that_makes_the_same_of_the_database_is_started(workspace):
    workspace.run(OLD, session="first")
    workspace.run(SAME, session="second")

    start = workspace.run(OLD, session="third")

    assert start.report["refused"] is None
    assert workspace.sessions() == {"first", "second", "third"}


def test_an_older_version_is_started_when_the_newer_one_never_came_to_migrate(workspace):
    workspace.run(OLD, session="first")
    workspace.run(NEW)

    assert workspace.run(OLD, session="second").report["refused"] is None
    assert workspace.sessions() == {"first", "second"}


def test_an_older_version_that_never_ran_here_is_refused(workspace):
    workspace.run(NEW, session="first")

    assert workspace.run(OLD).was_refused


# --- going back where nothing was written since


def test_the_data_goes_back_with_its_version_where_nothing_was_written_since(untouched):
    [receipt] = untouched.report()["snapshots"]

    start = untouched.run(OLD, session="after")

    assert start.report["refused"] is None
    assert start.report["restored"]["id"] == receipt["id"]
    assert migrations_in(untouched.data) == {"count": 3, "last": "20260003_step"}
    assert untouched.sessions() == {"of-the-old", "after"}


def test_a_version_that_came_in_between_changes_nothing_about_that(untouched):
    untouched.run(NEWER, migrates=True)

    report = untouched.run(OLD).report

    assert report["restored"]["id"] == report["snapshots"][0]["id"]


def test_what_was_written_since_keeps_the_older_version_out_and_is_counted(untouched):
    untouched.run(NEW, session="went on")
    (untouched.data / "auth.json").write_text('{"3": "credential-of-a-provider"}')
    before = digests(untouched.data)

    start = untouched.run(OLD)

    refused = start.report["refused"]
    assert start.was_refused
    assert {name: refused["written"][name] for name in ("sessions", "messages", "other")} == {
        "sessions": 1,
        "messages": 2,
        "other": 0,
    }
    assert refused["written"]["since"] in refused["reason"]
    assert "1 session, 2 messages" in refused["reason"]
    assert digests(untouched.data) == before


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE session SET title = 'Renamed'",
        "DELETE FROM session",
        "UPDATE message SET data = '{1}' WHERE id = 'of-the-old-1'",
        "DELETE FROM part WHERE id = 'of-the-old-1'",
        "UPDATE project SET name = 'Mine'",
        "CREATE TABLE credential AS SELECT 1 AS id",
    ],
)
def test_each_change_that_a_user_makes_counts_as_a_write(untouched, write):
    untouched.write(write)

    assert untouched.run(OLD).was_refused


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE project SET time_updated = time_updated + 1",
        "INSERT INTO project VALUES ('another', NULL, 5)",
        "ALTER TABLE session ADD COLUMN cost REAL DEFAULT 1.5",
        "CREATE TABLE credential (id TEXT PRIMARY KEY)",
        "INSERT INTO session VALUES ('ses_1', 'opencode-lifecycle: does it answer?', 5, 5)",
    ],
)
def test_what_opencode_and_we_write_by_ourselves_counts_for_nothing(untouched, write):
    untouched.write(write)

    assert untouched.run(OLD).report["refused"] is None


def test_a_login_since_counts_as_a_write(untouched):
    (untouched.data / "auth.json").write_text('{"3": "another-credential"}')

    assert untouched.run(OLD).report["refused"]["written"]["other"] == 1


@pytest.mark.parametrize("write", ["DROP TABLE part", "ALTER TABLE session RENAME TO conversation"])
def test_data_of_which_nothing_can_be_told_stays_where_it_is(untouched, write):
    untouched.write(write)

    start = untouched.run(OLD)

    assert start.was_refused
    assert "cannot be told" in start.said


def test_looking_for_what_was_written_leaves_nothing_beside_the_snapshot(untouched):
    untouched.run(NEW, session="went on")
    [receipt] = untouched.report()["snapshots"]
    kept = names_in(untouched.snapshots / receipt["id"])

    untouched.run(OLD)

    assert names_in(untouched.snapshots / receipt["id"]) == kept


def test_a_name_that_was_used_up_does_not_keep_newer_data_from_going_back(untouched):
    first = untouched.report()["snapshots"][0]["id"]
    untouched.run(OLD, session="after", restore=first)
    untouched.run(NEW, migrates=True)

    untouched.run(OLD, session="once more", restore=first)

    assert untouched.sessions() == {"of-the-old", "after", "once more"}


def test_what_was_set_aside_comes_back_with_its_version_when_the_older_one_is_given_up(migrated):
    [receipt] = migrated.report()["snapshots"]
    aside = migrated.run(OLD, restore=receipt["id"]).report["restored"]["set_aside"]

    report = migrated.run(NEW, session="on", restore=aside).report

    assert report["restored"]["id"] == aside
    assert migrated.sessions() == {"of-the-old", "of-the-new", "on"}


def test_what_was_set_aside_long_ago_is_not_brought_back_by_an_old_text_of_the_job(migrated):
    [receipt] = migrated.report()["snapshots"]
    aside = migrated.run(OLD, restore=receipt["id"]).report["restored"]["set_aside"]
    migrated.run(SAME, session="of-the-old")
    migrated.run(OLD, session="later")

    migrated.run(NEW, session="on", restore=aside)

    assert migrated.sessions() == {"of-the-old", "later", "on"}


# --- restoring


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


# --- death in the middle


def dying(
    workspace: Workspace,
    place: Path,
    *,
    version: str,
    restore: str = "",
    moment: int = 10**6,
    free: int | None = None,
) -> dict[str, Any]:
    """Prepare the data, dying at *moment*; return the report, or nothing when it died."""
    answer = subprocess.run(
        [
            *(sys.executable, "-I", str(HERE / "dying_at.py"), str(moment), str(place / "trace")),
            *(str(workspace.directory), version, restore),
            *(() if free is None else (str(free),)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode in {0, -signal.SIGKILL}, answer.stderr
    return dict(json.loads(answer.stdout)) if answer.returncode == 0 else {}


def digests(directory: Path) -> dict[str, str]:
    """Return the digest of every file that belongs to the data. What SQLite makes anew by reading is none."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in directory.iterdir()
        if workspace_data.DATA.fullmatch(file.name)
    }


def whole_snapshots(workspace: Workspace) -> list[Path]:
    """Return the snapshots that count, each held against its receipt."""
    found = [each for each in workspace.snapshots.glob("*") if documents.ID.fullmatch(each.name)]
    for each in found:
        receipt = json.loads((each / snapshots.RECEIPT).read_text())
        assert digests(each) == {file["path"]: file["sha256"] for file in receipt["files"]}
    return found


def moments_of(workspace: Workspace, tmp_path: Path, **how: Any) -> int:
    trial = workspace.copy(tmp_path / "count")
    assert dying(trial, tmp_path, **how)["refused"] is None
    return len((tmp_path / "trace").read_text().splitlines())


@pytest.mark.timeout(120)
def test_a_kill_at_any_moment_of_a_snapshot_leaves_nothing_that_counts_by_half(tmp_path):
    (tmp_path / "before").mkdir()
    before = Workspace(tmp_path / "before")
    before.run(OLD, session="of-the-old")
    data = digests(before.data)
    moments = moments_of(before, tmp_path, version=NEW)
    assert moments > 10

    for moment in range(moments):
        workspace = before.copy(tmp_path / f"at-{moment}")
        assert dying(workspace, tmp_path, version=NEW, moment=moment) == {}

        assert all(digests(each) == data for each in whole_snapshots(workspace))
        assert digests(workspace.data) == data
        start = workspace.run(NEW, session="of-the-new")
        assert start.report["refused"] is None
        assert sessions_in(workspace.snapshots / start.report["snapshot_taken"]) == {"of-the-old"}
        assert not [name for name in names_in(workspace.snapshots) if name.startswith(".")]


@pytest.mark.timeout(120)
def test_a_kill_at_any_moment_of_a_restore_loses_neither_the_old_data_nor_the_new(tmp_path):
    (tmp_path / "before").mkdir()
    before = Workspace(tmp_path / "before")
    before.run(OLD, session="of-the-old")
    before.run(NEW, session="of-the-new")
    [receipt] = before.report()["snapshots"]
    moments = moments_of(before, tmp_path, version=OLD, restore=receipt["id"])
    assert moments > 20

    for moment in range(moments):
        workspace = before.copy(tmp_path / f"at-{moment}")
        assert dying(workspace, tmp_path, version=OLD, restore=receipt["id"], moment=moment) == {}

        whole_snapshots(workspace)
        report = workspace.run(OLD, session="after", restore=receipt["id"]).report
        assert report["refused"] is None
        assert workspace.sessions() == {"of-the-old", "after"}
        assert sessions_in(workspace.snapshots / report["restored"]["set_aside"]) == {
            "of-the-old",
            "of-the-new",
        }


@pytest.mark.timeout(120)
def test_a_kill_at_any_moment_of_going_back_leaves_the_old_state_or_the_new(tmp_path):
    (tmp_path / "before").mkdir()
    before = Workspace(tmp_path / "before")
    before.run(OLD, session="of-the-old")
    before.run(NEW, migrates=True)
    moments = moments_of(before, tmp_path, version=OLD)
    assert moments > 20

    for moment in range(moments):
        workspace = before.copy(tmp_path / f"at-{moment}")
        assert dying(workspace, tmp_path, version=OLD, moment=moment) == {}

        whole_snapshots(workspace)
        # Whichever starts next: the newer one has lost nothing, and the older one gets what it left.
        version = (OLD, NEW)[moment % 2]
        report = workspace.run(version, session="after").report
        assert report["refused"] is None
        assert workspace.sessions() == {"of-the-old", "after"}


def test_no_other_server_gets_the_workspace_while_its_data_is_put_back(untouched, tmp_path):
    going = tmp_path / "going"
    os.mkfifo(going)
    script = (
        f"import sys; sys.path.insert(0, {str(Path(entrypoint.__file__).parent)!r})\n"
        "import entrypoint, workspace_data\n"
        "ready = workspace_data.prepare\n"
        f"workspace_data.prepare = lambda *all: (open({str(going)!r}).read(), ready(*all))[1]\n"
        "sys.exit(entrypoint.main())"
    )
    command = [sys.executable, "-I", "-S", "-c", script, "--workspace", str(untouched.directory)]
    command += ["--secrets", str(untouched.secrets), "--opencode-version", OLD, "--", "true"]
    first = subprocess.Popen(
        command, env={"XDG_DATA_HOME": str(untouched.directory / "data"), "PATH": "/bin"}
    )
    try:
        with going.open("w"):  # opens when the first one is there
            second = untouched.run(OLD)
        assert first.wait(20) == 0
    finally:
        first.kill()

    assert second.code == entrypoint.EXIT_IN_USE
    assert migrations_in(untouched.data) == {"count": 3, "last": "20260003_step"}


def test_a_restore_that_was_begun_is_ended_before_any_other_version_starts(migrated, tmp_path):
    receipt = begun_restore(migrated, tmp_path)

    report = migrated.run(NEW, session="forward").report

    assert report["restored"]["id"] == receipt["id"]
    assert migrated.sessions() == {"of-the-old", "forward"}


def test_what_was_set_aside_comes_back_when_a_restore_cannot_be_ended(migrated, tmp_path):
    receipt = begun_restore(migrated, tmp_path)
    (migrated.snapshots / receipt["id"] / "opencode.db").unlink()

    start = migrated.run(OLD, restore=receipt["id"])

    assert start.was_refused
    assert start.report["restored"] is None
    assert migrated.run(NEW, session="on").report["refused"] is None
    assert migrated.sessions() == {"of-the-old", "of-the-new", "on"}


def begun_restore(migrated: Workspace, tmp_path: Path) -> dict[str, Any]:
    """Die when a first file of the newer data is gone; return the receipt of what was being restored."""
    [receipt] = migrated.report()["snapshots"]
    how = {"version": OLD, "restore": receipt["id"]}
    moments_of(migrated, tmp_path, **how)
    lines = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    first = next(moment for moment, line in enumerate(lines) if line[0] == "unlink")
    dying(migrated, tmp_path, **how, moment=first + 1)
    return dict(receipt)


@pytest.mark.parametrize("what", ["snapshot", "restore"])
def test_whatever_gets_its_name_is_on_disk_already(migrated, tmp_path, what):
    """Held by the order of the calls: a power cut leaves of a file that was not synced what it will."""
    [receipt] = migrated.report()["snapshots"]
    how = {"version": NEWER} if what == "snapshot" else {"version": OLD, "restore": receipt["id"]}

    assert dying(migrated, tmp_path, **how)["refused"] is None

    dirty: set[str] = set()
    unsettled: set[str] = set()
    renamed = 0
    for name, *paths in map(json.loads, (tmp_path / "trace").read_text().splitlines()):
        if name == "write":
            dirty.add(paths[0])
        elif name == "fsync":
            dirty.discard(paths[0])
            unsettled.discard(paths[0])
        elif name == "rename" and not paths[1].endswith(".pruned"):
            renamed += 1
            assert not [path for path in dirty if path == paths[0] or path.startswith(f"{paths[0]}/")]
            assert paths[0] not in unsettled
            unsettled.add(os.path.dirname(paths[1]))  # noqa: PTH120
    assert renamed >= 3
    assert not dirty
    assert not unsettled
