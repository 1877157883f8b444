"""Where the files of one embedded cluster lie."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SERVERS: Final = ("consul", "vault", "nomad", "service")
"""In the order in which they start. They stop in the opposite order."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths inside the cluster's own directory, whose mode is 0700."""

    root: Path

    @property
    def record(self) -> Path:
        """Ports, identity and options: chosen once, kept for the life of the data."""
        return self.root / "cluster.json"

    @property
    def secrets(self) -> Path:
        """Management tokens. Who reads this file owns the cluster."""
        return self.root / "secrets.json"

    @property
    def vault_keys(self) -> Path:
        """Unseal key and root token of Vault."""
        return self.root / "vault" / "keys.json"

    @property
    def state(self) -> Path:
        """What the supervisor last knew: processes and progress."""
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        return self.root / "supervisor.lock"

    @property
    def change_lock(self) -> Path:
        """Held by whoever is about to start or stop the supervisor."""
        return self.root / "change.lock"

    @property
    def environment(self) -> Path:
        return self.root / "env"

    @property
    def settings(self) -> Path:
        return self.root / "settings.toml"

    @property
    def tokens(self) -> Path:
        """One file for each role's API token."""
        return self.root / "tokens"

    @property
    def workspaces(self) -> Path:
        return self.root / "workspaces"

    @property
    def supervisor_log(self) -> Path:
        return self.root / "supervisor" / "log"

    def folder(self, server: str) -> Path:
        return self.root / server

    def log(self, server: str) -> Path:
        return self.root / server / "log"

    def configuration(self, server: str) -> Path:
        return self.root / server / f"{server}.json"

    def data(self, server: str) -> Path:
        return self.root / server / "data"

    def token(self, server: str) -> Path:
        """The service's own token for *server*."""
        return self.root / "service" / f"{server}.token"

    def held(self, server: str) -> Path:
        """While this file exists the supervisor leaves *server* down."""
        return self.root / "supervisor" / f"{server}.held"

    def prepare(self) -> None:
        """Create the directories, readable by their owner alone. Safe to repeat."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        folders = [self.folder(server) for server in (*SERVERS, "supervisor", "tokens", "workspaces")]
        for folder in (*folders, *(self.data(server) for server in ("consul", "vault", "nomad"))):
            folder.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Replace *path* in one step by a file that only its owner can read, on disk before the name points to it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_private(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in *path*, or None where there is no such file."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return value if isinstance(value, dict) else None
