"""Snapshots of a runtime's data: read from its newest allocation, and remembered for when none can be asked."""

import json

import pytest

from opencode_lifecycle.model.errors import StackNotFound, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.snapshot import REPORT_BYTES, REPORT_PATH
from opencode_lifecycle.model.states import Phase

ADA = UserId("ada")
RECEIPT = {
    "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "taken_at": "2026-11-24T17:00:00Z",
    "opencode_version": "1.17.0",
    "before_version": "1.18.34",
    "migrations": {"count": 32, "last": "20260511173437_session-metadata"},
    "bytes": 12,
    "files": [{"path": "opencode.db", "bytes": 12, "sha256": "a" * 64}],
}


@pytest.fixture
async def running(world):
    await world.ensure()
    await world.phase(Phase.RUNNING)
    return world


def newest(world):
    return world.nomad.allocations[world.job_id()][0].id


def reports(world, **changes):
    report = {
        "version": "1.18.34",
        "snapshots": [RECEIPT],
        "snapshot_taken": RECEIPT["id"],
        "restored": None,
        "refused": None,
        **changes,
    }
    world.nomad.files.of.setdefault(newest(world), {})[REPORT_PATH] = json.dumps(report).encode()


async def ids(world):
    return [snapshot.id for snapshot in (await world.plane.snapshots.of(ADA)).snapshots]


async def test_snapshots_are_read_from_the_allocation(running):
    reports(running, refused={"code": 65, "reason": "older than the data"})

    seen = await running.plane.snapshots.of(ADA)

    assert [snapshot.id for snapshot in seen.snapshots] == [RECEIPT["id"]]
    assert seen.observed_at is not None
    assert seen.refused is not None


async def test_what_was_read_once_is_shown_while_nomad_is_away(running):
    reports(running)
    seen = await running.plane.snapshots.of(ADA)
    running.nomad.faults.fail_next("read_file", UpstreamUnavailable("nomad", "read file", "away"))

    assert await running.plane.snapshots.of(ADA) == seen


async def test_an_allocation_that_has_not_reported_yet_takes_nothing_away(running):
    reports(running)
    await running.plane.snapshots.of(ADA)
    running.nomad.files.of.clear()

    assert await ids(running) == [RECEIPT["id"]]


async def test_snapshots_that_are_gone_are_shown_no_more(running):
    reports(running)
    await running.plane.snapshots.of(ADA)
    reports(running, snapshots=[])

    assert await ids(running) == []


async def test_what_is_no_report_is_as_good_as_none(running):
    reports(running)
    await running.plane.snapshots.of(ADA)
    for forged in (b"{", b"x" * (REPORT_BYTES + 1)):
        running.nomad.files.of[newest(running)][REPORT_PATH] = forged

        assert await ids(running) == [RECEIPT["id"]]


async def test_looking_again_at_what_is_known_writes_nothing(running):
    reports(running)
    await running.plane.snapshots.of(ADA)
    stored = await running.store.snapshots_of(ADA)

    await running.plane.snapshots.of(ADA)

    assert await running.store.snapshots_of(ADA) == stored


async def test_a_stack_that_is_not_there_has_none(world):
    with pytest.raises(StackNotFound):
        await world.plane.snapshots.of(UserId("nobody"))
