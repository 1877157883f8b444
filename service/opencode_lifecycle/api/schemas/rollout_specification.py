"""What a rollout is asked to do. What is shown of it can be sent back."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from opencode_lifecycle.api.schemas.shapes import (
    Incoming,
    LabelName,
    LabelValue,
    Mirror,
    Outgoing,
)
from opencode_lifecycle.api.schemas.stacks import MAX_LABELS
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import GROUP_PATTERN, USER_ID_PATTERN, PlanId, ReleaseId, UserId
from opencode_lifecycle.model.migration import AtDeadline
from opencode_lifecycle.model.rollout_specification import (
    Amount,
    Gate,
    RolloutSpecification,
    Selector,
    Strategy,
)

RELEASE_PATTERN: Final = r"^rel_[A-Za-z0-9_-]{1,64}$"
PLAN_PATTERN: Final = r"^plan_[0-7][0-9A-HJKMNP-TV-Z]{25}$"
MOST_VALUES: Final = 1000
"""Of one filter of a selector but for users, who may be many."""

_AS_IT_IS: Final = Strategy()
_SECONDS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600}
_DURATION: Final = re.compile(r"(0|[1-9][0-9]{0,6})([smh])\Z", re.ASCII)


def read_duration(text: str) -> timedelta:
    """Read `90s`, `15m` or `2h`, and nothing that is written in any other way: `ValueError`."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError("must be a duration such as 90s, 15m or 2h")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def duration_text(span: timedelta) -> str:
    """Write *span* as `read_duration` reads it, in its largest whole unit."""
    seconds = round(span.total_seconds())
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _amount(text: str) -> str:
    try:
        Amount.parse(text)
    except ValueError as error:
        raise PydanticCustomError("amount", "{said}", {"said": str(error)}) from None
    return text


def _duration(text: str) -> str:
    try:
        read_duration(text)
    except ValueError as error:
        raise PydanticCustomError("duration", "{said}", {"said": str(error)}) from None
    return text


AmountText = Annotated[
    str,
    AfterValidator(_amount),
    Field(json_schema_extra={"pattern": "^(0|[1-9][0-9]{0,6})%?$"}, examples=["10", "10%"]),
]
DurationText = Annotated[
    str,
    AfterValidator(_duration),
    Field(json_schema_extra={"pattern": "^(0|[1-9][0-9]{0,6})[smh]$"}, examples=["60s"]),
]
ReleaseText = Annotated[str, Field(pattern=RELEASE_PATTERN)]


class SelectorBody(Incoming):
    """
    Which stacks. Filters are joined by and, what one filter lists by or; without any it is every stack that differs from
    what it is to become, which `all_stale` says in so many words. `releases` are those that run now, `reasons` the facets in
    which a stack differs; the `reason` of a stack is something else.
    """

    all_stale: bool = False
    reasons: list[Annotated[Facet, Field(strict=False)]] = Field(default_factory=list)
    releases: Annotated[list[ReleaseText], Field(max_length=MOST_VALUES)] = Field(default_factory=list)
    labels: Annotated[dict[LabelName, LabelValue], Field(max_length=MAX_LABELS)] = Field(default_factory=dict)
    groups: Annotated[list[Annotated[str, Field(pattern=GROUP_PATTERN)]], Field(max_length=MOST_VALUES)] = (
        Field(default_factory=list)
    )
    users: list[Annotated[str, Field(pattern=USER_ID_PATTERN)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _selects_somebody(self) -> Self:
        """
        Refuse filters that were given and are all empty: whoever's list of users came out empty does not mean everybody.

        A whole selector, as it is shown of a rollout, says by itself that nothing is left out by mistake.
        """
        filters = self.model_fields_set - {"all_stale"}
        is_whole = self.model_fields_set == type(self).model_fields.keys()
        is_set = self.all_stale or any(getattr(self, name) for name in filters)
        if filters and not is_whole and not is_set:
            raise PydanticCustomError(
                "selector",
                "selects nobody, since it is empty; leave it out for every stack that differs",
                {"pointer": f"/selector/{min(filters)}"},
            )
        return self

    def to_domain(self) -> Selector:
        return Selector(
            all_stale=self.all_stale,
            reasons=tuple(self.reasons),
            releases=tuple(ReleaseId(each) for each in self.releases),
            labels=self.labels,
            groups=tuple(self.groups),
            users=tuple(UserId(each) for each in self.users),
        )


class GateBody(Incoming):
    """
    What must be true after each wave before the next begins. Of the canaries none may fail, of all stacks as many as
    `failure_budget`; `prompt` is asked of some that were moved, and must be answered.
    """

    failure_budget: AmountText = str(_AS_IT_IS.gate.failure_budget)
    health: bool = _AS_IT_IS.gate.health
    prompt: str | None = None

    def to_domain(self) -> Gate:
        return Gate(failure_budget=Amount.parse(self.failure_budget), health=self.health, prompt=self.prompt)


class StrategyBody(Incoming):
    """
    The pace. The canaries come first and may be none; the last of `waves` is repeated until nobody is left.

    An agent at work is waited for until `deadline` after the first order to its stack; then it is skipped, held or forced.
    `max_unavailable` bounds how many stacks may be without a working runtime; null leaves that to `max_in_flight`.
    """

    canary: AmountText = str(_AS_IT_IS.canary)
    waves: list[AmountText] = Field(default_factory=lambda: [str(each) for each in _AS_IT_IS.waves])
    max_in_flight: int = _AS_IT_IS.max_in_flight
    max_unavailable: AmountText | None = None
    soak: DurationText = duration_text(_AS_IT_IS.soak)
    gate: GateBody = Field(default_factory=GateBody)
    deadline: DurationText = duration_text(_AS_IT_IS.deadline)
    at_deadline: Annotated[AtDeadline, Field(strict=False)] = _AS_IT_IS.at_deadline

    def to_domain(self) -> Strategy:
        unavailable = self.max_unavailable
        return Strategy(
            canary=Amount.parse(self.canary),
            waves=tuple(Amount.parse(each) for each in self.waves),
            max_in_flight=self.max_in_flight,
            max_unavailable=Amount.parse(unavailable) if unavailable is not None else None,
            soak=read_duration(self.soak),
            gate=self.gate.to_domain(),
            deadline=read_duration(self.deadline),
            at_deadline=self.at_deadline,
        )


class RolloutBody(Incoming):
    """
    What is to be done; nothing at all asks that every stale stack be put right, at the default pace.

    Without `release` each stack is brought to what it is wanted to be already. `rotate_passwords` gives each a new password
    on the way, `recreate` a new allocation: both move stacks that are not stale, too.
    """

    release: ReleaseText | None = None
    selector: SelectorBody = Field(default_factory=SelectorBody)
    strategy: StrategyBody = Field(default_factory=StrategyBody)
    rotate_passwords: bool = False
    recreate: bool = False

    def to_domain(self) -> RolloutSpecification:
        return RolloutSpecification(
            release=ReleaseId(self.release) if self.release is not None else None,
            selector=self.selector.to_domain(),
            strategy=self.strategy.to_domain(),
            rotate_passwords=self.rotate_passwords,
            recreate=self.recreate,
        )


class StartRolloutBody(RolloutBody):
    """A specification, or the id of the `plan` that is to be applied as it is."""

    plan: Annotated[str, Field(pattern=PLAN_PATTERN)] | None = None

    @model_validator(mode="after")
    def _plan_stands_alone(self) -> Self:
        others = sorted(self.model_fields_set - {"plan"})
        if self.plan is not None and others:
            raise PydanticCustomError(
                "plan",
                "is applied as it was made; leave out {others}",
                {"pointer": "/plan", "others": ", ".join(others)},
            )
        return self

    def plan_id(self) -> PlanId | None:
        return PlanId(self.plan) if self.plan is not None else None


class SelectorShape(Mirror):
    all_stale: bool
    reasons: Sequence[Facet]
    releases: Sequence[str]
    labels: Mapping[str, str]
    groups: Sequence[str]
    users: Sequence[str]


class GateShape(Outgoing):
    failure_budget: str
    health: bool
    prompt: str | None


class StrategyShape(Outgoing):
    canary: str
    waves: Sequence[str]
    max_in_flight: int
    max_unavailable: str | None
    soak: str
    gate: GateShape
    deadline: str
    at_deadline: AtDeadline

    @classmethod
    def from_domain(cls, strategy: Strategy) -> Self:
        gate, unavailable = strategy.gate, strategy.max_unavailable
        return cls(
            canary=str(strategy.canary),
            waves=[str(each) for each in strategy.waves],
            max_in_flight=strategy.max_in_flight,
            max_unavailable=str(unavailable) if unavailable is not None else None,
            soak=duration_text(strategy.soak),
            gate=GateShape(failure_budget=str(gate.failure_budget), health=gate.health, prompt=gate.prompt),
            deadline=duration_text(strategy.deadline),
            at_deadline=strategy.at_deadline,
        )


class SpecificationShape(Outgoing):
    release: str | None
    selector: SelectorShape
    strategy: StrategyShape
    rotate_passwords: bool
    recreate: bool

    @classmethod
    def from_domain(cls, specification: RolloutSpecification) -> Self:
        return cls(
            release=specification.release,
            selector=SelectorShape.from_domain(specification.selector),
            strategy=StrategyShape.from_domain(specification.strategy),
            rotate_passwords=specification.rotate_passwords,
            recreate=specification.recreate,
        )
