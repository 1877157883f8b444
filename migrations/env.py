"""
What Alembic runs to get from one revision to another.

The service calls it with a connection of its own (see `adapters/database/schema.py`). To write a new revision:

    alembic -c migrations/alembic.ini -x url=sqlite:///scratch.db revision --autogenerate -m "say why"
"""

import asyncio

from alembic import context
from sqlalchemy import URL, Connection, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from opencode_lifecycle.adapters.database.engine import is_sqlite, parse_url
from opencode_lifecycle.adapters.database.tables import metadata


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def migrate_by_hand(url: URL) -> None:
    if not is_sqlite(url):
        asyncio.run(migrate_postgresql(url))
        return
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            migrate(connection)
    finally:
        engine.dispose()


async def migrate_postgresql(url: URL) -> None:
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


given = context.config.attributes.get("connection")
if given is None:
    migrate_by_hand(parse_url(context.get_x_argument(as_dictionary=True)["url"]))
else:
    migrate(given)
