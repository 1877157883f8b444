"""
What is said of a state machine: its moves, and what ends each of its states.

Whatever bounds a state is the very parameter that the code goes by, and is shown by its name with the value that it has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import timedelta
from enum import StrEnum
from types import ModuleType
from typing import Any, Final

from opencode_lifecycle.api.routes import ROUTES
from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.settings import Settings


@dataclass(frozen=True, slots=True)
class Bound:
    """A parameter that bounds a state: what it is called, and what it is where nothing else is asked for."""

    name: str
    value: timedelta | Backoff | int

    def __str__(self) -> str:
        return f"`{self.name}` ({_shown(self.value)})"


def setting(name: str) -> Bound:
    """Return that setting with its default. One that there is not is a `KeyError`."""
    return Bound(name, Settings.model_fields[name].default)


def default(of: type[Any], name: str, shown_as: str = "") -> Bound:
    """Return that field of a dataclass, whose default is what the code goes by. One that there is not is a `KeyError`."""
    field = {each.name: each for each in fields(of)}[name]
    value: Any = field.default if field.default_factory is MISSING else field.default_factory()
    return Bound(shown_as or f"{of.__name__}.{name}", value)


def constant(module: ModuleType, name: str) -> Bound:
    """Return that constant of a module, in seconds where it is called so. One that there is not is a `KeyError`."""
    value = vars(module)[name]
    return Bound(name, timedelta(seconds=value) if name.endswith("_SECONDS") else value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """
    One way in which a state ends.

    *how* is what happens; it names no figure but those of *within*, which bound the wait for it. *asked* are the requests
    by which a person ends the state, by the handlers of their routes. What has neither is *rest*: the state is where it is meant
    to stay. *to* is where it goes then; nowhere for what is final, or leaves the table.
    """

    how: str
    to: Sequence[StrEnum] = ()
    within: Sequence[Bound] = ()
    asked: Sequence[str] = ()
    rest: bool = False

    @property
    def ended_by(self) -> str:
        """Say what bounds it, or who ends it, or that nobody has to."""
        by = [str(bound) for bound in self.within]
        if self.asked:
            by.append(f"a person: {', '.join(f'`{call_of(name)}`' for name in self.asked)}")
        return ", ".join(by) or "nothing: it may stay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One table of legal moves: where it is entered, from which states it is left, and what ends each of them."""

    title: str
    about: str
    moves: Mapping[Any, frozenset[Any]]
    entries: Sequence[StrEnum]
    ends: frozenset[StrEnum] = frozenset()
    exits: Mapping[Any, Sequence[Exit]]


def call_of(name: str) -> str:
    """Return method and path of the route with that handler. One that there is not is a `KeyError`."""
    return _CALLS[name]


_CALLS: Final = {route.handler: f"{route.method} {route.path}" for route in ROUTES}
_UNITS: Final = (("days", 86_400), ("h", 3600), ("min", 60))


def _shown(value: timedelta | Backoff | int) -> str:
    if isinstance(value, Backoff):
        return f"{_shown(timedelta(seconds=value.first))} to {_shown(timedelta(seconds=value.most))}"
    if isinstance(value, int):
        return str(value)
    seconds = value.total_seconds()
    for unit, length in _UNITS:
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"
