"""How the schema of a database comes about, and how it changes."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import opencode_lifecycle
from database_examples import NOW, a_release, a_stack, an_event, put
from opencode_lifecycle.adapters.database import schema
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.adapters.database.engine import parse_url
from opencode_lifecycle.adapters.database.facet_mask import mask_of
from opencode_lifecycle.adapters.database.tables import metadata
from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.errors import ClaimLost, InvalidSettings, UpstreamUnavailable
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import ConditionId, JobId, UserId
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind
from opencode_lifecycle.model.stack import FieldEdit, Status
from opencode_lifecycle.shipped import shipped


def looking(url, look):
    """Call *look* with a connection to the database."""
    return schema._run(parse_url(url), look)


def tables_of(url):
    return set(looking(url, lambda connection: inspect(connection).get_table_names())) - {"alembic_version"}


def test_an_empty_database_gets_the_whole_schema(empty_url):
    assert schema.current(empty_url) is None
    assert not schema.is_current(empty_url)

    schema.upgrade(empty_url)

    assert schema.current(empty_url) == schema.head()
    assert schema.is_current(empty_url)
    assert tables_of(empty_url) == set(metadata.tables)


def test_upgrading_twice_changes_nothing(empty_url):
    schema.upgrade(empty_url)
    schema.upgrade(empty_url)

    assert schema.is_current(empty_url)


def test_the_migrations_build_exactly_the_tables_that_the_code_uses(empty_url):
    schema.upgrade(empty_url)

    def drift(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        return compare_metadata(context, metadata)

    assert looking(empty_url, drift) == []


def test_every_constraint_and_index_has_the_name_the_code_gives_it(empty_url):
    schema.upgrade(empty_url)

    def names(connection):
        found = inspect(connection)
        return {
            name["name"]
            for table in metadata.tables
            for names in (
                found.get_indexes(table),
                found.get_unique_constraints(table),
                found.get_foreign_keys(table),
                found.get_check_constraints(table),
                [found.get_pk_constraint(table)],
            )
            for name in names
        }

    expected = {
        str(part.name) for table in metadata.tables.values() for part in [*table.constraints, *table.indexes]
    }
    assert looking(empty_url, names) == expected


def test_it_goes_down_to_nothing_and_up_again(empty_url):
    schema.upgrade(empty_url)
    schema.downgrade(empty_url, "base")
    assert tables_of(empty_url) == set()
    assert schema.current(empty_url) is None

    schema.upgrade(empty_url)

    assert schema.is_current(empty_url)
    assert tables_of(empty_url) == set(metadata.tables)


def test_each_revision_can_be_reached_from_the_one_before_and_left_again(empty_url):
    scripts = ScriptDirectory.from_config(schema._configuration())
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    assert len(revisions) == len(list(shipped("migrations/versions").glob("*.py")))

    for revision in revisions:
        schema.upgrade(empty_url, revision)
        assert schema.current(empty_url) == revision
        schema.downgrade(empty_url, "-1")
        schema.upgrade(empty_url, revision)


@pytest.mark.timeout(120)
def test_several_replicas_may_upgrade_at_once(empty_url):
    command = [sys.executable, "-c", UPGRADE, empty_url]

    with ThreadPoolExecutor(3) as threads:
        runs = list(
            threads.map(
                lambda _: subprocess.run(command, check=False, capture_output=True, text=True), range(3)
            )
        )

    assert [(run.returncode, run.stderr) for run in runs] == [(0, "")] * 3
    assert schema.is_current(empty_url)
    assert looking(empty_url, lambda c: c.execute(text("SELECT count(*) FROM sequences")).scalar()) == 1


UPGRADE = """
import sys
from opencode_lifecycle.adapters.database import schema
schema.upgrade(sys.argv[1])
"""

KILLED = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from opencode_lifecycle.adapters.database import schema

left = int(sys.argv[2])

@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    global left
    if statement.lstrip().startswith(("CREATE", "INSERT", "UPDATE")):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

schema.upgrade(sys.argv[1])
"""


@pytest.mark.parametrize("statement", [0, 4, 12, 26])
def test_a_migration_that_is_killed_leaves_all_as_it_was_and_can_be_run_again(empty_url, statement):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, empty_url, str(statement)], check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL

    assert tables_of(empty_url) == set()
    assert schema.current(empty_url) is None
    schema.upgrade(empty_url)
    assert schema.is_current(empty_url)


def test_a_schema_of_a_newer_version_is_refused_and_left_alone(empty_url):
    schema.upgrade(empty_url)

    def pretend(connection):
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    looking(empty_url, pretend)

    with pytest.raises(InvalidSettings, match="newer"):
        schema.upgrade(empty_url)
    assert not schema.is_current(empty_url)
    assert schema.current(empty_url) == "9999"


def test_rows_survive_a_table_that_others_refer_to_being_built_anew(tmp_path):
    """SQLite changes a table by copying it; with foreign keys on that would be refused or take rows along."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'lifecycle.db'}"
    schema.upgrade(url)

    def rebuild(connection):
        connection.execute(
            text(
                "INSERT INTO releases VALUES ('rel_1', 1, '', '', '', '', '', '{}', '{}', "
                "'2026-01-01 00:00:00.000000', 1)"
            )
        )
        connection.execute(text("CREATE TABLE copy AS SELECT * FROM releases"))
        connection.execute(text("DROP TABLE releases"))
        connection.execute(text("ALTER TABLE copy RENAME TO releases"))
        return connection.execute(text("SELECT id FROM releases")).scalar()

    assert looking(url, rebuild) == "rel_1"


def test_edits_that_were_found_before_they_were_counted_are_counted(empty_url):
    async def summary(*, given=()):
        database = Database(url=empty_url)
        await database.open()
        try:
            if given:
                await database.add_release(a_release())
            for user_id, status in given:
                await put(database, a_stack(user_id, status=status))
            return {
                each.facet: (each.stacks, each.restart)
                for each in (await database.staleness_summary()).facets
            }
        finally:
            await database.close()

    edited = Status(phase_since=NOW, stale=frozenset({Facet.EDITED_OUTSIDE}))
    schema.upgrade(empty_url)
    written = asyncio.run(summary(given=[("ada", edited), ("bob", replace(edited, edits_restart=True))]))

    schema.downgrade(empty_url, "0008")
    before = looking(empty_url, lambda c: c.execute(text("SELECT max(stale) FROM user_stacks")).scalar())
    schema.upgrade(empty_url)

    assert before == mask_of([Facet.EDITED_OUTSIDE])
    assert asyncio.run(summary()) == written == {Facet.EDITED_OUTSIDE: (2, True)}


def rows_of(url, table, *, order="1"):
    """Return what is in *table*, column by column, as the database gives it."""

    def read(connection):
        found = connection.execute(text(f"SELECT * FROM {table} ORDER BY {order}"))
        return [dict(row) for row in found.mappings()]

    return looking(url, read)


def within(url, use):
    """Call *use* with an open store."""

    async def run():
        database = Database(url=url)
        await database.open()
        try:
            return await use(database)
        finally:
            await database.close()

    return asyncio.run(run())


WHAT_0007_ADDS = {"edits", "edits_restart", "recycled_at", "stale"}


def test_stacks_that_exist_keep_all_else_when_0007_goes_down_and_up(empty_url):
    edited = Status(
        phase_since=NOW,
        edits=(FieldEdit(field="Meta[image]", have="a", want="b"),),
        edits_restart=True,
        recycled_at=NOW,
        stale=frozenset({Facet.IMAGE}),
    )

    async def fill(database):
        await database.add_release(a_release())
        await put(database, a_stack("ada", status=edited))
        await put(database, a_stack("bob", labels={"team": "x"}))
        await database.append([an_event("ada", kind="kept")])

    async def stacks(database):
        return {user_id: await database.get(user_id) for user_id in ("ada", "bob")}

    schema.upgrade(empty_url)
    within(empty_url, fill)
    before, events = within(empty_url, stacks), rows_of(empty_url, "events")
    columns = rows_of(empty_url, "user_stacks")

    schema.downgrade(empty_url, "0006")
    older = rows_of(empty_url, "user_stacks")
    schema.upgrade(empty_url)

    assert older == [
        {name: value for name, value in row.items() if name not in WHAT_0007_ADDS} for row in columns
    ]
    assert rows_of(empty_url, "events") == events
    plain = replace(
        before["ada"],
        status=replace(edited, edits=(), edits_restart=False, recycled_at=None, stale=frozenset()),
    )
    assert within(empty_url, stacks) == {"ada": plain, "bob": before["bob"]}


def test_what_0007_keeps_of_the_whole_is_gone_with_it_and_can_be_kept_again(empty_url):
    condition = Condition(
        id=ConditionId("cond_1"),
        kind=ConditionKind.MASS_SILENCE,
        message="many are silent",
        details={"silent": 4},
        since=NOW,
    )

    async def fill(database):
        await database.put_condition(condition)
        await database.put_orphans([AN_ORPHAN], earlier={}, now=NOW)
        await database.put_cluster_mark("main", "mark")

    async def kept(database):
        return (
            (await database.find_conditions(standing=True)).items,
            (await database.find_orphans(limit=None)).items,
            await database.cluster_mark("main"),
        )

    schema.upgrade(empty_url)
    within(empty_url, fill)

    schema.downgrade(empty_url, "0006")
    left = tables_of(empty_url)
    schema.upgrade(empty_url)

    assert left == set(metadata.tables) - {"conditions", "orphans", "installations"}
    assert within(empty_url, kept) == ([], [], None)
    within(empty_url, fill)
    assert within(empty_url, kept) == ([condition], [AN_ORPHAN], "mark")


AN_ORPHAN = Orphan(
    find=Find(
        kind=OrphanKind.JOB,
        job_id=JobId("oc-ada"),
        reference="oc-ada",
        installation="main",
        user_id=UserId("ada"),
        details={"stopped": False},
    ),
    proven=True,
    first_seen_at=NOW,
    last_seen_at=NOW,
    confirmations=2,
)


def test_orphans_that_exist_stay_when_0008_goes_down_and_up_and_nobody_has_a_claim_on_them(empty_url):
    until = NOW + timedelta(minutes=1)

    async def fill(database):
        await database.put_orphans([AN_ORPHAN], earlier={}, now=NOW)
        await database.claim_orphan(AN_ORPHAN.id, now=NOW, lapses_at=until)

    async def claim(database):
        return await database.claim_orphan(AN_ORPHAN.id, now=NOW, lapses_at=until)

    schema.upgrade(empty_url)
    within(empty_url, fill)
    with pytest.raises(ClaimLost):
        within(empty_url, claim)
    (before,) = rows_of(empty_url, "orphans")

    schema.downgrade(empty_url, "0007")
    older = rows_of(empty_url, "orphans")
    schema.upgrade(empty_url)

    claim_on_it = {"claim_token", "claim_lapses_at"}
    assert older == [{name: value for name, value in before.items() if name not in claim_on_it}]
    assert within(empty_url, claim).orphan == AN_ORPHAN


def test_a_migration_runs_from_an_installed_wheel(tmp_path):
    package = tmp_path / "site" / "opencode_lifecycle"
    source = Path(opencode_lifecycle.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(
        shipped("migrations"),
        package / "shipped" / "migrations",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    url = f"sqlite+aiosqlite:///{tmp_path / 'lifecycle.db'}"
    code = UPGRADE + "from opencode_lifecycle.shipped import shipped\nprint(shipped('migrations'))\n"

    run = subprocess.run(
        [sys.executable, "-c", code, url],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )

    assert run.stdout.strip() == str(package / "shipped" / "migrations")
    assert schema.is_current(url)


def test_a_database_that_cannot_be_reached_is_unavailable(tmp_path):
    with pytest.raises(UpstreamUnavailable):
        schema.upgrade(f"postgresql://nobody@/none?host={tmp_path}")
