"""What the use cases may rely on when they have a job rendered, validated, or compared with the one that is registered."""

import pytest

from contracts.orchestrator_worlds import IMPOSSIBLE_MEMORY, TEMPLATE, soon
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.observation import ABSENT

pytestmark = pytest.mark.beyond_the_recording("what Nomad makes of a template")


async def test_a_variable_that_the_template_does_not_declare_is_refused(world, job_id):
    with pytest.raises(UpstreamRejected, match="colour"):
        await world.orchestrator.render(TEMPLATE, {"job_id": job_id, "colour": "red"}, soon())


async def test_a_value_that_the_template_forbids_is_refused(world):
    with pytest.raises(UpstreamRejected, match="job_id"):
        await world.orchestrator.render(TEMPLATE, {"job_id": "Not/An/Id"}, soon())


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
