"""What the use cases may rely on when they register a job: at which index, what it makes, and what is told of it."""

import pytest

from contracts.orchestrator_worlds import TEMPLATE, runs, soon
from opencode_lifecycle.model.errors import IndexConflict

pytestmark = pytest.mark.beyond_the_recording("what Nomad decides about a registration")


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


async def test_other_labels_leave_the_allocation_running(world, job_id):
    first = await world.register(job_id)
    before = await world.seen(job_id, runs, "it runs")

    job = await world.orchestrator.render(TEMPLATE, {"job_id": job_id, "labels": {"team": "core"}}, soon())
    await world.orchestrator.register(job, expected_index=first, deadline=soon())

    after = await world.orchestrator.observe(job_id, soon())
    assert [each.id for each in after.live] == [before.newest.id]
