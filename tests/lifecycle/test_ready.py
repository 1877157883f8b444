"""When a stack that runs may be called ready: its row alone does not say so."""

import pytest

from lifecycle.racing import DOWN
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.states import WhenStale
from world import World


@pytest.fixture
def reporting(tmp_path) -> World:
    return World(tmp_path, when_stale=WhenStale.REPORT)


async def test_a_stack_whose_job_was_edited_outside_is_not_ready_before_it_is_known_in_what(reporting: World):
    async with reporting.running():
        await reporting.ensure()
        comparing = reporting.nomad.faults.hold_next("compare")
        reporting.nomad.change_outside(reporting.job_id(), labels={"team": "blue"})
        await comparing.reached.wait()

        asked = await reporting.ensure(wait=None)
        comparing.release()
        waited_for = await reporting.ensure()

    assert not asked.ready
    assert waited_for.ready
    assert [each.facet for each in waited_for.view.staleness] == [Facet.EDITED_OUTSIDE]


@pytest.mark.parametrize(
    "error", [DOWN, UpstreamRejected("nomad", "compare", "no such driver")], ids=["down", "refused"]
)
async def test_a_runtime_whose_edited_job_nomad_cannot_compare_is_as_good_as_it_was(reporting: World, error):
    async with reporting.running():
        await reporting.ensure()
        reporting.nomad.faults.fail_next("compare", error, times=None)
        reporting.nomad.change_outside(reporting.job_id(), labels={"team": "blue"})
        await reporting.until(lambda: reporting.nomad.faults.calls["compare"] > 0)

        answer = await reporting.ensure()

    assert answer.ready
