"""A real PostgreSQL for tests: started once in a session, on a socket of its own, with a fresh database for each test."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pwd import getpwnam

import pytest

from opencode_lifecycle.adapters.database import schema

_HOW_TO_GET_IT = (
    "PostgreSQL's server programs are missing. On Debian and Ubuntu: apt-get install postgresql "
    "(only its programs are used; the service that the package may start is left alone)"
)
_START_SECONDS = 30
_OWNER = "opencode"


@dataclass(slots=True)
class Postgresql:
    """A running server. Everything of it lies in `directory`; its socket does too."""

    programs: Path
    directory: Path
    account: str | None
    """The user it runs as. Its programs refuse to run as root, so then it is an ordinary one."""
    process: "subprocess.Popen[bytes] | None" = None
    _count: "itertools.count[int]" = field(default_factory=itertools.count)

    def url(self, name: str) -> str:
        return f"postgresql+asyncpg://{_OWNER}@/{name}?host={self.directory}"

    def new_database(self, *, template: str = "template0") -> str:
        """Create a database, and return its URL."""
        name = f"test_{next(self._count)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return self.url(name)

    def execute(self, statement: str, *, database: str = "postgres") -> str:
        command = [self.programs / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        command += ["-h", self.directory, "-U", _OWNER, "-d", database, "-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def start(self) -> None:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "100",
            "shared_buffers": "32MB",
            # A zone that is never UTC shows every time that is stored without one.
            "timezone": "Pacific/Chatham",
        }
        command: list[str | Path] = [self.programs / "postgres", "-D", self.directory / "data"]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._as_account())
        ends = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > ends:
                pytest.fail(f"PostgreSQL did not start:\n{(self.directory / 'log').read_text()}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ask it to end. SIGINT ends all sessions in order, SIGQUIT leaves it as a crash would."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(how)
            process.wait(_START_SECONDS)

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def initialize(self) -> None:
        command = [self.programs / "initdb", "-D", self.directory / "data", "-U", _OWNER, "-A", "trust"]
        # A locale that sorts as people do, so that ids are only paged bytewise when their columns say so.
        command += ["-E", "UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, cwd="/", **self._as_account())

    def _answers(self) -> bool:
        command = [self.programs / "pg_isready", "-q", "-h", self.directory, "-U", _OWNER]
        return subprocess.run(command, check=False).returncode == 0

    def _as_account(self) -> dict:
        if self.account is None:
            return {}
        return {"user": self.account, "group": getpwnam(self.account).pw_gid, "extra_groups": []}


def new_postgresql() -> Postgresql:
    """Prepare a server in a directory of its own; the caller starts and stops it and removes the directory."""
    directory = Path(tempfile.mkdtemp(prefix="postgresql-"))
    account = _account() if os.getuid() == 0 else None
    if account is not None:
        os.chown(directory, getpwnam(account).pw_uid, getpwnam(account).pw_gid)
    server = Postgresql(programs=_programs(), directory=directory, account=account)
    server.initialize()
    return server


def _programs() -> Path:
    beside = shutil.which("postgres")
    if beside is not None:
        return Path(beside).resolve().parent
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3])
    )
    if not installed:
        pytest.fail(_HOW_TO_GET_IT)
    return installed[-1].parent


def _account() -> str:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return getpwnam(name).pw_name
    pytest.fail("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


@pytest.fixture(scope="session")
def postgresql(request: pytest.FixtureRequest) -> Postgresql:
    """
    Give the server of this session.

    It is kept with the session and not with the fixture, so that folders which import it share one.
    """
    stash = request.config.stash
    if _SERVER not in stash:
        server = new_postgresql()
        stash[_SERVER] = server
        request.config.add_cleanup(server.remove)
        request.config.add_cleanup(server.stop)
        server.start()
    return stash[_SERVER]


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: Postgresql) -> Postgresql:
    """Give the same server, with a database `migrated` to copy."""
    if not postgresql.execute("SELECT 1 FROM pg_database WHERE datname = 'migrated'"):
        postgresql.execute("CREATE DATABASE migrated")
        schema.upgrade(postgresql.url("migrated"))
    return postgresql


_SERVER: pytest.StashKey[Postgresql] = pytest.StashKey()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a SQLite file with the schema, to copy."""
    path = tmp_path_factory.mktemp("migrated") / "lifecycle.db"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give a database with the schema and nothing in it, once on each system."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "lifecycle.db")
        yield f"sqlite:///{tmp_path / 'lifecycle.db'}"
    else:
        yield request.getfixturevalue("migrated_postgresql").new_database(template="migrated")


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    shutil.copy(migrated_sqlite, tmp_path / "lifecycle.db")
    return f"sqlite:///{tmp_path / 'lifecycle.db'}"
