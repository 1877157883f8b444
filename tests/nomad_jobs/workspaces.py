"""A workspace on which versions of OpenCode run one after the other: real processes and databases."""

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
