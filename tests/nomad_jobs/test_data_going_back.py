"""A version that is older than the data: it is refused, or the data goes back with it where nothing was written since."""

import pytest

from nomad_jobs.workspaces import NEW, NEWER, OLD, SAME, digests, migrations_in, names_in
from opencode_lifecycle.workspace_data import documents

# --- a version that is older than the data


def test_a_version_that_is_older_than_the_data_is_refused(migrated):
    before = digests(migrated.data)

    start = migrated.run(OLD, session="never")

    assert start.code == documents.EXIT_DATA
    assert start.report["refused"]["code"] == documents.EXIT_DATA
    assert start.report["refused"]["reason"] in start.said
    assert len(start.said.splitlines()) == 1
    assert OLD in start.said
    assert NEW in start.said
    assert digests(migrated.data) == before


def test_what_was_refused_changes_nothing_for_the_version_that_ran(migrated):
    migrated.run(OLD)

    start = migrated.run(NEW, session="on")

    assert start.report["refused"] is None
    assert migrated.sessions() == {"of-the-old", "of-the-new", "on"}


def test_an_older_version_that_makes_the_same_of_the_database_is_started(workspace):
    workspace.run(OLD, session="first")
    workspace.run(SAME, session="second")

    start = workspace.run(OLD, session="third")

    assert start.report["refused"] is None
    assert workspace.sessions() == {"first", "second", "third"}


def test_an_older_version_is_started_when_the_newer_one_never_came_to_migrate(workspace):
    workspace.run(OLD, session="first")
    workspace.run(NEW)

    assert workspace.run(OLD, session="second").report["refused"] is None
    assert workspace.sessions() == {"first", "second"}


def test_an_older_version_that_never_ran_here_is_refused(workspace):
    workspace.run(NEW, session="first")

    assert workspace.run(OLD).was_refused


# --- going back where nothing was written since


def test_the_data_goes_back_with_its_version_where_nothing_was_written_since(untouched):
    [receipt] = untouched.report()["snapshots"]

    start = untouched.run(OLD, session="after")

    assert start.report["refused"] is None
    assert start.report["restored"]["id"] == receipt["id"]
    assert migrations_in(untouched.data) == {"count": 3, "last": "20260003_step"}
    assert untouched.sessions() == {"of-the-old", "after"}


def test_a_version_that_came_in_between_changes_nothing_about_that(untouched):
    untouched.run(NEWER, migrates=True)

    report = untouched.run(OLD).report

    assert report["restored"]["id"] == report["snapshots"][0]["id"]


def test_what_was_written_since_keeps_the_older_version_out_and_is_counted(untouched):
    untouched.run(NEW, session="went on")
    (untouched.data / "auth.json").write_text('{"3": "credential-of-a-provider"}')
    before = digests(untouched.data)

    start = untouched.run(OLD)

    refused = start.report["refused"]
    assert start.was_refused
    assert {name: refused["written"][name] for name in ("sessions", "messages", "other")} == {
        "sessions": 1,
        "messages": 2,
        "other": 0,
    }
    assert refused["written"]["since"] in refused["reason"]
    assert "1 session, 2 messages" in refused["reason"]
    assert digests(untouched.data) == before


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE session SET title = 'Renamed'",
        "DELETE FROM session",
        "UPDATE message SET data = '{1}' WHERE id = 'of-the-old-1'",
        "DELETE FROM part WHERE id = 'of-the-old-1'",
        "UPDATE project SET name = 'Mine'",
        "CREATE TABLE credential AS SELECT 1 AS id",
    ],
)
def test_each_change_that_a_user_makes_counts_as_a_write(untouched, write):
    untouched.write(write)

    assert untouched.run(OLD).was_refused


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE project SET time_updated = time_updated + 1",
        "INSERT INTO project VALUES ('another', NULL, 5)",
        "ALTER TABLE session ADD COLUMN cost REAL DEFAULT 1.5",
        "CREATE TABLE credential (id TEXT PRIMARY KEY)",
        "INSERT INTO session VALUES ('ses_1', 'opencode-lifecycle: does it answer?', 5, 5)",
    ],
)
def test_what_opencode_and_we_write_by_ourselves_counts_for_nothing(untouched, write):
    untouched.write(write)

    assert untouched.run(OLD).report["refused"] is None


def test_a_login_since_counts_as_a_write(untouched):
    (untouched.data / "auth.json").write_text('{"3": "another-credential"}')

    assert untouched.run(OLD).report["refused"]["written"]["other"] == 1


@pytest.mark.parametrize("write", ["DROP TABLE part", "ALTER TABLE session RENAME TO conversation"])
def test_data_of_which_nothing_can_be_told_stays_where_it_is(untouched, write):
    untouched.write(write)

    start = untouched.run(OLD)

    assert start.was_refused
    assert "cannot be told" in start.said


def test_looking_for_what_was_written_leaves_nothing_beside_the_snapshot(untouched):
    untouched.run(NEW, session="went on")
    [receipt] = untouched.report()["snapshots"]
    kept = names_in(untouched.snapshots / receipt["id"])

    untouched.run(OLD)

    assert names_in(untouched.snapshots / receipt["id"]) == kept


def test_a_name_that_was_used_up_does_not_keep_newer_data_from_going_back(untouched):
    first = untouched.report()["snapshots"][0]["id"]
    untouched.run(OLD, session="after", restore=first)
    untouched.run(NEW, migrates=True)

    untouched.run(OLD, session="once more", restore=first)

    assert untouched.sessions() == {"of-the-old", "after", "once more"}


def test_what_was_set_aside_comes_back_with_its_version_when_the_older_one_is_given_up(migrated):
    [receipt] = migrated.report()["snapshots"]
    aside = migrated.run(OLD, restore=receipt["id"]).report["restored"]["set_aside"]

    report = migrated.run(NEW, session="on", restore=aside).report

    assert report["restored"]["id"] == aside
    assert migrated.sessions() == {"of-the-old", "of-the-new", "on"}


def test_what_was_set_aside_long_ago_is_not_brought_back_by_an_old_text_of_the_job(migrated):
    [receipt] = migrated.report()["snapshots"]
    aside = migrated.run(OLD, restore=receipt["id"]).report["restored"]["set_aside"]
    migrated.run(SAME, session="of-the-old")
    migrated.run(OLD, session="later")

    migrated.run(NEW, session="on", restore=aside)

    assert migrated.sessions() == {"of-the-old", "later", "on"}
