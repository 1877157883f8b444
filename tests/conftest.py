"""What every test may use."""

import signal

pytest_plugins = ["cluster_fixture", "golden_files"]


def pytest_configure() -> None:
    """
    Take signals as a person's shell would give them.

    A runner in the background may have been started with some ignored, which every program under test would inherit.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
