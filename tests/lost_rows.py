"""Stacks whose rows are lost behind everybody's back, as by a backup that is restored, and who finds what is left of them."""

import sqlite3
from datetime import UTC, datetime, timedelta

from opencode_lifecycle.lifecycle.orphans.judgement import OrphanLimits
from opencode_lifecycle.model.identifiers import UserId
from world import ADA, World

HASTY = OrphanLimits(confirmations=2, grace=timedelta(0), apart=timedelta(0), clocks_apart=timedelta(0))


async def first_sweep(world: World) -> None:
    """Wait until the comparison of the start has ended, which would count, too."""
    await world.until(lambda: world.plane._orphans.pulse.age() is not None)


def lose_row(world: World, user: str = ADA, *, deleted: bool = False) -> None:
    """Take the row out of the database; with *deleted* a deletion of the stack is known."""
    with sqlite3.connect(world.path / "world.db") as database:
        database.execute("DELETE FROM user_stacks WHERE user_id = ?", (user,))
    if deleted:
        remember_removal(world, user)
    world.plane.fleet.remove(UserId(user))


async def lose_marked_row(world: World) -> None:
    """Take the row out of the database when everything of the stack says whose it is."""
    await world.until(lambda: world.vault._items[world.job_id()].installation == "main")
    lose_row(world)


def remember_removal(world: World, user: str = ADA) -> None:
    """Have the database know of a deletion of the user's stack just now."""
    removed_at = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"
    with sqlite3.connect(world.path / "world.db") as database:
        (seq,) = database.execute("UPDATE sequences SET changes = changes + 1 RETURNING changes").fetchone()
        database.execute("INSERT INTO removed_stacks VALUES (?, ?, ?)", (user, seq, removed_at))
