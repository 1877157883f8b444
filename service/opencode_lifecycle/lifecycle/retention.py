"""Forgets what nobody may ask for any more."""

import asyncio
from datetime import timedelta
from typing import Protocol

from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.ports.stores import ConditionStore, EventStore, IdempotencyStore, OperationStore

RECEIPTS_KEPT = timedelta(days=30)
"""From the end of an operation, and of a condition."""
INTERVAL_SECONDS = 600.0


class Store(OperationStore, ConditionStore, IdempotencyStore, EventStore, Protocol):
    """What is forgotten by its age."""


class Retention:
    """Each round forgets once, then waits."""

    def __init__(self, *, store: Store, events_kept: timedelta, now: Clock) -> None:
        self._store = store
        self._events_kept = events_kept
        self._now = now

    async def round(self) -> None:
        now = self._now()
        await self._store.prune_operations(now - RECEIPTS_KEPT)
        await self._store.prune_conditions(now - RECEIPTS_KEPT)
        await self._store.prune_keys(now)
        await self._store.prune_events(now - self._events_kept)
        await asyncio.sleep(INTERVAL_SECONDS)
