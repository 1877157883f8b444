"""What a database does to us, and what must hold then."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from database_examples import ADA, a_release, a_stack, an_event, inserting, put
from opencode_lifecycle.adapters.database import engine, schema
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.adapters.database.engine import SqliteReading
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import InvalidSettings, UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import UserId

TESTS = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.databases


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def integrity_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]


async def opened(url: str, **options) -> Database:
    database = Database(url=url, **options)
    await database.open()
    await database.add_release(a_release())
    return database


WRITER = """
import asyncio, sys
from database_examples import a_stack, inserting
from opencode_lifecycle.adapters.database.database import Database

async def main():
    database = Database(url=sys.argv[1])
    await database.open()
    async def write(worker):
        for number in range(100000):
            stack = a_stack(f"w{worker}-{number}")
            await database.decide(stack.user_id, inserting(stack))
            print(stack.user_id, flush=True)
    await asyncio.gather(*(write(worker) for worker in range(8)))

asyncio.run(main())
"""


def start_writer(url: str) -> "subprocess.Popen[str]":
    """Start a process that writes without end, and prints who was decided about after each commit."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", WRITER, url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("after", [1, 50, 300])
async def test_no_committed_decision_is_lost_when_the_process_is_killed_while_it_writes(
    database, database_url, after
):
    writer = start_writer(database_url)
    told = [await asyncio.to_thread(writer.stdout.readline) for _ in range(after)]
    writer.send_signal(signal.SIGKILL)
    told += await asyncio.to_thread(writer.stdout.readlines)
    writer.wait()
    writer.stdout.close()

    survivors = Database(url=database_url)
    await survivors.open()
    for line in told:
        if line.endswith("\n"):
            stack = await survivors.get(UserId(line.strip()))
            assert stack is not None
            assert await survivors.get_operation(stack.intent.last_operation) is not None
    await put(survivors, "afterwards")
    await survivors.close()
    if database_url.startswith("sqlite"):
        assert integrity_of(file_of(database_url)) == "ok"


async def test_a_full_disk_is_said_clearly_and_writing_goes_on_when_there_is_room(sqlite_url):
    """A page limit makes SQLite fail just as a full file system does: SQLITE_FULL, in the middle of a transaction."""
    database = await opened(sqlite_url)
    await put(database, "before")
    await limit_pages(database, 1)
    filler = [an_event(text="x" * 100_000)]

    with pytest.raises(UpstreamUnavailable) as raised:
        await database.append(filler)
    assert (raised.value.system, raised.value.detail) == ("database", "the disk is full")
    assert await database.get(UserId("before")) is not None

    await limit_pages(database, 2**30)
    await database.append(filler)
    await put(database, "after")
    await database.close()
    assert integrity_of(file_of(sqlite_url)) == "ok"


async def limit_pages(database: Database, pages: int) -> None:
    def limit(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    await database._writing.transact(limit)


@pytest.fixture
def small_disk(tmp_path: Path):
    """Give a file system of a few megabytes. Only root can mount one."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small file system; the page limit above shows the same everywhere")
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


async def fill(database: Database, kept: list[UserId]) -> None:
    for number in range(2000):
        stack = a_stack(f"u{number}", labels={"filler": "x" * 2000})
        await database.decide(stack.user_id, inserting(stack))
        kept.append(stack.user_id)


async def test_a_full_file_system_is_survived(small_disk):
    url = f"sqlite:///{small_disk / 'lifecycle.db'}"
    await asyncio.to_thread(schema.upgrade, url)
    database = await opened(url)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (3 * 1024 * 1024))

    kept = []
    with pytest.raises(UpstreamUnavailable, match="disk"):
        await fill(database, kept)

    ballast.unlink()
    await put(database, "after")
    for user_id in [*kept, UserId("after")]:
        assert await database.get(user_id) is not None
    await database.close()
    assert integrity_of(small_disk / "lifecycle.db") == "ok"


async def test_a_database_that_another_process_holds_is_unavailable_until_it_lets_go(sqlite_url, monkeypatch):
    monkeypatch.setattr("opencode_lifecycle.adapters.database.engine.BUSY_TIMEOUT_SECONDS", 0.05)
    database = await opened(sqlite_url)
    with closing(sqlite3.connect(file_of(sqlite_url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(UpstreamUnavailable, match="another process holds the database"):
            await put(database)
        assert await database.get(ADA) is None
        other.execute("ROLLBACK")

    await put(database)
    await database.close()


async def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path):
    path = tmp_path / "lifecycle.db"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    database = Database(url=f"sqlite:///{path}")
    await database.open()

    with pytest.raises(UpstreamUnavailable, match="not a database"):
        await database.get(ADA)
    await database.close()


async def test_a_database_without_a_schema_is_no_passing_trouble(tmp_path):
    database = Database(url=f"sqlite:///{tmp_path / 'lifecycle.db'}")
    await database.open()

    with pytest.raises(UpstreamRejected, match="the schema is not the one this version needs"):
        await database.get(ADA)
    with pytest.raises(UpstreamRejected, match="the schema is not the one this version needs"):
        await put(database)
    await database.close()


async def test_a_second_process_may_not_serve_on_the_same_file(sqlite_url):
    first = await opened(sqlite_url, exclusive=True)
    second = Database(url=sqlite_url, exclusive=True)

    with pytest.raises(InvalidSettings, match=rf"process {os.getpid()} serves on"):
        await second.open()

    await second.close()
    await first.close()
    third = await opened(sqlite_url, exclusive=True)
    await third.close()


async def test_the_lock_of_a_process_that_died_is_free(sqlite_url):
    code = (
        "import asyncio, os, sys\n"
        "from opencode_lifecycle.adapters.database.database import Database\n"
        "async def main():\n"
        "    await Database(url=sys.argv[1], exclusive=True).open()\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    died = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, sqlite_url], check=False)
    assert died.returncode == -signal.SIGKILL

    database = await opened(sqlite_url, exclusive=True)
    await database.close()


async def test_a_short_write_needs_no_lock_of_its_own(sqlite_url):
    serving = await opened(sqlite_url, exclusive=True)
    short = await opened(sqlite_url)

    await put(short)
    assert await serving.get(ADA) is not None

    await short.close()
    await serving.close()


async def test_the_database_file_can_be_read_by_its_owner_alone(sqlite_url, tmp_path):
    url = f"sqlite:///{tmp_path / 'new' / 'lifecycle.db'}"
    await asyncio.to_thread(schema.upgrade, url)
    database = await opened(url)

    files = sorted((tmp_path / "new").iterdir())
    assert {f"{path.name} {path.stat().st_mode & 0o077:o}" for path in files} >= {
        "lifecycle.db 0",
        "lifecycle.db-wal 0",
        "lifecycle.db-shm 0",
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    await database.close()


async def test_sqlite_is_set_up_so_that_a_committed_write_survives_a_power_cut(sqlite_url):
    database = await opened(sqlite_url)

    def settings_of(connection: Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}

    settings = await database._writing.transact(settings_of)

    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    await database.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://root@x/y", "nonsense"])
def test_a_url_that_cannot_serve_is_refused_without_being_shown(url):
    with pytest.raises(InvalidSettings) as raised:
        Database(url=url)

    assert "root" not in str(raised.value)


async def test_a_ping_tells_whether_the_database_answers(database):
    await database.ping(Deadline.after(5, "ping"))


async def test_a_database_that_is_closed_says_so(database_url):
    database = Database(url=database_url)

    with pytest.raises(UpstreamUnavailable, match="not open"):
        await put(database)
    await database.close()


async def test_closing_commits_what_was_handed_over(database_url):
    database = await opened(database_url)
    writes = [asyncio.create_task(put(database, f"u{number}")) for number in range(20)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*writes)

    again = await opened(database_url)
    assert all([await again.get(UserId(f"u{number}")) for number in range(20)])
    await again.close()


async def test_a_write_goes_on_when_its_caller_is_cancelled(database):
    write = asyncio.create_task(put(database))
    await asyncio.sleep(0)
    others = asyncio.create_task(put(database, "other"))
    write.cancel()
    await others

    stored = await database.get(ADA)
    assert stored is None or stored.intent.last_operation is not None


async def test_reading_needs_one_statement_and_an_idle_database_none(database):
    await put(database)
    await database.get(ADA)
    before = database.statements
    await database.get(ADA)
    assert database.statements == before + 1

    before = database.statements
    await database.wait_for_change(0.01)
    assert database.statements == before


async def test_a_row_that_cannot_be_read_holds_nobody_in_the_past(sqlite_url):
    database = await opened(sqlite_url)
    for user in ("ada", "bob"):
        await put(database, a_stack(user))
    with closing(sqlite3.connect(file_of(sqlite_url))) as connection:
        connection.execute("UPDATE user_stacks SET created_at = 'long ago' WHERE user_id = 'ada'")
        connection.commit()
    failures = []
    for _ in range(4):
        with pytest.raises(ValueError, match="long ago") as caught:
            await database.changes_since(0, limit=10)
        failures.append(caught)

    await put(database, a_stack("cyd"))
    seen = await asyncio.gather(*(database.get(UserId("cyd")) for _ in range(4)))

    assert len(failures) == 4
    assert None not in seen
    await database.close()


async def test_a_read_that_finds_all_readers_busy_is_refused_after_a_while(sqlite_url, monkeypatch):
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0.05)
    database = await opened(sqlite_url)
    go_on = threading.Event()
    original = SqliteReading._rows

    def slowly(self, statement, values):
        go_on.wait()
        return original(self, statement, values)

    monkeypatch.setattr(SqliteReading, "_rows", slowly)
    busy = [asyncio.create_task(database.get(ADA)) for _ in range(4)]
    await asyncio.sleep(0)
    for task in busy[:2]:
        task.cancel()

    try:
        with pytest.raises(UpstreamUnavailable, match="all connections are in use"):
            async with asyncio.timeout(10):
                await database.get(ADA)
    finally:
        go_on.set()
    await asyncio.gather(*busy, return_exceptions=True)

    assert await database.get(ADA) is None
    await database.close()


async def test_errors_show_no_values(database):
    planted = "planted-value-that-no-error-may-show"
    event = an_event(text=planted)
    await database.append([event])

    with pytest.raises(Exception, match="append") as raised:
        await database.append([event])

    assert planted not in "".join(traceback.format_exception(raised.value))
