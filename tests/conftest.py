"""What every test may use."""

import signal

pytest_plugins = ["cluster_fixture", "golden_files", "faults.outcomes", "workers"]

LONGEST_ID = 100


def pytest_configure() -> None:
    """
    Take signals as a person's shell would give them.

    A runner in the background may have been started with some ignored, which every program under test would inherit.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Tell a long text by its beginning and its length, so that no name of a test is a page, or megabytes, long."""
    if isinstance(val, bytes | str) and len(val) > LONGEST_ID:
        return f"{val[: LONGEST_ID // 2]!a} and so on to {len(val)}"
    return None
