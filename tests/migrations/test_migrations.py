"""How the schema of a database comes about, and how it changes."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import opencode_lifecycle
from opencode_lifecycle.adapters.database import schema
from opencode_lifecycle.adapters.database.engine import parse_url
from opencode_lifecycle.adapters.database.tables import metadata
from opencode_lifecycle.model.errors import InvalidSettings, UpstreamUnavailable
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
    scripts = ScriptDirectory(str(shipped("migrations")))
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    assert len(revisions) == len(list(shipped("migrations/versions").glob("*.py")))
    assert revisions[-1] == schema.head()

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
    url = f"sqlite:///{tmp_path / 'lifecycle.db'}"
    schema.upgrade(url)

    def rebuild(connection):
        connection.execute(
            text(
                "INSERT INTO releases (id, number, image, opencode_version, template, instructions, managed_config, "
                "environment, resource_classes, created_at, is_current) VALUES ('rel_1', 1, '', '', '', '', '', '{}', "
                "'{}', '2026-01-01 00:00:00.000000', 1)"
            )
        )
        connection.execute(text("CREATE TABLE copy AS SELECT * FROM releases"))
        connection.execute(text("DROP TABLE releases"))
        connection.execute(text("ALTER TABLE copy RENAME TO releases"))
        return connection.execute(text("SELECT id FROM releases")).scalar()

    assert looking(url, rebuild) == "rel_1"


def test_a_migration_runs_from_an_installed_wheel(tmp_path):
    package = tmp_path / "site" / "opencode_lifecycle"
    source = Path(opencode_lifecycle.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(
        shipped("migrations"),
        package / "shipped" / "migrations",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    url = f"sqlite:///{tmp_path / 'lifecycle.db'}"
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


def test_a_revision_can_be_tried_by_hand(empty_url):
    ini = shipped("migrations") / "alembic.ini"

    subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(ini), "-x", f"url={empty_url}", "upgrade", "head"],
        check=True,
        capture_output=True,
    )

    assert schema.is_current(empty_url)


def test_a_database_that_cannot_be_reached_is_unavailable(tmp_path):
    with pytest.raises(UpstreamUnavailable):
        schema.upgrade(f"postgresql://nobody@/none?host={tmp_path}")
