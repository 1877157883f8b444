"""
Query parameters: each is declared once, with how it is read, what it means, and its schema for the description.

Reading is strict. A parameter that the call does not know, that comes twice or that cannot be read is refused, and no
value is ever clamped into its range.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar, cast
from urllib.parse import unquote_to_bytes

from opencode_lifecycle.model.errors import InvalidRequest
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import GROUP_PATTERN, USER_ID_PATTERN, ReleaseId, UserId
from opencode_lifecycle.model.rollout import MemberState
from opencode_lifecycle.model.states import Health, MigrationState, Phase, Reason

Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)
Member = TypeVar("Member", bound=StrEnum)

MAX_WAIT_SECONDS: Final = 60
MAX_WRAP_SECONDS: Final = 3600
MAX_LIMIT: Final = 500
MAX_TAIL: Final = 10_000
LONGEST_LABEL: Final = 128
LABEL_NAME: Final = r"[a-z][a-z0-9_-]{0,31}"

_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DURATION: Final = re.compile(r"([0-9]{1,5})(s|m)\Z", re.ASCII)
_WHOLE_NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,8})\Z", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class Parameter(Generic[Value_co]):
    """One query parameter. `read` returns its value, or raises ValueError saying what is expected."""

    name: str
    read: Callable[[str], Value_co]
    default: Value_co
    schema: Mapping[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """The query of one request, read."""

    values: Mapping[Parameter[Any], Any] = field(default_factory=dict)

    def __getitem__(self, parameter: Parameter[Value]) -> Value:
        return cast("Value", self.values.get(parameter, parameter.default))


NO_ARGUMENTS: Final = Arguments()


def read_query(raw: str, accepted: tuple[Parameter[Any], ...]) -> Arguments:
    """Read the *raw* query string of a call that takes the *accepted* parameters."""
    if not raw:
        return NO_ARGUMENTS
    known = {parameter.name: parameter for parameter in accepted}
    values: dict[Parameter[Any], Any] = {}
    for part in raw.split("&"):
        name, has_value, text = part.partition("=")
        parameter = known.get(_decoded(name))
        if parameter is None:
            raise InvalidRequest(_not_taken(known))
        if parameter in values:
            raise InvalidRequest(f"The query parameter {parameter.name} comes more than once.")
        if not has_value:
            raise InvalidRequest(f"The query parameter {parameter.name} has no value.")
        try:
            values[parameter] = parameter.read(_decoded(text))
        except ValueError as error:
            raise InvalidRequest(f"The query parameter {parameter.name} must be {error}.") from None
    return Arguments(values)


def _not_taken(known: Collection[str]) -> str:
    """Say that a parameter is not taken, by those that are: what a caller wrote may be a secret, and is not repeated."""
    taken = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
    return f"The query has a parameter that this call does not take; {taken}."


def _decoded(text: str) -> str:
    if _BROKEN_ESCAPE.search(text) is not None:
        raise InvalidRequest("The query has a broken percent escape.")
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The query is not UTF-8.") from None


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if _WHOLE_NUMBER.match(text) is None or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return read


def duration(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a duration as whole seconds, or raises ValueError saying what is expected."""

    def read(text: str) -> int:
        match = _DURATION.match(text)
        seconds = int(match[1]) * (60 if match[2] == "m" else 1) if match is not None else -1
        if not least <= seconds <= most:
            raise ValueError(f"a duration from {least}s to {most}s, such as 20s or 1m")
        return seconds

    return read


def _member(members: type[Member]) -> Callable[[str], Member]:
    def read(text: str) -> Member:
        try:
            return members(text)
        except ValueError:
            raise ValueError(f"one of {', '.join(members)}") from None

    return read


def _stale(text: str) -> bool | Facet:
    if text in {"true", "false"}:
        return text == "true"
    try:
        return Facet(text)
    except ValueError:
        raise ValueError(f"true, false or one of {', '.join(Facet)}") from None


def _truth(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("true or false")
    return text == "true"


def _choice(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return read


def _pattern(pattern: str, expected: str) -> Callable[[str], str]:
    compiled = re.compile(f"(?:{pattern.removeprefix('^').removesuffix('$')})\\Z", re.ASCII)

    def read(text: str) -> str:
        if compiled.match(text) is None:
            raise ValueError(expected)
        return text

    return read


def _label(text: str) -> Mapping[str, str]:
    name, has_value, value = text.partition("=")
    if (
        not has_value
        or re.fullmatch(LABEL_NAME, name) is None
        or len(value) > LONGEST_LABEL
        or not value.isprintable()
    ):
        raise ValueError("a label as name=value")
    return {name: value}


def _enumeration(name: str, members: type[Member], description: str) -> "Parameter[Member | None]":
    return Parameter(name, _member(members), None, {"type": "string", "enum": list(members)}, description)


_read_release = _pattern(r"rel_[A-Za-z0-9_-]{1,64}", "a release id")
_read_user = _pattern(USER_ID_PATTERN, "a user id")

WAIT: Final[Parameter[int | None]] = Parameter(
    "wait",
    duration(0, MAX_WAIT_SECONDS),
    None,
    {"type": "string", "pattern": "^[0-9]+(s|m)$", "examples": ["20s"]},
    "How long to wait for the stack to be ready before answering 202; at most 60s.",
)
WRAP: Final[Parameter[int | None]] = Parameter(
    "wrap",
    duration(1, MAX_WRAP_SECONDS),
    None,
    {"type": "string", "pattern": "^[0-9]+(s|m)$", "examples": ["60s"]},
    "Answer with a Vault wrapping token that lives this long, in place of the password.",
)
AUDIENCE: Final[Parameter[str]] = Parameter(
    "audience",
    _choice("internal", "public"),
    "internal",
    {"type": "string", "enum": ["internal", "public"], "default": "internal"},
    "For whom the address is: a backend, or a browser.",
)
HOLD: Final[Parameter[bool]] = Parameter(
    "hold",
    _truth,
    False,
    {"type": "boolean", "default": False},
    "Keep it stopped: ensure is refused until start or recover. Operators only.",
)
WORKSPACE: Final[Parameter[str]] = Parameter(
    "workspace",
    _choice("keep", "delete"),
    "keep",
    {"type": "string", "enum": ["keep", "delete"], "default": "keep"},
    "Whether the volume stays for the next stack of this user, or goes with its data.",
)
LOG_TYPE: Final[Parameter[str]] = Parameter(
    "type",
    _choice("stdout", "stderr"),
    "stdout",
    {"type": "string", "enum": ["stdout", "stderr"], "default": "stdout"},
    "Which of the two logs.",
)
TAIL: Final[Parameter[int]] = Parameter(
    "tail",
    _whole(0, MAX_TAIL),
    200,
    {"type": "integer", "minimum": 0, "maximum": MAX_TAIL, "default": 200},
    "How many of the last lines.",
)
FOLLOW: Final[Parameter[bool]] = Parameter(
    "follow", _truth, False, {"type": "boolean", "default": False}, "Go on with what comes after."
)
LIMIT: Final[Parameter[int]] = Parameter(
    "limit",
    _whole(1, MAX_LIMIT),
    50,
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 50},
    "How many items at most.",
)
CURSOR: Final[Parameter[str | None]] = Parameter(
    "cursor", str, None, {"type": "string"}, "The `next_cursor` of the page before."
)
PHASE: Final = _enumeration("phase", Phase, "Only stacks in this phase.")
HEALTH: Final = _enumeration("health", Health, "Only stacks of this health.")
MIGRATION_STATE: Final = _enumeration(
    "migration_state", MigrationState, "Only stacks in this migration state."
)
MEMBER_STATE: Final = _enumeration("state", MemberState, "Only members in this state.")
MEMBER: Final[Parameter[UserId | None]] = Parameter(
    "user",
    lambda text: UserId(_read_user(text)),
    None,
    {"type": "string", "pattern": USER_ID_PATTERN},
    "Only the member of this user.",
)
REASON: Final = _enumeration(
    "reason",
    Reason,
    "Only stacks with this `reason`. In which facet they are stale is `stale`.",
)
RELEASE: Final[Parameter[ReleaseId | None]] = Parameter(
    "release",
    lambda text: ReleaseId(_read_release(text)),
    None,
    {"type": "string"},
    "Only stacks on this release.",
)
STALE: Final[Parameter[bool | Facet | None]] = Parameter(
    "stale",
    _stale,
    None,
    {"type": "string", "enum": ["true", "false", *Facet]},
    "Only stacks that are stale, are not, or are in this facet.",
)
DRY_RUN: Final[Parameter[bool]] = Parameter(
    "dry_run", _truth, False, {"type": "boolean", "default": False}, "Only tell what would be done."
)
STANDING: Final[Parameter[bool]] = Parameter(
    "standing", _truth, True, {"type": "boolean", "default": True}, "Leave out what is cleared."
)
GROUP: Final[Parameter[str | None]] = Parameter(
    "group",
    _pattern(GROUP_PATTERN, "a group name"),
    None,
    {"type": "string", "pattern": GROUP_PATTERN},
    "Only stacks of this group.",
)
LABEL: Final[Parameter[Mapping[str, str] | None]] = Parameter(
    "label",
    _label,
    None,
    {"type": "string", "pattern": f"^{LABEL_NAME}=.*$", "examples": ["team=search"]},
    "Only stacks with this label, as name=value.",
)
