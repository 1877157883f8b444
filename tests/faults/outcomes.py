"""
Gathers what came of every trial, and shows it at the end of a run.

A plugin of the whole run, not a conftest: where workers run the tests it is at work in the process that they report to, which
collects nothing and so loads no conftest of a folder.
"""

import pytest
from rich.console import Console

from faults.matrix import MATRIX
from faults.trials import Outcome, figures_of, measured_in, table_of

OUTCOME = "outcome of a trial"
"""The property under which the report of a test carries it."""
OUTCOMES: pytest.StashKey[list[Outcome]] = pytest.StashKey()


class Gathering:
    def __init__(self, outcomes: list[Outcome]) -> None:
        self._outcomes = outcomes

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._outcomes += [
            Outcome.from_plain(value) for name, value in report.user_properties if name == OUTCOME
        ]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = []
    config.pluginmanager.register(Gathering(config.stash[OUTCOMES]), "outcomes of trials")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = figures_of(config.stash[OUTCOMES], MATRIX)
    if figures:
        console = Console(highlight=False, width=160)
        with console.capture() as drawn:
            console.print(table_of(figures))
            for line in measured_in(figures):
                console.print(line)
        terminalreporter.section("faults")
        terminalreporter.write_line(drawn.get())
