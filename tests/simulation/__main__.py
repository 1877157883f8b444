"""
Run schedules on every core, die at every point, hunt planted bugs; show it, write the report, and fail when a figure does
not hold. A failure prints the seed, and with --replay its story.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.figures import Figure
from bench.show import say, write
from simulation import crashes, mutants, scenarios
from simulation.schedule import Schedule, Script, quiet

REPORT = Path(".local/report/simulate.json")
_BATCH = 250
_MOST_PER_MUTANT = 1500
_SEEDS_PER_POINT = 2
_SEEDS_PER_SCENARIO = 50


def _batch(first: int) -> tuple[int, list[tuple[int, str]]]:
    quiet()
    bad = [
        (seed, outcome.violation)
        for seed in range(first, first + _BATCH)
        if (outcome := Schedule(seed).run()).violation is not None
    ]
    return _BATCH, bad


def _point(point: crashes.Point) -> tuple[str, int, list[tuple[int, str]]]:
    quiet()
    died, bad = 0, []
    for outcome, really in crashes.die_at(point, seeds=_SEEDS_PER_POINT):
        if outcome.violation is not None:
            bad.append((outcome.seed, outcome.violation))
        died += really
        if died >= _SEEDS_PER_POINT:
            break
    return str(point), died, bad


def _scenario(number: int) -> tuple[int, list[tuple[int, str]]]:
    quiet()
    story = scenarios.SCENARIOS[number].story
    bad = [
        (seed, outcome.violation)
        for seed in range(_SEEDS_PER_SCENARIO)
        if (outcome := Schedule(seed, Script(scenario=story)).run()).violation is not None
    ]
    return number, bad


def _mutant(number: int) -> tuple[int, tuple[int, str] | None]:
    quiet()
    return number, mutants.hunt(mutants.MUTANTS[number], most=_MOST_PER_MUTANT)


def _schedules(pool: "multiprocessing.pool.Pool", count: int, first: int) -> Figure:
    began, done, bad = time.monotonic(), 0, []
    for size, found in pool.imap_unordered(_batch, range(first, first + count, _BATCH)):
        done += size
        bad += found
        rate = done / (time.monotonic() - began)
        say(f"\r{done:>8,} of {count:,} schedules, {len(bad)} violations, {rate:.0f} a second")
    for seed, violation in bad[:20]:
        say(f"seed {seed}: {violation}\n    PYTHONPATH=tests python -m simulation --replay {seed}")
    return Figure(
        name="simulated schedules without a violation",
        value=done - len(bad),
        unit="schedules",
        bar=f"all of {count:,}",
        holds=not bad,
        details={
            "violations": [{"seed": seed, "what": what} for seed, what in bad[:100]],
            "minutes": round((time.monotonic() - began) / 60, 1),
            "first seed": first,
        },
    )


def _crash_points(pool: "multiprocessing.pool.Pool") -> Figure:
    points = crashes.points()
    results = pool.map(_point, points)
    missed = [name for name, died, _ in results if died == 0]
    bad = [(name, *each) for name, _, found in results for each in found]
    for name, seed, violation in bad[:20]:
        say(f"{name}, seed {seed}: {violation}")
    for name in missed:
        say(f"it never came to {name}")
    return Figure(
        name="points to die or to fail at, of ensure, stop, recreate, delete and rotate",
        value=len(points) - len(missed),
        unit="points",
        bar=f"all of {len(points)}, 0 violations",
        holds=not bad and not missed,
        details={"violations": bad, "missed": missed, "points": [name for name, _, _ in results]},
    )


def _stories(pool: "multiprocessing.pool.Pool") -> Figure:
    table = Table("fault", "must hold", "schedules", "")
    bad = {}
    for number, found in pool.map(_scenario, range(len(scenarios.SCENARIOS))):
        each = scenarios.SCENARIOS[number]
        table.add_row(
            each.fault, each.must_hold, str(_SEEDS_PER_SCENARIO), "holds" if not found else str(found[0])
        )
        if found:
            bad[each.fault] = found
    Console(highlight=False).print(table)
    return Figure(
        name="faults told in virtual time",
        value=len(scenarios.SCENARIOS) - len(bad),
        unit="faults",
        bar=f"all of {len(scenarios.SCENARIOS)}",
        holds=not bad,
        details={"violations": bad},
    )


def _planted(pool: "multiprocessing.pool.Pool") -> Figure:
    table = Table("class", "planted bug", "caught after", "by")
    caught = 0
    rows = []
    for number, found in pool.imap(_mutant, range(len(mutants.MUTANTS))):
        mutant = mutants.MUTANTS[number]
        caught += found is not None
        after, by = (str(found[0]), found[1]) if found else ("-", "not caught")
        table.add_row(mutant.of, mutant.what, after, by)
        rows.append({"class": mutant.of, "what": mutant.what, "schedules": after, "by": by})
    for of, where in mutants.NOT_HERE.items():
        table.add_row(of, f"not here: {where}", "", "")
    Console(highlight=False).print(table)
    return Figure(
        name="planted bugs that are caught",
        value=caught,
        unit="bugs",
        bar=f"all of {len(mutants.MUTANTS)}",
        holds=caught == len(mutants.MUTANTS),
        details={"bugs": rows, "not here": mutants.NOT_HERE},
    )


def _replay(seed: int) -> int:
    quiet()
    outcome = Schedule(seed).run()
    sys.stdout.write("\n".join([*outcome.trace, outcome.violation or "no violation"]) + "\n")
    return 1 if outcome.violation else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=200_000)
    parser.add_argument("--first", type=int, default=0, help="The first seed.")
    parser.add_argument("--replay", type=int, metavar="SEED", help="Tell the story of one seed.")
    chosen = parser.parse_args(arguments)
    if chosen.replay is not None:
        return _replay(chosen.replay)
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        figures = [
            _crash_points(pool),
            _stories(pool),
            _planted(pool),
            _schedules(pool, chosen.schedules, chosen.first),
        ]
    shown = Table("figure", "reached", "bar", "")
    for figure in figures:
        shown.add_row(
            figure.name, f"{figure.value:,.0f}", figure.bar, "holds" if figure.holds else "DOES NOT HOLD"
        )
    Console(highlight=False).print(shown)
    write(figures, {"cores": os.cpu_count()}, REPORT)
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
