"""One check for every table of legal moves."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from opencode_lifecycle.model.errors import IllegalTransition

State = TypeVar("State", bound=StrEnum)


def check_transition(
    whose: str, kind: str, moves: Mapping[State, frozenset[State]], current: State, to: State
) -> None:
    """Raise `IllegalTransition` unless *moves* let *whose* state of that *kind* go from *current* to *to*. Staying is legal."""
    if to is not current and to not in moves[current]:
        raise IllegalTransition(f"{whose} cannot go from {kind} {current} to {to}")
