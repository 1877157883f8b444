"""A figure, what it must reach, and how it is shown. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the report. `bar` says in words what `value` must be; `holds` whether it is."""

    name: str
    value: float
    unit: str
    bar: str
    holds: bool
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One A B B A round: what each arm gave, twice, and what made the round noisy, if anything did."""

    ours: tuple[float, ...]
    bare: tuple[float, ...]
    noise: str = ""

    @property
    def ratio(self) -> float:
        """Ours over bare. Drift that is even over the round falls out."""
        return sum(self.ours) / sum(self.bare)


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "n": len(values),
    }


def quiet(blocks: Sequence[Block], wanted: int) -> list[Block]:
    """
    Choose the blocks that count: the first *wanted* without noise.

    When there are too few of them the noisy ones fill up, so that a loaded machine gives a figure with a note, not none.
    """
    calm = [block for block in blocks if not block.noise]
    return [*calm, *(block for block in blocks if block.noise)][:wanted]


def ratio_of(blocks: Sequence[Block]) -> float:
    """Return the median of the blocks' ratios."""
    return median(block.ratio for block in blocks)


def table(figures: Sequence[Figure]) -> list[tuple[str, str, str, str]]:
    return [
        (
            figure.name,
            f"{figure.value:.3g} {figure.unit}".rstrip(),
            figure.bar,
            "holds" if figure.holds else "DOES NOT HOLD",
        )
        for figure in figures
    ]
