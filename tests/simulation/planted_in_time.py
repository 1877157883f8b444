"""Bugs to plant by which all comes right in the end, and too late."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from unittest.mock import patch

from fakes.store import FakeStore
from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.lifecycle.orphans.sweep import OrphanSweep
from opencode_lifecycle.lifecycle.reconciling.planning import running
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.operation import OperationKind

LATE = timedelta(minutes=15)


@contextmanager
def a_change_is_answered_and_not_written() -> Iterator[None]:
    """What a stop asks for is told, and not in the row that it stands in."""
    write = FakeStore._write_decision

    def forgetful(self, user_id, situation, decision):
        operation = decision.operation
        if operation is None or operation.kind is not OperationKind.STOP or situation.stack is None:
            return write(self, user_id, situation, decision)
        write(self, user_id, situation, replace(decision, stack=None, wake=False))
        return decision

    with patch.object(FakeStore, "_write_decision", forgetful):
        yield


@contextmanager
def it_is_tried_again_late() -> Iterator[None]:
    with patch.object(Backoff, "seconds", lambda *_: LATE.total_seconds()):
        yield


@contextmanager
def what_has_no_row_is_seen_late() -> Iterator[None]:
    init = OrphanSweep.__init__

    def lazy(self, **values):
        init(self, **{**values, "limits": replace(values["limits"], grace=LATE)})

    with patch.object(OrphanSweep, "__init__", lazy):
        yield


@contextmanager
def what_has_ended_is_missed_late() -> Iterator[None]:
    """Whoever does not find a runtime any more waits for minutes before it is called lost."""
    lost, since = running._lost, dict[UserId, datetime]()

    def patient(work, seen, now):
        step, user = lost(work, seen, now), work.stack.user_id
        if step is None:
            since.pop(user, None)
            return None
        return step if now - since.setdefault(user, now) > timedelta(minutes=3) else None

    with patch.object(running, "_lost", patient):
        yield
