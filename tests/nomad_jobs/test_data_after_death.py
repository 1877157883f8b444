"""The entrypoint is killed at any moment at which it changes the data: the old state or the new one is left, never a half."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nomad_jobs.workspaces import (
    NEW,
    NEWER,
    OLD,
    Workspace,
    digests,
    dying,
    migrations_in,
    names_in,
    sessions_in,
)
from opencode_lifecycle import entrypoint
from opencode_lifecycle.workspace_data import documents, snapshots


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
