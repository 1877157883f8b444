"""
What a rollout is asked to do: which stacks, to what, and at which pace.

A specification says nothing of how far it got; that is `model.rollout`. `validate` is the one place that says what is
wrong with one, each fault with a pointer into the JSON body that it came from.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Self

from opencode_lifecycle.model.errors import BodyFault
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.migration import AtDeadline

MOST_IN_FLIGHT: Final = 1000
MOST_WAVES: Final = 100
MOST_USERS: Final = 10_000
LONGEST_SOAK: Final = timedelta(days=1)
LONGEST_DEADLINE: Final = timedelta(days=7)
LONGEST_PROMPT: Final = 2000
_LARGEST_COUNT: Final = 1_000_000

_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,6})(%?)\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """So many stacks, or so many of a hundred. Exactly one of the two is set."""

    count: int | None = None
    percent: int | None = None

    def __post_init__(self) -> None:
        if (self.count is None) is (self.percent is None):
            raise ValueError("an amount is a count or a percentage")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `10` or `10%`, and nothing that is written in any other way: `ValueError`. Its range is not judged."""
        found = _AMOUNT.match(text)
        if found is None:
            raise ValueError("must be a whole number such as 10, or a percentage such as 10%")
        number = int(found[1])
        return cls(percent=number) if found[2] else cls(count=number)

    @property
    def is_zero(self) -> bool:
        return not (self.count or self.percent)

    def at_least(self, total: int) -> int:
        """Return how many of *total* that is, a part of one counting as one; never more than *total*."""
        if self.count is not None:
            return min(self.count, total)
        assert self.percent is not None
        return min(-(-total * self.percent // 100), total)

    def at_most(self, total: int) -> int:
        """Return how many of *total* that is, a part of one counting as none; a count is what it is."""
        if self.count is not None:
            return self.count
        assert self.percent is not None
        return total * self.percent // 100

    def __str__(self) -> str:
        return f"{self.percent}%" if self.count is None else str(self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """
    Which stacks. Filters are joined by and, what one filter lists by or; without any it is every stack that differs.

    *all_stale* says just that in so many words, and takes no other filter. *releases* are those that run now, *reasons*
    the facets in which a stack differs from what it is to become.
    """

    all_stale: bool = False
    reasons: tuple[Facet, ...] = ()
    releases: tuple[ReleaseId, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    users: tuple[UserId, ...] = ()

    @property
    def filters(self) -> Mapping[str, int]:
        """Return the filters that are set, by name, and how many values each has."""
        found = {
            "reasons": self.reasons,
            "releases": self.releases,
            "labels": self.labels,
            "groups": self.groups,
            "users": self.users,
        }
        return {name: len(values) for name, values in found.items() if values}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """
    What must be true after each wave before the next one begins.

    *failure_budget* is how many of all stacks of the rollout may fail; of the canaries none may. With *health*, every
    stack that was moved must be healthy as it should be now. *prompt* is asked of some of them and must be answered.
    """

    failure_budget: Amount = Amount(percent=5)
    health: bool = True
    prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """
    The pace. The last of *waves* is repeated until nobody is left; *canary* comes before them and may be 0.

    *deadline* is how long an agent at work is waited for from the first order on; *at_deadline* says what becomes of it
    then. *max_unavailable* bounds how many stacks of the rollout may be without a working runtime, for whatever reason,
    before another one is moved; None leaves that to *max_in_flight*.
    """

    canary: Amount = Amount(count=1)
    waves: tuple[Amount, ...] = (Amount(percent=10),)
    max_in_flight: int = 10
    max_unavailable: Amount | None = None
    soak: timedelta = timedelta(seconds=30)
    gate: Gate = field(default_factory=Gate)
    deadline: timedelta = timedelta(hours=1)
    at_deadline: AtDeadline = AtDeadline.SKIP


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpecification:
    """
    What is to be done. Without a *release*, each stack is brought to what it is wanted to be already.

    With *rotate_passwords* every stack gets a new password on the way, with *recreate* a new allocation; both make stacks
    differ that do not otherwise.
    """

    release: ReleaseId | None = None
    selector: Selector = field(default_factory=Selector)
    strategy: Strategy = field(default_factory=Strategy)
    rotate_passwords: bool = False
    recreate: bool = False

    @property
    def moves_all(self) -> bool:
        """Whether stacks are moved that are not stale."""
        return self.rotate_passwords or self.recreate


def validate(
    specification: RolloutSpecification, *, is_release: Callable[[ReleaseId], bool]
) -> tuple[BodyFault, ...]:
    """
    Return what is wrong with *specification*, all of it at once, with pointers into the body of `POST /v1/rollouts`.

    What only the fleet can tell, such as that there is nothing to do, is not judged here.
    """
    return (
        *_release_faults(specification, is_release),
        *_selector_faults(specification),
        *_pace_faults(specification.strategy),
        *_gate_faults(specification.strategy),
    )


def _release_faults(
    specification: RolloutSpecification, is_release: Callable[[ReleaseId], bool]
) -> list[BodyFault]:
    release = specification.release
    if release is None or is_release(release):
        return []
    return [BodyFault("/release", "there is no release with this id")]


def _selector_faults(specification: RolloutSpecification) -> list[BodyFault]:
    selector, faults = specification.selector, []
    others = ", ".join(selector.filters)
    if selector.all_stale and others:
        faults.append(
            BodyFault(
                "/selector/all_stale", f"selects every stale stack, which contradicts {others}; leave one out"
            )
        )
    if selector.all_stale and specification.moves_all:
        faults.append(
            BodyFault(
                "/selector/all_stale",
                "contradicts recreate and rotate_passwords, which move stacks that are not stale",
            )
        )
    if selector.reasons and specification.moves_all:
        faults.append(
            BodyFault(
                "/selector/reasons",
                "contradicts recreate and rotate_passwords, which move stacks that are not stale",
            )
        )
    for name in ("reasons", "releases", "groups", "users"):
        values: tuple[str, ...] = getattr(selector, name)
        seen: set[str] = set()
        for place, value in enumerate(values):
            if value in seen:
                faults.append(BodyFault(f"/selector/{name}/{place}", "is named twice"))
            seen.add(value)
    if len(selector.users) > MOST_USERS:
        faults.append(
            BodyFault("/selector/users", f"names more than {MOST_USERS} users; select them by group or label")
        )
    return faults


def _pace_faults(strategy: Strategy) -> list[BodyFault]:
    faults = []
    if strategy.canary.percent is not None and strategy.canary.percent > 100:  # noqa: PLR2004 - of a hundred
        faults.append(BodyFault("/strategy/canary", "must be at most 100%"))
    if not strategy.waves:
        faults.append(BodyFault("/strategy/waves", "must name at least one wave"))
    if len(strategy.waves) > MOST_WAVES:
        faults.append(
            BodyFault("/strategy/waves", f"must name at most {MOST_WAVES} waves; the last one is repeated")
        )
    for place, wave in enumerate(strategy.waves):
        if wave.is_zero or (wave.percent or 0) > 100:  # noqa: PLR2004 - of a hundred
            faults.append(BodyFault(f"/strategy/waves/{place}", "must be at least 1, or from 1% to 100%"))
    if not 1 <= strategy.max_in_flight <= MOST_IN_FLIGHT:
        faults.append(BodyFault("/strategy/max_in_flight", f"must be from 1 to {MOST_IN_FLIGHT}"))
    unavailable = strategy.max_unavailable
    if unavailable is not None and unavailable.is_zero:
        faults.append(
            BodyFault(
                "/strategy/max_unavailable", "must be at least 1 or 1%: with 0, no wave could move anything"
            )
        )
    if unavailable is not None and (unavailable.percent or 0) > 100:  # noqa: PLR2004 - of a hundred
        faults.append(BodyFault("/strategy/max_unavailable", "must be at most 100%"))
    if not timedelta() <= strategy.soak <= LONGEST_SOAK:
        faults.append(BodyFault("/strategy/soak", "must be from 0s to 24h"))
    if not timedelta() <= strategy.deadline <= LONGEST_DEADLINE:
        faults.append(BodyFault("/strategy/deadline", "must be from 0s to 7 days"))
    return faults


def _gate_faults(strategy: Strategy) -> list[BodyFault]:
    faults = []
    budget, prompt = strategy.gate.failure_budget, strategy.gate.prompt
    if (budget.percent or 0) > 100 or (budget.count or 0) > _LARGEST_COUNT:  # noqa: PLR2004 - of a hundred
        faults.append(
            BodyFault("/strategy/gate/failure_budget", "must be at most 100%, or a count of stacks")
        )
    if prompt is not None and not 0 < len(prompt.strip()) <= LONGEST_PROMPT:
        faults.append(BodyFault("/strategy/gate/prompt", f"must be 1 to {LONGEST_PROMPT} characters of text"))
    return faults
