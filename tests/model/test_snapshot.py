"""Reports of entrypoints, as the control plane reads them: the agent may have written them."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from opencode_lifecycle.model.snapshot import (
    REPORT_BYTES,
    Migrations,
    SnapshotFile,
    StartRefused,
    Written,
    report_of,
)

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
LATER = "01ARZ3NDEKTSV4RRFFQ69G5FAW"
RECEIPT: dict[str, Any] = {
    "id": ID,
    "taken_at": "2026-11-24T17:00:00Z",
    "opencode_version": "1.17.0",
    "before_version": "1.18.34",
    "migrations": {"count": 32, "last": "20260501000000_last"},
    "bytes": 12,
    "files": [{"path": "opencode.db", "bytes": 12, "sha256": "a" * 64}],
}
REPORT: dict[str, Any] = {
    "format": 1,
    "version": "1.18.34",
    "snapshots": [RECEIPT],
    "snapshot_taken": ID,
    "restored": None,
    "refused": None,
}


def read(**changes: Any) -> Any:
    return report_of(json.dumps({**REPORT, **changes}).encode())


def test_a_report_is_read_as_it_is():
    report = read()

    assert (report.version, report.taken, report.restored, report.refused) == ("1.18.34", ID, None, None)
    [snapshot] = report.snapshots
    assert snapshot.id == ID
    assert snapshot.taken_at == datetime(2026, 11, 24, 17, tzinfo=UTC)
    assert (snapshot.opencode_version, snapshot.before_version) == ("1.17.0", "1.18.34")
    assert snapshot.migrations == Migrations(count=32, last="20260501000000_last")
    assert snapshot.files == (SnapshotFile(path="opencode.db", bytes=12, sha256="a" * 64),)
    assert snapshot.restored_at is None


def test_the_snapshot_that_was_restored_says_when():
    report = read(restored={"id": ID, "at": "2026-11-24T18:00:00Z", "set_aside": None})

    assert report.restored == ID
    assert report.snapshots[0].restored_at == datetime(2026, 11, 24, 18, tzinfo=UTC)


def test_a_refusal_comes_with_its_code_and_in_one_line():
    report = read(refused={"code": 65, "reason": "older than\nthe data\x1b[31m"})

    assert report.refused == StartRefused(code=65, reason="older than the data [31m")


def test_a_refusal_tells_how_much_was_written_and_since_when():
    written = {"sessions": 1, "messages": 2, "other": 0, "since": "2026-11-24T18:00:00Z"}

    report = read(refused={"code": 65, "reason": "older", "written": written})

    since = datetime(2026, 11, 24, 18, tzinfo=UTC)
    assert report.refused.written == Written(sessions=1, messages=2, other=0, since=since)


@pytest.mark.parametrize(
    "written", [5, {}, {"sessions": -1, "messages": 0, "other": 0, "since": None}, {"sessions": "x" * 1000}]
)
def test_what_says_nothing_sound_of_what_was_written_says_nothing(written):
    refused = {"code": 65, "reason": "older", "written": written}

    assert read(refused=refused).refused == StartRefused(code=65, reason="older")


def test_snapshots_come_in_the_order_in_which_they_were_taken_and_once_each():
    report = read(snapshots=[{**RECEIPT, "id": LATER}, RECEIPT, RECEIPT])

    assert [snapshot.id for snapshot in report.snapshots] == [ID, LATER]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../../etc"},
        {"id": ID + "\n"},
        {"id": 5},
        {"taken_at": "yesterday"},
        {"taken_at": 5},
        {"opencode_version": "1.17.0\n"},
        {"opencode_version": None},
        {"before_version": "latest"},
        {"bytes": -1},
        {"bytes": 10**400},
        {"bytes": True},
        {"bytes": 1.5},
        {"migrations": {"count": "many", "last": "x"}},
        {"migrations": {"count": 1, "last": "\x1b[31m"}},
        {"migrations": []},
        {"files": None},
        {"files": [{"path": "x" * 201, "bytes": 1, "sha256": "a" * 64}]},
        {"files": [{"path": "x", "bytes": 1, "sha256": "secret"}]},
        {"files": "opencode.db"},
    ],
)
def test_a_receipt_that_does_not_fit_its_form_is_left_out(changes):
    report = read(snapshots=[{**RECEIPT, **changes}, {**RECEIPT, "id": LATER}])

    assert [snapshot.id for snapshot in report.snapshots] == [LATER]


@pytest.mark.parametrize("snapshots", [None, {}, "x", [None, 5, [], {}], 5])
def test_what_is_no_list_of_receipts_is_none(snapshots):
    assert read(snapshots=snapshots).snapshots == ()


@pytest.mark.parametrize(
    "refused", [{}, [], "no", {"code": True}, {"code": 65}, {"code": 10**9, "reason": "x"}]
)
def test_what_is_no_refusal_is_none(refused):
    assert read(refused=refused).refused is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"version": 5}',
        b"\xff\xfe",
        b"[" * 60_000,
        b" " * REPORT_BYTES + b"{}",
        json.dumps({**REPORT, "version": "latest"}).encode(),
    ],
)
def test_what_is_no_report_is_none(body):
    assert report_of(body) is None


def test_more_snapshots_than_anybody_takes_are_not_read():
    many = [{**RECEIPT, "id": ID[:-2] + f"{n // 10}{n % 10}", "files": []} for n in range(100)]

    assert len(read(snapshots=many).snapshots) == 64
