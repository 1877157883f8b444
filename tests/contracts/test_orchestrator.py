"""What the use cases may rely on of an orchestrator, held against the fake and against Nomad."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from contracts.orchestrator_worlds import (
    IMPOSSIBLE_MEMORY,
    TEMPLATE,
    FakeWorld,
    RealWorld,
    new_job_id,
    real_world,
    soon,
    until,
)
from opencode_lifecycle.model.errors import IndexConflict, UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.observation import ABSENT, ClientStatus, JobSeen, Observation, TaskTrouble
from opencode_lifecycle.ports.orchestrator import (
    AllocationChanged,
    Change,
    Connected,
    JobChanged,
    NodesChanged,
)

CLOCKS_APART = timedelta(seconds=1)
"""Servers of one machine have one clock, and cut it each in its own way."""


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
async def world(request) -> AsyncIterator[FakeWorld | RealWorld]:
    if request.param == "fake":
        yield FakeWorld()
        return
    async with real_world(request.getfixturevalue("cluster")) as real:
        yield real


@pytest.fixture
def job_id() -> JobId:
    return new_job_id()


def runs(seen: Observation) -> bool:
    return any(each.client_status is ClientStatus.RUNNING for each in seen.live)


def has_ended(seen: Observation) -> bool:
    return bool(seen.allocations) and not seen.live


async def test_a_job_that_was_never_registered_is_absent(world, job_id):
    seen = await world.orchestrator.observe(job_id, soon())

    assert seen.job is ABSENT
    assert not seen.allocations


async def test_a_registered_job_is_seen_with_its_meta_at_once(world, job_id):
    index = await world.register(job_id, user_id="grace", installation="lab")

    seen = await world.orchestrator.observe(job_id, soon())
    assert isinstance(seen.job, JobSeen)
    assert seen.job.modify_index == index
    assert seen.index >= index
    assert (seen.job.version, seen.job.stopped) == (0, False)
    assert seen.job.meta["user"] == "grace"
    assert seen.job.belongs_to("lab")
    assert not seen.job.belongs_to("main")


async def test_a_job_says_when_it_was_submitted_last_and_a_stop_is_a_submission(world, job_id):
    before = datetime.now(UTC) - CLOCKS_APART
    await world.register(job_id)
    registered = (await world.orchestrator.observe(job_id, soon())).job.submitted_at

    await world.orchestrator.deregister(job_id, purge=False, deadline=soon())

    stopped = (await world.orchestrator.observe(job_id, soon())).job.submitted_at
    assert before < registered < stopped < datetime.now(UTC) + CLOCKS_APART
    listed = await world.orchestrator.list_all(soon())
    assert listed.stacks[job_id].job.submitted_at == stopped


async def test_the_values_that_a_job_was_submitted_with_are_told_also_when_it_is_stopped(world, job_id):
    await world.register(job_id, labels={"team": "blue"}, image="one")

    for _ in range(2):
        job = (await world.orchestrator.observe(job_id, soon())).job
        values = await world.orchestrator.submitted(job, soon())
        assert (values["labels"], values["image"], values["job_id"]) == ({"team": "blue"}, "one", job_id)
        await world.orchestrator.deregister(job_id, purge=False, deadline=soon())


async def test_of_two_first_registrations_the_second_conflicts(world, job_id):
    await world.register(job_id)

    with pytest.raises(IndexConflict):
        await world.register(job_id, image="other")


async def test_a_registration_at_the_current_index_makes_a_new_version(world, job_id):
    first = await world.register(job_id)

    second = await world.register(job_id, at=first, image="other")

    seen = await world.orchestrator.observe(job_id, soon())
    assert second > first
    assert (seen.job.version, seen.job.modify_index) == (1, second)


async def test_a_registration_at_an_old_index_changes_nothing(world, job_id):
    first = await world.register(job_id)
    second = await world.register(job_id, at=first, image="other")

    with pytest.raises(IndexConflict):
        await world.register(job_id, at=first, image="third")

    seen = await world.orchestrator.observe(job_id, soon())
    assert (seen.job.modify_index, seen.job.meta["image"]) == (second, "other")


async def test_registering_the_same_again_makes_no_version_and_keeps_the_index(world, job_id):
    first = await world.register(job_id)
    await world.seen(job_id, runs, "it runs")

    again = await world.register(job_id, at=first)

    seen = await world.orchestrator.observe(job_id, soon())
    assert again == first == seen.job.modify_index
    assert seen.job.version == 0


async def test_a_running_allocation_has_an_address_and_a_start(world, job_id):
    await world.register(job_id)

    seen = await world.seen(job_id, runs, "it runs")
    assert seen.newest.address is not None
    assert 0 < seen.newest.address.port < 65536
    assert seen.newest.started_at is not None
    assert seen.newest.job_version == 0
    assert seen.newest.desired_status == "run"
    assert seen.newest.trouble is None
    assert seen.placement_failure is None


async def test_another_meta_replaces_the_allocation(world, job_id):
    first = await world.register(job_id)
    before = await world.seen(job_id, runs, "it runs")

    await world.register(job_id, at=first, image="other")

    after = await world.seen(
        job_id,
        lambda seen: runs(seen) and len(seen.live) == 1 and seen.newest.id != before.newest.id,
        "the new allocation runs alone",
    )
    assert after.newest.job_version == 1
    assert after.newest.create_index > before.newest.create_index
    assert next(each for each in after.allocations if each.id == before.newest.id).client_status.is_terminal


async def test_other_labels_leave_the_allocation_running(world, job_id):
    first = await world.register(job_id)
    before = await world.seen(job_id, runs, "it runs")

    job = await world.orchestrator.render(TEMPLATE, {"job_id": job_id, "labels": {"team": "core"}}, soon())
    await world.orchestrator.register(job, expected_index=first, deadline=soon())

    after = await world.orchestrator.observe(job_id, soon())
    assert [each.id for each in after.live] == [before.newest.id]


async def test_a_stopped_job_stays_with_its_ended_allocation(world, job_id):
    index = await world.register(job_id)
    await world.seen(job_id, runs, "it runs")

    stopped_at = await world.orchestrator.deregister(job_id, purge=False, deadline=soon())

    seen = await world.seen(job_id, has_ended, "its allocation has ended")
    assert stopped_at > index
    assert seen.job.stopped
    assert seen.newest.desired_status == "stop"
    assert seen.newest.trouble is None


async def test_a_stopped_job_runs_again_when_registered_at_its_index(world, job_id):
    await world.register(job_id)
    await world.seen(job_id, runs, "it runs")
    await world.orchestrator.deregister(job_id, purge=False, deadline=soon())
    stopped = await world.seen(job_id, has_ended, "its allocation has ended")

    await world.register(job_id, at=stopped.job.modify_index)

    seen = await world.seen(job_id, runs, "it runs again")
    assert not seen.job.stopped
    assert seen.newest.id != stopped.newest.id


async def test_a_purged_job_is_absent(world, job_id):
    await world.register(job_id)
    await world.orchestrator.deregister(job_id, purge=False, deadline=soon())
    await world.seen(job_id, lambda seen: not seen.live, "nothing of it runs")

    await world.orchestrator.deregister(job_id, purge=True, deadline=soon())

    seen = await world.orchestrator.observe(job_id, soon())
    assert seen.job is ABSENT


async def test_stopping_a_job_that_is_not_there_is_no_error(world, job_id):
    await world.orchestrator.deregister(job_id, purge=False, deadline=soon())
    await world.orchestrator.deregister(job_id, purge=True, deadline=soon())


async def test_a_job_that_fits_nowhere_says_why(world, job_id):
    await world.register_too_large(job_id)

    seen = await world.seen(job_id, lambda seen: seen.placement_failure is not None, "it is blocked")
    assert "memory" in seen.placement_failure
    assert "\n" not in seen.placement_failure
    assert not seen.live


async def test_a_version_that_fits_nowhere_leaves_what_runs_as_it_is_and_says_why(world, job_id):
    index = await world.register(job_id)
    [before] = (await world.seen(job_id, runs, "it runs")).live

    await world.register_too_large(job_id, at=index)

    seen = await world.seen(job_id, lambda seen: seen.placement_failure is not None, "it is blocked")
    assert "memory" in seen.placement_failure
    assert [(each.id, each.job_version, each.desired_status) for each in seen.live] == [
        (before.id, before.job_version, "run")
    ]


async def test_a_job_that_fits_after_all_has_no_placement_failure(world, job_id):
    index = await world.register_too_large(job_id)
    await world.seen(job_id, lambda seen: seen.placement_failure is not None, "it is blocked")

    await world.register(job_id, at=index)

    seen = await world.seen(job_id, runs, "it runs")
    assert seen.placement_failure is None


@pytest.mark.parametrize("trouble", [TaskTrouble.DRIVER, TaskTrouble.EXITED])
async def test_a_task_that_fails_says_how(world, job_id, trouble):
    await world.register_failing(job_id, trouble)

    seen = await world.seen(job_id, has_ended, "its allocation has ended")
    assert seen.newest.client_status is ClientStatus.FAILED
    assert seen.newest.trouble is trouble
    assert seen.newest.trouble_message


async def test_a_variable_that_the_template_does_not_declare_is_refused(world, job_id):
    with pytest.raises(UpstreamRejected, match="colour"):
        await world.orchestrator.render(TEMPLATE, {"job_id": job_id, "colour": "red"}, soon())


async def test_a_value_that_the_template_forbids_is_refused(world):
    with pytest.raises(UpstreamRejected, match="job_id"):
        await world.orchestrator.render(TEMPLATE, {"job_id": "Not/An/Id"}, soon())


async def test_the_listing_holds_every_job_with_its_allocations(world):
    jobs = [new_job_id() for _ in range(5)]
    indexes = [await world.register(job_id, user_id=job_id) for job_id in jobs]
    for job_id in jobs:
        await world.seen(job_id, runs, "it runs")

    listing = await world.orchestrator.list_all(soon())

    assert listing.index >= max(indexes)
    assert set(jobs) <= listing.stacks.keys()
    for job_id in jobs:
        observed = await world.orchestrator.observe(job_id, soon())
        assert listing.stacks[job_id].job == observed.job
        assert [each.id for each in listing.stacks[job_id].allocations] == [
            each.id for each in observed.allocations
        ]
        assert listing.stacks[job_id].newest.address == observed.newest.address


async def test_the_listing_knows_the_version_of_every_job(world, job_id):
    first = await world.register(job_id)
    await world.register(job_id, at=first, image="other")

    listing = await world.orchestrator.list_all(soon())

    assert listing.stacks[job_id].job.version == 1


async def test_the_listing_says_why_a_job_fits_nowhere(world, job_id):
    await world.register_too_large(job_id)
    await world.seen(job_id, lambda seen: seen.placement_failure is not None, "it is blocked")

    listing = await world.orchestrator.list_all(soon())

    assert "memory" in listing.stacks[job_id].placement_failure


@pytest.mark.parametrize("begins", ["after a listing", "now"])
async def test_the_stream_opens_and_tells_of_what_happens_afterwards(world, job_id, begins):
    told: list[Change] = []
    opened = asyncio.Event()
    index = (await world.orchestrator.list_all(soon())).index

    async def listen() -> None:
        async for change in world.orchestrator.follow(index if begins == "after a listing" else None):
            told.append(change)
            opened.set()

    listening = asyncio.create_task(listen())
    await asyncio.wait_for(opened.wait(), 10)
    registered = await world.register(job_id)

    async def has_run() -> bool:
        return any(
            isinstance(change, AllocationChanged)
            and change.job_id == job_id
            and change.allocation.client_status is ClientStatus.RUNNING
            for change in told
        )

    await until(has_run, "the stream tells of the running allocation")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert isinstance(told[0], Connected)
    of_jobs = [change for change in told[1:] if not isinstance(change, NodesChanged)]
    ours = [change for change in of_jobs if change.job_id == job_id]
    assert any(isinstance(change, JobChanged) and change.index == registered for change in ours)
    allocation = next(c.allocation for c in reversed(ours) if isinstance(c, AllocationChanged))
    observed = (await world.orchestrator.observe(job_id, soon())).newest
    assert (allocation.address, allocation.job_version) == (observed.address, observed.job_version)
    assert all(change.index > index for change in told[1:])


async def test_the_stream_tells_of_each_allocation_which_version_it_runs(world, job_id):
    told: dict[AllocationId, int | None] = {}
    opened = asyncio.Event()
    index = (await world.orchestrator.list_all(soon())).index

    async def listen() -> None:
        async for change in world.orchestrator.follow(index):
            opened.set()
            if isinstance(change, AllocationChanged) and change.job_id == job_id:
                told[change.allocation.id] = change.allocation.job_version

    listening = asyncio.create_task(listen())
    await asyncio.wait_for(opened.wait(), 10)
    first = await world.register(job_id)
    await world.seen(job_id, runs, "it runs")
    # The second of these comes while the scheduler may be at the first.
    second = await world.register(job_id, at=first, image="other")
    await world.register(job_id, at=second, image="yet another")

    after = await world.seen(
        job_id,
        lambda seen: runs(seen) and len(seen.live) == 1 and seen.newest.job_version == 2,
        "the newest version runs alone",
    )

    async def told_of_all() -> bool:
        return {each.id for each in after.allocations} <= told.keys()

    await until(told_of_all, "the stream has told of every allocation")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert told == {each.id: each.job_version for each in after.allocations}


async def test_the_stream_tells_that_a_job_was_purged(world, job_id):
    await world.register(job_id)
    index = (await world.orchestrator.observe(job_id, soon())).index
    gone = asyncio.Event()
    opened = asyncio.Event()

    async def listen() -> None:
        async for change in world.orchestrator.follow(index):
            opened.set()
            if isinstance(change, JobChanged) and change.job_id == job_id and change.job is None:
                gone.set()

    listening = asyncio.create_task(listen())
    await asyncio.wait_for(opened.wait(), 10)
    await world.orchestrator.deregister(job_id, purge=True, deadline=soon())

    await asyncio.wait_for(gone.wait(), 10)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_the_log_gives_the_last_lines(world, job_id):
    await world.register(job_id)
    seen = await world.seen(job_id, runs, "it runs")
    await world.log_of(job_id)

    async def has_written() -> bool:
        return [
            line
            async for line in world.orchestrator.read_log(
                seen.newest.id, kind="stdout", tail=2, follow=False, deadline=soon()
            )
        ] == [b"two", b"three"]

    await until(has_written, "the log holds the last two lines")


async def test_the_log_of_an_unknown_allocation_is_refused(world):
    nobody = AllocationId("00000000-0000-4000-8000-000000000000")

    with pytest.raises(UpstreamRejected):
        async for _ in world.orchestrator.read_log(
            nobody, kind="stdout", tail=1, follow=False, deadline=soon()
        ):
            pass


async def test_a_reachable_server_answers_the_ping(world):
    await world.orchestrator.ping(soon())


async def test_a_stream_that_ends_says_so():
    world = FakeWorld()
    told = world.orchestrator.follow(0)
    assert isinstance(await anext(told), Connected)

    world.nomad.drop_streams()

    with pytest.raises(UpstreamUnavailable):
        await anext(told)


async def compared(world, job_id, **variables):
    job = await world.orchestrator.render(TEMPLATE, {"job_id": job_id, **variables}, soon())
    return await world.orchestrator.compare(job, soon())


async def test_a_job_does_not_differ_from_itself(world, job_id):
    await world.register(job_id, image="one")

    found = await compared(world, job_id, image="one")

    assert not found.edits
    assert not found.restart


async def test_what_differs_is_told_with_what_is_registered_and_what_should_be(world, job_id):
    await world.register(job_id, image="theirs")

    found = await compared(world, job_id, image="ours")

    ((edit),) = [edit for edit in found.edits if edit.field == "Meta[image]"]
    assert (edit.have, edit.want) == ("theirs", "ours")
    assert found.restart


async def test_a_comparison_changes_nothing(world, job_id):
    index = await world.register(job_id, image="one")

    await compared(world, job_id, image="two")

    assert (await world.orchestrator.observe(job_id, soon())).job.modify_index == index


async def test_a_job_that_is_not_registered_cannot_be_compared(world, job_id):
    with pytest.raises(UpstreamRejected):
        await compared(world, job_id)


async def validated(world, job_id, **variables):
    job = await world.orchestrator.render(TEMPLATE, {"job_id": job_id, **variables}, soon())
    await world.orchestrator.validate(job, soon())


async def test_a_job_that_is_valid_is_not_there_after_it_was_validated(world, job_id):
    await validated(world, job_id)

    assert (await world.orchestrator.observe(job_id, soon())).job is ABSENT


async def test_validating_another_version_of_a_job_changes_nothing(world, job_id):
    index = await world.register(job_id, image="one")

    await validated(world, job_id, image="two")

    assert (await world.orchestrator.observe(job_id, soon())).job.modify_index == index


async def test_a_job_is_valid_in_our_namespace_whatever_its_template_says_of_one(world, job_id):
    template = TEMPLATE.replace("  namespace   = var.namespace\n", "")
    assert template != TEMPLATE
    job = await world.orchestrator.render(template, {"job_id": job_id}, soon())

    await world.orchestrator.validate(job, soon())


async def test_a_job_that_fits_nowhere_is_valid_all_the_same(world, job_id):
    await validated(world, job_id, memory=IMPOSSIBLE_MEMORY)


async def test_what_a_registration_would_be_refused_for_is_not_valid(world, job_id):
    with pytest.raises(UpstreamRejected, match="minimum MemoryMB value is 10; got 1") as refused:
        await validated(world, job_id, memory=1)

    assert "\n" not in str(refused.value)
    with pytest.raises(UpstreamRejected, match="minimum MemoryMB value is 10; got 1"):
        await world.register(job_id, memory=1)


async def test_nobody_knows_what_an_allocation_uses_that_there_is_not(world):
    unknown = AllocationId("00000000-0000-4000-8000-000000000000")

    assert await world.orchestrator.usage(unknown, soon()) is None


async def test_the_usage_of_an_allocation_that_runs_is_told_or_not_known(world, job_id):
    await world.register(job_id)
    seen = await world.seen(job_id, runs, "it runs")

    usage = await world.orchestrator.usage(seen.live[0].id, soon())

    assert usage is not None
    assert usage.memory is None or usage.memory > 0
