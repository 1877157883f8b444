"""The listing of Nomad and its event stream: what one of them misses is made good by the other."""

from datetime import timedelta
from random import Random

import pytest

from opencode_lifecycle.lifecycle.background import keep_going
from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamUnavailable
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.orchestrator import Connected
from world import World

NO = UpstreamUnavailable("nomad", "follow", "no")


@pytest.fixture
async def world(tmp_path):
    """One in which nothing is listed by itself once it has begun, but for what the stream asks for."""
    world = World(tmp_path, resync_interval=timedelta(hours=1))
    follow = world.nomad.follow

    async def as_the_adapter_does(index):
        index = world.nomad.index if index is None else index
        async for change in follow(index):
            if isinstance(change, Connected) or change.index > index:
                yield change

    world.nomad.follow = as_the_adapter_does
    async with world.running():
        await world.until(lambda: world.plane._nomad.stream_age() == 0.0)
        await world.until(lambda: world.plane._orphans.pulse.age() is not None)
        yield world


async def one_that_ran(tmp_path) -> World:
    """Give a world with one runtime, whose service is down."""
    world = World(tmp_path, comparison_interval=timedelta(hours=1))
    async with world.running():
        await world.ensure()
    return world


async def test_a_start_lists_everything_once_under_the_stream_that_is_open(tmp_path):
    world = await one_that_ran(tmp_path)
    calls, follow, listed_before_opening = world.nomad.faults.calls, world.nomad.follow, []

    async def noting(index):
        listed_before_opening.append(calls["list_all"])
        async for change in follow(index):
            yield change

    world.nomad.follow = noting
    before = calls["list_all"]
    async with world.running():
        assert (listed_before_opening, calls["list_all"]) == ([before], before + 1)
        assert world.plane.fleet.observation(world.job_id()) is not None


@pytest.mark.parametrize(
    "error",
    [NO, DeadlineExceeded("open the stream"), RuntimeError("of ours")],
    ids=["refused", "hangs", "a_defect"],
)
async def test_a_start_is_not_kept_up_by_a_stream_that_cannot_be_opened(tmp_path, error):
    world = await one_that_ran(tmp_path)
    world.nomad.faults.fail_next("follow", error, times=None)
    async with world.running():
        assert world.plane.fleet.observation(world.job_id()) is not None


@pytest.mark.parametrize("error", [NO, DeadlineExceeded("list all")], ids=["refused", "hangs"])
async def test_a_start_is_not_kept_up_by_a_nomad_that_cannot_be_seen(tmp_path, error):
    world = await one_that_ran(tmp_path)
    for call in ("follow", "list_all"):
        world.nomad.faults.fail_next(call, error, times=None)
    async with world.running():
        assert world.stack().status.phase is Phase.RUNNING
        assert world.plane.fleet.observation(world.job_id()) is None


async def test_the_end_of_the_stream_is_followed_by_a_listing(world):
    before = world.nomad.faults.calls["list_all"]
    world.nomad.faults.fail_next("follow", NO, times=None)

    world.nomad.drop_streams()

    await world.until(lambda: world.nomad.faults.calls["list_all"] > before)


async def test_a_stream_that_cannot_be_opened_lists_nothing(world):
    world.nomad.faults.fail_next("follow", NO, times=None)
    world.nomad.drop_streams()
    await world.until(lambda: world.nomad.faults.calls["follow"] >= 2)
    before = world.nomad.faults.calls["list_all"]

    await world.until(lambda: world.nomad.faults.calls["follow"] >= 4)

    assert world.nomad.faults.calls["list_all"] == before


@pytest.mark.parametrize("streams", ["end", "go on"])
async def test_events_are_heard_again_after_nomad_went_back_to_an_older_index(world, monkeypatch, streams):
    await world.ensure()
    snapshot = world.nomad.snapshot()
    world.nomad.index = 10_000  # others work
    await world.plane._nomad.list_once()
    world.nomad.drop_streams()
    await world.until(lambda: world.plane._nomad._followed_from == 10_000)
    await world.until(lambda: world.plane._nomad.stream_age() == 0.0)
    if streams == "go on":
        monkeypatch.setattr(world.nomad, "drop_streams", lambda: None)
    world.nomad.restore(snapshot)
    await world.plane._nomad.list_once()
    await world.until(
        lambda: world.plane._nomad._followed_from < 10_000 and world.plane._nomad.stream_age() == 0.0
    )

    world.nomad.restart_task(world.job_id())

    await world.until(lambda: world.plane.fleet.latest(world.job_id()).allocations[0].restarts == 1)


async def test_what_the_stream_tells_of_another_cluster_is_not_taken_in(world):
    await world.ensure()
    world.nomad.cluster_mark.marks["main"] = "f" * 32
    await world.plane._nomad.list_once()

    world.nomad.restart_task(world.job_id())
    await world.plane._nomad.list_once()

    assert world.plane.fleet.latest(world.job_id()).allocations[0].restarts == 0


async def test_a_loop_that_went_well_for_long_begins_again_after_the_first_pause(monkeypatch):
    """Also when it only ever ends by failing, as a stream does."""
    moments, pauses = iter([0.0, 0.1, 1.0, 1.1, 2.0, 100.0]), []

    class Enough(Exception):
        pass

    async def fails():
        raise NO

    async def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            raise Enough

    monkeypatch.setattr("opencode_lifecycle.lifecycle.background.asyncio.sleep", sleep)
    monkeypatch.setattr("opencode_lifecycle.lifecycle.background._time", lambda: next(moments))

    with pytest.raises(Enough):
        await keep_going("stream", fails, backoff=Backoff(first=1, most=50), random=Random(1))

    assert pauses[1] > pauses[0]
    assert pauses[2] < pauses[1]
