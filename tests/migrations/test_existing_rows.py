"""What becomes of rows that exist when a migration runs over them, up and down."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import inspect, text

from database_examples import NOW, a_full_stack, a_release, a_stack, an_event, put
from opencode_lifecycle.adapters.database import schema
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.adapters.database.engine import parse_url
from opencode_lifecycle.adapters.database.facet_mask import mask_of
from opencode_lifecycle.adapters.database.tables import metadata
from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.errors import ClaimLost
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import ConditionId, JobId, UserId
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind
from opencode_lifecycle.model.stack import FieldEdit, Status


def looking(url, look):
    """Call *look* with a connection to the database."""
    return schema._run(parse_url(url), look)


def tables_of(url):
    return set(looking(url, lambda connection: inspect(connection).get_table_names())) - {"alembic_version"}


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
WHAT_0012_ADDS = {
    "migration_order",
    "recovered",
    "busy_until",
    "built",
    "footing",
    "refused",
    "refused_in",
    "migrating_since",
    "order_done",
    "order_outcome",
}
WHAT_0015_ADDS = {"refusal"}
TABLES_AFTER_0007 = {"groups", "snapshots", "rollouts", "rollout_stacks", "rollout_plans"}


def without(rows, names):
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


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

    assert older == without(columns, WHAT_0007_ADDS | WHAT_0012_ADDS | WHAT_0015_ADDS)
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

    assert left == set(metadata.tables) - {"conditions", "orphans", "installations"} - TABLES_AFTER_0007
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

    assert older == without([before], {"claim_token", "claim_lapses_at"})
    assert within(empty_url, claim).orphan == AN_ORPHAN


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


def test_conditions_that_exist_stand_when_0010_goes_down_and_up_and_are_anyones_to_clear(empty_url):
    condition = Condition(
        id=ConditionId("cond_1"),
        kind=ConditionKind.MASS_SILENCE,
        message="many are silent",
        details={"silent": 4},
        since=NOW,
        confirmed_at=NOW,
        confirmed_by="olga",
        confirmed_extent=4,
        reported_by="a",
        reported_until=NOW,
    )

    async def kept(database):
        return (await database.find_conditions(standing=True)).items

    schema.upgrade(empty_url)
    within(empty_url, lambda database: database.put_condition(condition))
    schema.downgrade(empty_url, "0009")
    schema.upgrade(empty_url)

    assert within(empty_url, kept) == [
        replace(condition, confirmed_extent=None, reported_by=None, reported_until=None)
    ]


def test_releases_that_exist_carry_no_prompts_and_are_of_nobody_when_0011_comes(empty_url):
    async def fill(database):
        await database.add_release(a_release())

    async def kept(database):
        return await database.get_release(a_release().id)

    schema.upgrade(empty_url)
    within(empty_url, fill)
    before = within(empty_url, kept)

    schema.downgrade(empty_url, "0010")
    left = tables_of(empty_url)
    schema.upgrade(empty_url)

    assert within(empty_url, kept) == before
    assert "groups" not in left


def test_stacks_that_exist_have_no_order_and_no_footing_when_0012_goes_down_and_up(empty_url):
    full = a_full_stack()

    async def fill(database):
        await database.add_release(a_release())
        await put(database, full)

    async def kept(database):
        return await database.get(full.user_id)

    schema.upgrade(empty_url)
    within(empty_url, fill)
    before = within(empty_url, kept)
    columns = rows_of(empty_url, "user_stacks")
    schema.downgrade(empty_url, "0011")
    older = rows_of(empty_url, "user_stacks")
    schema.upgrade(empty_url)

    assert (before.intent.order, before.status, before.busy_until) == (full.intent.order, full.status, NOW)
    assert older == without(columns, WHAT_0012_ADDS | WHAT_0015_ADDS)
    plain = replace(
        full.status,
        built=None,
        footing=None,
        refused=None,
        refused_in=0,
        refusal=None,
        migrating_since=None,
        order_done=None,
        order_outcome=None,
    )
    intent = replace(before.intent, order=None, recovered=0)
    assert within(empty_url, kept) == replace(before, intent=intent, status=plain, busy_until=None)
