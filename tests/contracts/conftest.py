"""The real servers that the contract suites run against, and the Nomads behind the contract of the orchestrator."""

from collections.abc import AsyncIterator

import pytest

from bench.replayed_world import ReplayedWorld, replayed_world
from contracts.orchestrator_worlds import FakeWorld, RealWorld, new_job_id, real_world
from opencode_lifecycle.model.identifiers import JobId
from real_consul import real_consul
from real_opencode import open_opencode, opencode_program, real_opencode
from real_vault import real_vault

__all__ = ["open_opencode", "opencode_program", "real_consul", "real_opencode", "real_vault"]

REPLAYED = "replayed"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Ask the replayed Nomad nothing that no recording can tell."""
    left_out = [
        item for item in items if _is_replayed(item) and item.get_closest_marker("beyond_the_recording")
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_replayed(item: pytest.Item) -> bool:
    called = getattr(item, "callspec", None)
    return called is not None and called.params.get("world") == REPLAYED


@pytest.fixture(params=["fake", REPLAYED, pytest.param("real", marks=pytest.mark.servers)])
async def world(request, tmp_path) -> AsyncIterator[FakeWorld | ReplayedWorld | RealWorld]:
    """Give a Nomad: the fake, the one that replays what was recorded, which the bench measures with, and the real one."""
    if request.param == "fake":
        yield FakeWorld()
    elif request.param == REPLAYED:
        async with replayed_world(tmp_path) as replayed:
            yield replayed
    else:
        async with real_world(request.getfixturevalue("cluster")) as real:
            yield real


@pytest.fixture
def job_id() -> JobId:
    return new_job_id()
