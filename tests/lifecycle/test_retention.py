"""What is forgotten by its age, and what is not."""

import asyncio
from datetime import timedelta

import pytest

from fakes.store import FakeStore
from opencode_lifecycle.lifecycle.retention import RECEIPTS_KEPT, Retention
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.identifiers import ConditionId


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def a_condition(**changes) -> Condition:
    values = {
        "id": ConditionId("cond_1"),
        "kind": ConditionKind.MASS_SILENCE,
        "message": "many are silent",
        "since": utc_now() - timedelta(days=100),
    }
    return Condition(**{**values, **changes})


async def forget_once(store: FakeStore) -> None:
    """Take one round, and leave its pause."""
    retention = Retention(store=store, events_kept=timedelta(days=90), now=utc_now)
    pruned = store.faults.hold_next("prune_events", after_commit=True)
    taking = asyncio.create_task(retention.round())
    await pruned.reached.wait()
    taking.cancel()


@pytest.mark.parametrize(
    ("ended", "is_kept"),
    [
        (timedelta(0), True),
        (RECEIPTS_KEPT - timedelta(minutes=1), True),
        (RECEIPTS_KEPT + timedelta(minutes=1), False),
    ],
    ids=["just now", "not quite 30 days ago", "more than 30 days ago"],
)
async def test_a_condition_that_ended_is_listed_for_30_days(store, ended, is_kept):
    condition = a_condition(cleared_at=utc_now() - ended)
    await store.put_condition(condition)

    await forget_once(store)

    assert (await store.get_condition(condition.id) is not None) is is_kept


async def test_a_condition_that_stands_is_never_forgotten(store):
    condition = a_condition()
    await store.put_condition(condition)

    await forget_once(store)

    assert await store.get_condition(condition.id) == condition
