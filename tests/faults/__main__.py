"""Put every fault into the real servers again and again, show what held, write the report, and fail when one did not."""

import argparse
import sys
import tempfile
from pathlib import Path

import pytest

from bench import machine
from bench.show import say, write
from faults.matrix import MATRIX
from faults.outcomes import OUTCOMES
from faults.plans import PLAN, Plan
from faults.trials import figures_of

REPORT = Path(".local/report/faults.json")


class Planned:
    """Tells pytest what was asked for, and takes what came of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.config: pytest.Config | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[PLAN] = self.plan
        self.config = config


def main() -> int:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument(
        "names", nargs="*", metavar="fault", help=f"one of {', '.join(MATRIX)}; all when none"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MATRIX):
        parser.error(f"no fault is called {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="oc-faults-") as name:
        facts = {"before": machine.facts(Path(name))}
        planned = Planned(Plan(repetitions=arguments.repetitions, names=frozenset(arguments.names)))
        code = pytest.main(["-q", "-p", "no:cacheprovider", str(Path(__file__).parent)], plugins=[planned])
        facts["after"] = machine.facts(Path(name))
    assert planned.config is not None
    figures = figures_of(planned.config.stash.get(OUTCOMES, []), MATRIX)
    write(figures, facts, REPORT)
    for figure in figures:
        if not figure.holds:
            say(f"does not hold: {figure.name}")
    return int(code) or int(not figures or not all(figure.holds for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
