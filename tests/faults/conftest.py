"""What the faults need: servers and services as the end-to-end tests have them, and the record of each trial."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from cluster_fixture import RealCluster
from end_to_end.conftest import model, new_service, opencode_path, servers
from faults.interceptor import SERVERS, Interceptor, interceptor_of
from faults.outcomes import OUTCOME
from faults.plans import PLAN, Plan
from faults.trials import Outcome, Trial
from postgresql_fixture import postgresql
from real_opencode import opencode_program

__all__ = ["model", "new_service", "opencode_path", "opencode_program", "postgresql", "servers"]

_TRIAL: pytest.StashKey[Trial] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(name): is about one of the faults of the matrix")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "trial" in metafunc.fixturenames:
        plan = metafunc.config.stash.get(PLAN, Plan())
        numbers = range(plan.repetitions)
        metafunc.parametrize("trial", numbers, indirect=True, ids=[f"{number + 1}" for number in numbers])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the faults that were not asked for."""
    names = config.stash.get(PLAN, Plan()).names
    if names:
        left_out = [item for item in items if _fault_of(item) not in names]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _fault_of(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("fault")
    return marker.args[0] if marker is not None else None


def _name_of(item: pytest.Item) -> str:
    """Return the test's name and case, which are the same in every repetition."""
    return re.sub(r"\[\d+-", "[", re.sub(r"\[\d+\]$", "", item.name))


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Trial:
    name = _fault_of(request.node)
    assert name is not None, "a test with a trial is marked with its fault"
    trial = Trial(name, request.param, request.config.stash.get(PLAN, Plan()).repetitions)
    request.node.stash[_TRIAL] = trial
    return trial


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    trial = item.stash.get(_TRIAL, None)
    if trial is None and report.failed and (name := _fault_of(item)) is not None:
        trial = Trial(name, 0, 1)
    if trial is not None and (report.when == "call" or report.failed):
        lines = report.longreprtext.strip().splitlines() if report.failed else []
        error = next((line[1:].strip() for line in lines if line.startswith("E ")), "".join(lines[-1:]))
        outcome = Outcome(trial=trial, test=_name_of(item), held=report.passed, error=error[:1000])
        report.user_properties.append((OUTCOME, outcome.as_plain()))
    return report


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ways(cluster: RealCluster) -> AsyncIterator[dict[str, Interceptor]]:
    """Give what stands between a service and each of its servers. It works while a test of the module runs."""
    async with AsyncExitStack() as stack:
        yield {
            server: await stack.enter_async_context(interceptor_of(getattr(cluster, f"{server}_address")))
            for server in SERVERS
        }
