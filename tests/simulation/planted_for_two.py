"""Bugs to plant where two replicas share a database."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from fakes.store import FakeStore
from fakes.store_rows import Row
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.observing.watching import StoreWatch
from opencode_lifecycle.lifecycle.reconciling.reconciler import Reconciler
from opencode_lifecycle.model.errors import ClaimLost


@contextmanager
def a_claim_is_not_looked_at() -> Iterator[None]:
    with patch.object(Row, "is_free", lambda *_: True):
        yield


@contextmanager
def a_claim_has_no_owner() -> Iterator[None]:
    """A save and a renewal ask whether the stack is claimed, and not by whom."""

    def by_anyone(self, claimed):
        row = self.rows.get(claimed.stack.user_id)
        if row is None:
            raise ClaimLost
        return row

    with patch.object(FakeStore, "_claimed", by_anyone):
        yield


@contextmanager
def a_claim_is_not_held_on_to() -> Iterator[None]:
    async def trusting(self, current):
        del self, current

    with patch.object(Reconciler, "_hold_claim", trusting):
        yield


@contextmanager
def a_lost_claim_is_ignored() -> Iterator[None]:
    """Whoever finds the claim lost goes on as if it had been renewed, or saved."""
    hold, save = Reconciler._hold_claim, Reconciler._save

    async def holding(self, current):
        try:
            await hold(self, current)
        except ClaimLost:
            current.claimed = replace(current.claimed, lapses_at=self._now() + self._claim_lifetime)

    async def saving(self, current, progress):
        try:
            await save(self, current, progress)
        except ClaimLost:
            current.saved = progress.status

    with patch.object(Reconciler, "_hold_claim", holding), patch.object(Reconciler, "_save", saving):
        yield


@contextmanager
def the_claim_of_the_dead_never_lapses() -> Iterator[None]:
    with patch.object(Row, "is_free", lambda self, _: self.claim_token is None):
        yield


@contextmanager
def the_claim_is_asked_for_before_the_row_is_saved() -> Iterator[None]:
    hold, save_moves = Reconciler._hold_claim, Reconciler._save_moves

    async def first(self, current):
        await hold(self, current)
        await save_moves(self, current)

    async def no_more(self, current):
        del self, current

    with patch.object(Reconciler, "_save_moves", first), patch.object(Reconciler, "_hold_claim", no_more):
        yield


@contextmanager
def the_changes_of_others_are_not_followed() -> Iterator[None]:
    async def deaf(self):
        del self
        await asyncio.Event().wait()

    with patch.object(StoreWatch, "follow_once", deaf):
        yield


@contextmanager
def what_was_removed_elsewhere_is_kept() -> Iterator[None]:
    apply_changes = Fleet.apply_changes

    def without_removals(self, changes):
        apply_changes(self, [change for change in changes if change.stack is not None])
        self.seq = max([self.seq, *(change.seq for change in changes)])

    with patch.object(Fleet, "apply_changes", without_removals):
        yield
