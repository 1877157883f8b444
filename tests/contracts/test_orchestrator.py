"""What the use cases may rely on of an orchestrator when they look at jobs, held against the fake, a replay and Nomad."""

from datetime import UTC, datetime, timedelta

import pytest

from contracts.orchestrator_worlds import has_ended, new_job_id, runs, soon, until
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.observation import ABSENT, ClientStatus, JobSeen, TaskTrouble

CLOCKS_APART = timedelta(seconds=1)
"""Servers of one machine have one clock, and cut it each in its own way."""


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


@pytest.mark.beyond_the_recording("a task that fails")
@pytest.mark.parametrize("trouble", [TaskTrouble.DRIVER, TaskTrouble.EXITED])
async def test_a_task_that_fails_says_how(world, job_id, trouble):
    await world.register_failing(job_id, trouble)

    seen = await world.seen(job_id, has_ended, "its allocation has ended")
    assert seen.newest.client_status is ClientStatus.FAILED
    assert seen.newest.trouble is trouble
    assert seen.newest.trouble_message


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


@pytest.mark.beyond_the_recording("logs")
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


@pytest.mark.beyond_the_recording("logs")
async def test_the_log_of_an_unknown_allocation_is_refused(world):
    nobody = AllocationId("00000000-0000-4000-8000-000000000000")

    with pytest.raises(UpstreamRejected):
        async for _ in world.orchestrator.read_log(
            nobody, kind="stdout", tail=1, follow=False, deadline=soon()
        ):
            pass


async def test_a_reachable_server_answers_the_ping(world):
    await world.orchestrator.ping(soon())


async def test_nobody_knows_what_an_allocation_uses_that_there_is_not(world):
    unknown = AllocationId("00000000-0000-4000-8000-000000000000")

    assert await world.orchestrator.usage(unknown, soon()) is None


async def test_the_usage_of_an_allocation_that_runs_is_told_or_not_known(world, job_id):
    await world.register(job_id)
    seen = await world.seen(job_id, runs, "it runs")

    usage = await world.orchestrator.usage(seen.live[0].id, soon())

    assert usage is not None
    assert usage.memory is None or usage.memory > 0
