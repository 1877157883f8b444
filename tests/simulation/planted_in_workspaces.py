"""Bugs to plant where nodes are drained, where data goes back with its version, and where people ask during a rollout."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from fakes.store import FakeStore
from opencode_lifecycle import workspace_data
from opencode_lifecycle.lifecycle.observing import data_reports
from opencode_lifecycle.lifecycle.reconciling import restoring
from opencode_lifecycle.lifecycle.reconciling.planning import ending, interrupting, leaving, migrating
from opencode_lifecycle.lifecycle.reconciling.steps import Move, Rest
from opencode_lifecycle.model.node import Drain
from simulation.data import _Snapshots


@contextmanager
def a_drain_waits_for_no_agent() -> Iterator[None]:
    deadline_of = interrupting._deadline_of

    def at_once(order, change):
        return datetime.min.replace(tzinfo=UTC) if change.drain is not None else deadline_of(order, change)

    with patch.object(interrupting, "_deadline_of", at_once):
        yield


@contextmanager
def a_drain_is_forced_a_minute_early() -> Iterator[None]:
    def forced_at(self):
        return self.deadline - timedelta(minutes=3) if self.deadline is not None else None

    with patch.object(Drain, "forced_at", property(forced_at)):
        yield


@contextmanager
def a_drain_looks_at_no_lease() -> Iterator[None]:
    """Neither when it is planned nor when the stop is committed."""
    at_gate = leaving.at_gate

    def blind(work, change, now, limits):
        unleased = replace(work, stack=replace(work.stack, busy_until=None))
        step = at_gate(unleased, change, now, limits)
        return replace(step, unless_busy=False) if isinstance(step, Move) else step

    with patch.object(leaving, "at_gate", blind):
        yield


@contextmanager
def what_is_held_by_its_node_is_forgotten() -> Iterator[None]:
    with patch.object(ending, "plan_held", lambda work, *_: Rest(work.stack.status, None)):
        yield


@contextmanager
def what_could_not_start_again_is_restarted() -> Iterator[None]:
    with (
        patch.object(interrupting, "is_shut_out", lambda _: False),
        patch.object(migrating, "is_shut_out", lambda _: False),
    ):
        yield


@contextmanager
def an_older_version_starts_on_newer_data() -> Iterator[None]:
    with patch.object(workspace_data, "is_older", lambda *_: False):
        yield


@contextmanager
def what_was_written_is_not_looked_for() -> Iterator[None]:
    nothing = {"sessions": 0, "messages": 0, "other": 0, "since": None}
    with patch.object(_Snapshots, "written_since", lambda *_: nothing):
        yield


@contextmanager
def what_was_handed_out_counts_as_never_used() -> Iterator[None]:
    """The data of a version that is taken back goes back whatever its user wrote."""
    snapshot_to_restore = restoring.snapshot_to_restore

    async def careless(reports, stack, aim, facets):
        built = stack.status.built
        unused = replace(built, used=False) if built is not None else None
        return await snapshot_to_restore(
            reports, replace(stack, status=replace(stack.status, built=unused)), aim, facets
        )

    with patch("opencode_lifecycle.lifecycle.reconciling.effects.snapshot_to_restore", careless):
        yield


@contextmanager
def a_snapshot_is_named_without_an_order() -> Iterator[None]:
    """Whoever starts gets the data that its version had, also where nobody gives up what was written since."""

    async def eager(reports, stack, aim, facets):
        del aim
        return await reports.newest_of(stack, facets.opencode_version)

    with patch("opencode_lifecycle.lifecycle.reconciling.effects.snapshot_to_restore", eager):
        yield


@contextmanager
def what_an_entrypoint_reports_is_not_read() -> Iterator[None]:
    with patch.object(migrating, "_read_report", lambda *_: None):
        yield


@contextmanager
def every_snapshot_is_news() -> Iterator[None]:
    news = data_reports._news

    def talkative(stack, report, at, _):
        return news(stack, report, at, ())

    with patch.object(data_reports, "_news", talkative):
        yield


@contextmanager
def who_asks_is_served_after_every_order() -> Iterator[None]:
    """While any stack has an order, only those that have one are claimed."""
    claim = FakeStore.claim

    async def orders_first(self, **values):
        claimed = await claim(self, **values)
        if not any(row.stack.standing_order is not None for row in self.rows.values()):
            return claimed
        for each in claimed:
            if each.stack.standing_order is None:
                await self.release_claim(each, next_attempt_at=values["now"] + timedelta(seconds=3))
        return [each for each in claimed if each.stack.standing_order is not None]

    with patch.object(FakeStore, "claim", orders_first):
        yield
