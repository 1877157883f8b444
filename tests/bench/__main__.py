"""Measure, show, write the report, and fail when a figure does not hold."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bench import machine
from bench.figures import Figure
from bench.show import say, show, write

NAMES = ("hot", "cold", "start", "fleet", "visibility", "lists", "planning", "rollout", "interruption")


async def _measure(names: list[str], directory: Path) -> list[Figure]:
    figures: list[Figure] = []
    if "hot" in names:
        from bench import hot  # noqa: PLC0415 - one figure alone loads no more than it needs

        figures += await hot.measure(directory)
    if "fleet" in names:
        from bench import fleet  # noqa: PLC0415

        figures += await fleet.measure(directory)
    if "visibility" in names:
        from bench import visibility  # noqa: PLC0415

        figures += await visibility.measure(directory)
    if "lists" in names:
        from bench import lists  # noqa: PLC0415

        figures += await lists.measure(directory)
    if "planning" in names:
        from bench import planning  # noqa: PLC0415

        figures += await planning.measure(directory)
    if {"cold", "start", "visibility", "rollout", "interruption"} & set(names):
        from bench import servers  # noqa: PLC0415

        with servers.cluster() as cluster:
            if "cold" in names:
                from bench import cold  # noqa: PLC0415

                figures += await cold.measure(cluster, directory)
            if "visibility" in names:
                from bench import visibility_real  # noqa: PLC0415

                figures += await visibility_real.measure(cluster, directory)
            if "rollout" in names:
                from bench import rollout  # noqa: PLC0415

                figures += await rollout.measure(cluster, directory)
            if "interruption" in names:
                from bench import interruption  # noqa: PLC0415

                figures += await interruption.measure(cluster, directory)
            if "start" in names:
                from bench import start  # noqa: PLC0415

                figures += await start.measure(cluster, directory)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="|".join(NAMES), default=[])
    names = parser.parse_args().names or list(NAMES)
    with tempfile.TemporaryDirectory(prefix="oc-bench-") as name:
        directory = Path(name)
        facts = {"before": machine.facts(directory)}
        figures = asyncio.run(_measure(names, directory))
        facts["after"] = machine.facts(directory)
    show(figures, facts["before"])
    write(figures, facts)
    failing = [figure.name for figure in figures if not figure.holds]
    for each in failing:
        say(f"does not hold: {each}")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
