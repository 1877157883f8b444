"""Every store suite runs on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

from database_examples import RELEASE, a_release
from opencode_lifecycle.adapters.database.database import Database
from postgresql_fixture import database_url, migrated_postgresql, migrated_sqlite, postgresql, sqlite_url

__all__ = ["database_url", "migrated_postgresql", "migrated_sqlite", "postgresql", "sqlite_url"]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give an open database that knows one release."""
    database = Database(url=database_url)
    await database.open()
    await database.add_release(a_release())
    await database.use_release(RELEASE)
    yield database
    await database.close()
