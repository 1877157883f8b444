"""Several workers (`pytest -n 2`): what they share out, and how they end: none is given up before it has tidied up."""

import contextlib

import pytest

TIDYING_SECONDS = 180


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Keep the tests of a file together, and all files with real runtimes.

    They act on the same servers, and one runtime's start takes seconds of a core: those of two workers would be late for
    their deadlines.
    """
    with_runtimes = {item.path for item in items if item.get_closest_marker("opencode")}
    for item in items:
        group = "runtimes" if item.path in with_runtimes else item.location[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """
    Wait until every worker has ended in order, in the process that they report to.

    1. Somebody interrupts the run. So hears every worker, which begins to take down its servers.
    2. Without this, it would be interrupted once more after 5 s and killed after another 10.
    3. Its servers would be left running, with no one to stop them.
    """
    distribution = session.config.pluginmanager.get_plugin("dsession")
    if distribution is None:
        return
    workers = [gateway.node for gateway in distribution.nodemanager.group]
    for worker in workers:
        worker.shutdown()
    for worker in workers:
        # What went wrong in a worker was told already.
        with contextlib.suppress(worker.channel.RemoteError, worker.channel.TimeoutError):
            worker.channel.waitclose(TIDYING_SECONDS)
