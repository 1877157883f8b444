"""How often and which: what `make faults` asks for. Without it, each fault is tried once."""

from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    repetitions: int = 1
    names: frozenset[str] = frozenset()
    """The faults that are tried; all of them when there is none."""


PLAN: pytest.StashKey[Plan] = pytest.StashKey()
