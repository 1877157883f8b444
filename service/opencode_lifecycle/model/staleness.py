"""
Why a runtime is not as it should be: one typed reason for each facet.

One function works it out, from what should be and what the row knows of what runs. API, CLI, metrics and the summary of
the fleet all show what it says.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from opencode_lifecycle.model.facets import Facet, Facets
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.states import Desired, Phase, Reason


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Staleness:
    """`have` and `want` are what people compare: a version, a digest, a number. Never a secret."""

    facet: Facet
    have: str
    want: str
    severity: Severity
    restart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleCount:
    """
    How many stacks are stale in *facet*. A stack that is stale in several is counted in each.

    *restart* says that putting at least one of them right restarts its runtime.
    """

    facet: Facet
    stacks: int
    restart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessSummary:
    """The fleet by reason: of *stacks* in all, *stale* have at least one reason."""

    stacks: int
    stale: int
    facets: Sequence[StaleCount]


_SEVERITY: Final[Mapping[Facet, Severity]] = {
    Facet.MISSING: Severity.CRITICAL,
    Facet.SECRET_VERSION: Severity.CRITICAL,
    Facet.EDITED_OUTSIDE: Severity.WARNING,
    Facet.OPENCODE_VERSION: Severity.WARNING,
    Facet.IMAGE: Severity.WARNING,
}
"""Of the facets that are more than information."""

NEEDS_RESTART: Final = frozenset(
    {
        Facet.IMAGE,
        Facet.OPENCODE_VERSION,
        Facet.TEMPLATE,
        Facet.ENVIRONMENT,
        Facet.RESOURCES,
        Facet.SECRET_VERSION,
        Facet.MISSING,
    }
)
"""An edit from outside is not among them: whether taking it back needs a restart is Nomad's to say."""

_COMPARED: Final = tuple(facet for facet in Facet if facet not in {Facet.EDITED_OUTSIDE, Facet.MISSING})
_SHOWN_FIELDS: Final = 8
_MISSING_IN: Final = frozenset({Phase.PENDING, Phase.STARTING, Phase.FAILED})


def staleness_of(status: Status, want: Facets, *, desired: Desired) -> tuple[Staleness, ...]:
    """
    Return one reason for each facet in which the stack is not as *want* says, in the order of `Facet`.

    A stack that is not running is stale only when its runtime vanished: it starts on what is wanted then. It is missing
    until it runs again, whatever holds that up meanwhile, so what was marked last counts as well.
    """
    if desired is not Desired.RUNNING:
        return ()
    vanished = status.reason is Reason.LOST or Facet.MISSING in status.stale
    if status.phase in _MISSING_IN and vanished:
        return (_reason(Facet.MISSING, status.message or "nothing runs", "running"),)
    if status.phase is not Phase.RUNNING:
        return ()
    have = status.facets or want
    if have == want and not status.edits:
        return ()
    reasons = [
        _reason(facet, str(getattr(have, facet.value)), str(getattr(want, facet.value)))
        for facet in _COMPARED
        if getattr(have, facet.value) != getattr(want, facet.value)
    ]
    if status.edits:
        is_now, was = in_words([(edit.field, edit.have, edit.want) for edit in status.edits])
        reasons.append(
            Staleness(
                facet=Facet.EDITED_OUTSIDE,
                have=is_now,
                want=was,
                severity=severity_of(Facet.EDITED_OUTSIDE),
                restart=needs_restart(Facet.EDITED_OUTSIDE, edits_restart=status.edits_restart),
            )
        )
    return tuple(reasons)


def in_words(fields: Sequence[tuple[str, str, str]]) -> tuple[str, str]:
    """Write *fields*, each with what it is and what it should be, as two texts of the same order; empty is absent."""
    shown = fields[:_SHOWN_FIELDS]
    more = f", and {len(fields) - len(shown)} more" if len(fields) > len(shown) else ""
    have = "; ".join(f"{name} = {value or 'absent'}" for name, value, _ in shown) + more
    return have, "; ".join(f"{name} = {value or 'absent'}" for name, _, value in shown) + more


def severity_of(facet: Facet) -> Severity:
    """Return how bad it is to be stale in *facet*, whatever the values are."""
    return _SEVERITY.get(facet, Severity.INFO)


def needs_restart(facet: Facet, *, edits_restart: bool) -> bool:
    """Whether putting a stack right in *facet* restarts its runtime; of edits from outside Nomad's own plan tells."""
    return edits_restart if facet is Facet.EDITED_OUTSIDE else facet in NEEDS_RESTART


def class_of(reasons: Iterable[Staleness]) -> MigrationClass | None:
    """Return the class of the migration that puts *reasons* right, the heaviest of them; None when none disturbs anything."""
    found = tuple(reasons)
    facets = facets_of(found)
    if any(reason.restart for reason in found):
        return MigrationClass.RESTART
    if Facet.CONFIG in facets:
        return MigrationClass.RELOAD
    return MigrationClass.LIVE if Facet.PROMPT in facets else None


def facets_of(reasons: Iterable[Staleness]) -> frozenset[Facet]:
    return frozenset(reason.facet for reason in reasons)


def _reason(facet: Facet, have: str, want: str) -> Staleness:
    return Staleness(
        facet=facet,
        have=have,
        want=want,
        severity=severity_of(facet),
        restart=needs_restart(facet, edits_restart=False),
    )
