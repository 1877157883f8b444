"""
Every store suite runs on SQLite, on PostgreSQL and on the store in memory that fast tests stand on.

What is about databases alone, such as what their columns cannot hold, is marked `databases`; a test that asks for a
`database_url` is one of these too.
"""

import inspect
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from database_examples import RELEASE, a_release
from fakes.store import FakeStore
from opencode_lifecycle.adapters.database.database import Database
from postgresql_fixture import migrated_postgresql, migrated_sqlite, postgresql, sqlite_url

__all__ = ["migrated_postgresql", "migrated_sqlite", "postgresql", "sqlite_url"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store_kind" not in metafunc.fixturenames:
        return
    kinds = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]
    needs_url = "database_url" in inspect.signature(metafunc.function).parameters
    if not needs_url and metafunc.definition.get_closest_marker("databases") is None:
        kinds.insert(0, "memory")
    metafunc.parametrize("store_kind", kinds)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, store_kind: str, tmp_path: Path) -> str:
    """Give the URL of a database of its own, with the current schema."""
    if store_kind == "postgresql":
        return request.getfixturevalue("migrated_postgresql").new_database(template="migrated")
    shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "lifecycle.db")
    return f"sqlite:///{tmp_path / 'lifecycle.db'}"


@pytest.fixture
def a_store(request: pytest.FixtureRequest, store_kind: str) -> Database | FakeStore:
    if store_kind == "memory":
        return FakeStore()
    return Database(url=request.getfixturevalue("database_url"))


@pytest.fixture
async def database(a_store: Database | FakeStore) -> AsyncIterator[Database | FakeStore]:
    """Give an open store that knows one release."""
    await a_store.open()
    await a_store.add_release(a_release())
    await a_store.use_release(RELEASE)
    yield a_store
    await a_store.close()
