"""From when on what a watch last saw is too old."""

from datetime import timedelta

import pytest

from opencode_lifecycle.lifecycle.observing.watch_ages import Watch, Watches, two_rounds

MINUTE = timedelta(minutes=1)


def judged(age, limit):
    [report] = Watches({"one": Watch(age=lambda: age, limit=lambda _: limit)}, stacks=lambda: 0).report()
    return report.ok


@pytest.mark.parametrize(("age", "ok"), [(29.9, True), (30.1, False)])
def test_a_watch_is_well_until_its_limit(age, ok):
    assert judged(age, limit=30) is ok


@pytest.mark.parametrize(("limit", "ok"), [(3600, True), (-1, False)])
def test_one_that_saw_nothing_yet_is_as_old_as_the_process(limit, ok):
    assert judged(None, limit=limit) is ok


def test_one_round_may_fail():
    limit = two_rounds(MINUTE, timedelta(seconds=10))

    assert limit(0) == limit(1_000_000) == 130


def test_a_fleet_that_is_too_large_for_its_period_is_given_the_time_it_takes():
    limit = two_rounds(MINUTE, timedelta(seconds=10), 50)

    assert [limit(stacks) for stacks in (10, 3_000, 30_000)] == [130, 130, 1210]


async def test_every_watch_is_well_once_it_has_looked(world):
    await world.ensure()

    await world.until(lambda: all(watch.ok for watch in world.plane.readiness.watches()))

    ages = world.plane.oversight.watch_ages()
    assert {watch.name for watch in world.plane.readiness.watches()} == set(ages)
