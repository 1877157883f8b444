"""One repetition of a fault, what came of all of them, and how that is shown."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import Any

from rich.table import Table

from bench.figures import Figure
from faults.matrix import Fault


@dataclass(slots=True)
class Trial:
    """One repetition: what may vary in it is drawn from its own seed, and what it measures is kept with its outcome."""

    fault: str
    number: int
    of: int
    recoveries: list[float] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    random: Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = Random(f"{self.fault} {self.number}")

    @property
    def is_the_long_one(self) -> bool:
        """Whether what takes a minute takes it in this one: the first of many, since all pay for it."""
        return self.of > 1 and self.number == 0

    @contextmanager
    def recovery(self) -> Iterator[None]:
        """Take the time from the end of the fault until all is well again."""
        begun = time.monotonic()
        yield
        self.recoveries.append(time.monotonic() - begun)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    trial: Trial
    test: str
    held: bool
    error: str = ""

    def as_plain(self) -> dict[str, Any]:
        """Return it in plain values, which can be sent from one process to another."""
        trial = self.trial
        return {
            "fault": trial.fault,
            "number": trial.number,
            "of": trial.of,
            "recoveries": list(trial.recoveries),
            "measured": dict(trial.measured),
            "test": self.test,
            "held": self.held,
            "error": self.error,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Outcome":
        trial = Trial(
            plain["fault"], plain["number"], plain["of"], list(plain["recoveries"]), dict(plain["measured"])
        )
        return cls(trial=trial, test=plain["test"], held=plain["held"], error=plain["error"])


def figures_of(outcomes: Sequence[Outcome], matrix: Mapping[str, Fault]) -> list[Figure]:
    """Return one figure for each fault that was tried. A repetition held when every test of the fault held in it."""
    tried = {outcome.trial.fault for outcome in outcomes}
    return [
        _figure(name, fault, [each for each in outcomes if each.trial.fault == name])
        for name, fault in matrix.items()
        if name in tried
    ]


def _figure(name: str, fault: Fault, outcomes: Sequence[Outcome]) -> Figure:
    numbers = {each.trial.number for each in outcomes}
    failed = {each.trial.number for each in outcomes if not each.held}
    times = [seconds for each in outcomes for seconds in each.trial.recoveries]
    measured: dict[str, list[Any]] = {}
    for each in outcomes:
        for key, value in each.trial.measured.items():
            measured.setdefault(key, []).append(value)
    return Figure(
        name=f"{name}: {fault.injected}",
        value=len(numbers - failed),
        unit=f"of {len(numbers)} repetitions",
        bar=fault.must_hold,
        holds=not failed,
        details={
            "tests": sorted({each.test for each in outcomes}),
            "failed": [
                {"test": each.test, "repetition": each.trial.number + 1, "error": each.error}
                for each in outcomes
                if not each.held
            ],
            "recovery_seconds": {
                "median": round(median(times), 2) if times else None,
                "max": round(max(times), 2) if times else None,
                "n": len(times),
            },
            "measured": measured,
        },
    )


def table_of(figures: Sequence[Figure]) -> Table:
    """Draw the table for people."""
    shown = Table("fault", "what must hold", "repetitions", "held", "median time to recover")
    for figure in figures:
        seconds = figure.details["recovery_seconds"]["median"]
        shown.add_row(
            figure.name,
            figure.bar,
            figure.unit.split()[1],
            f"{figure.value:.0f}" if figure.holds else f"[bold]{figure.value:.0f}, DOES NOT HOLD[/bold]",
            "" if seconds is None else f"{seconds:.1f} s",
        )
    return shown


def measured_in(figures: Sequence[Figure]) -> list[str]:
    """Return a line for each thing that the trials measured besides."""
    return [
        f"{figure.name.partition(':')[0]}, {name}: median {median(values):.3g}, max {max(values):.3g}"
        for figure in figures
        for name, values in figure.details["measured"].items()
    ]
