"""Several workers (`pytest -n 2`), and how they end: none is given up before it has tidied up."""

import contextlib

import pytest

TIDYING_SECONDS = 180


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
