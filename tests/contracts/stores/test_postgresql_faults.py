"""What a PostgreSQL server and other replicas do to us, and what must hold then."""

import asyncio
import signal

import pytest

from database_examples import ADA, a_release, put
from opencode_lifecycle.adapters.database import schema
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.identifiers import UserId
from postgresql_fixture import new_postgresql


async def opened(url: str, **options) -> Database:
    database = Database(url=url, **options)
    await database.open()
    await database.add_release(a_release())
    return database


@pytest.mark.postgresql
async def test_lost_connections_are_replaced(migrated_postgresql):
    url = migrated_postgresql.new_database(template="migrated")
    database = await opened(url)
    await put(database)
    name = url.split("@/")[1].split("?")[0]

    migrated_postgresql.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )

    assert await database.get(ADA) is not None
    await put(database, "after")
    async with asyncio.timeout(20):
        while (
            migrated_postgresql.execute(
                f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE 'LISTEN%'"
            )
            == "0"
        ):
            await database.wait_for_change(0.1)
    await database.close()


@pytest.mark.postgresql
async def test_a_commit_of_another_replica_ends_a_wait(migrated_postgresql):
    url = migrated_postgresql.new_database(template="migrated")
    database, other = await opened(url), await opened(url)
    seq = await database.latest_change()
    await put(other)

    async with asyncio.timeout(10):
        while not await database.changes_since(seq, limit=10):
            await database.wait_for_change(20, after=seq)
        await put(other, "second")
        await database.wait_for_change(20, after=seq + 1)

    await database.close()
    await other.close()


@pytest.mark.postgresql
async def test_a_server_that_crashes_is_unavailable_and_comes_back_with_all_it_confirmed():
    server = new_postgresql()
    server.start()
    try:
        url = server.url("postgres")
        await asyncio.to_thread(schema.upgrade, url)
        database = await opened(url)
        await put(database, "before")
        await asyncio.to_thread(server.stop, signal.SIGQUIT)

        with pytest.raises(UpstreamUnavailable):
            await database.get(UserId("before"))
        with pytest.raises(UpstreamUnavailable):
            await put(database, "meanwhile")
        with pytest.raises(UpstreamUnavailable):
            await database.ping(Deadline.after(5, "ping"))

        await asyncio.to_thread(server.start)
        assert await database.get(UserId("before")) is not None
        await put(database, "after")
        await database.close()
    finally:
        await asyncio.to_thread(server.stop)
        server.remove()


@pytest.mark.postgresql
async def test_a_writer_that_is_frozen_in_its_turn_does_not_stop_the_others(migrated_postgresql, monkeypatch):
    monkeypatch.setattr("opencode_lifecycle.adapters.database.engine._IDLE_IN_TRANSACTION", "300ms")
    url = migrated_postgresql.new_database(template="migrated")
    frozen, other = await opened(url), await opened(url)
    async with frozen._writing._engine.connect() as connection:
        await connection.exec_driver_sql("SELECT * FROM sequences FOR UPDATE")

        async with asyncio.timeout(10):
            await put(other)
        await connection.invalidate()

    assert await frozen.get(ADA) is not None
    await put(frozen, "later")
    await frozen.close()
    await other.close()


@pytest.mark.postgresql
async def test_a_change_gets_no_number_before_the_one_before_it_is_committed(migrated_postgresql):
    url = migrated_postgresql.new_database(template="migrated")
    name = url.split("@/")[1].split("?")[0]
    waits = (
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock' "
        "AND query LIKE '%sequences%'"
    )
    earlier, database = await opened(url), await opened(url)
    async with earlier._writing._engine.begin() as connection:
        await connection.exec_driver_sql("SELECT * FROM sequences FOR UPDATE")
        later = asyncio.create_task(put(database))
        async with asyncio.timeout(10):
            while await asyncio.to_thread(migrated_postgresql.execute, waits) == "0":
                await database.wait_for_change(0.01)
        await connection.exec_driver_sql("UPDATE sequences SET changes = 41")

    assert (await later).change_seq == 42
    assert await earlier.latest_change() == 42
    await earlier.close()
    await database.close()


@pytest.mark.postgresql
async def test_a_turn_that_is_not_given_up_makes_the_database_unavailable_and_not_the_service_hang(
    migrated_postgresql, monkeypatch
):
    monkeypatch.setattr("opencode_lifecycle.adapters.database.engine._LOCK_TIMEOUT", "100ms")
    url = migrated_postgresql.new_database(template="migrated")
    holder, database = await opened(url), await opened(url)
    async with holder._writing._engine.begin() as connection:
        await connection.exec_driver_sql("SELECT * FROM sequences FOR UPDATE")

        with pytest.raises(UpstreamUnavailable, match="another transaction holds the lock"):
            await put(database)

    await put(database)
    await holder.close()
    await database.close()


@pytest.mark.postgresql
async def test_ids_are_sorted_bytewise_whatever_the_locale_of_the_server(migrated_postgresql):
    collations = migrated_postgresql.execute(
        "SELECT DISTINCT collation_name FROM information_schema.columns "
        "WHERE table_name = 'user_stacks' AND column_name IN ('user_id', 'job_id', 'group')",
        database="migrated",
    )

    assert collations == "C"
