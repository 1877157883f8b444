"""The kinds of value that commands take."""

import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final

import click

from opencode_lifecycle.model.errors import InvalidUserId
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import UserId, parse_user_id

_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
_DURATION: Final = re.compile(r"(\d{1,7})([smh]?)\Z", re.ASCII)


class UserIdType(click.ParamType[UserId]):
    """A user id, exactly as the backend gives it."""

    name = "user"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UserId:
        try:
            return parse_user_id(value)
        except InvalidUserId as error:
            self.fail(error.message, param, ctx)


class DurationType(click.ParamType[int]):
    """A span such as `90s`, `2m` or `1h`, as whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _DURATION.match(str(value))
        if match is None:
            self.fail("write a span of time as 90s, 2m or 1h", param, ctx)
        return int(match[1]) * _SECONDS[match[2]]


class PairType(click.ParamType[tuple[str, str]]):
    """A pair `name=value`; the value may be empty and may hold further equals signs."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not name or not equals:
            self.fail("write it as name=value", param, ctx)
        return name, text


class StaleType(click.ParamType[str]):
    """A facet, or `true` for any of them."""

    name = "facet"
    ANY: Final = "true"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != self.ANY and value not in list(Facet):
            self.fail(f"{value} is no facet; there are {', '.join(Facet)}", param, ctx)
        return str(value)


def choice(values: type[StrEnum]) -> click.Choice[str]:
    return click.Choice([member.value for member in values])


def user_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument USER."""
    return click.argument("user_id", metavar="USER", type=UserIdType())(command)


def mapping(option: str, pairs: Sequence[tuple[str, str]], *, none: bool) -> dict[str, str] | None:
    """Return what *option* and its `--no-` twin ask for; None means unchanged."""
    if pairs and none:
        raise click.UsageError(f"--{option} and --no-{option} exclude each other")
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"--{option}: {name} is given twice")
    return dict(pairs) if pairs or none else None
