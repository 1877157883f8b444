"""How old what each watch last saw is, and from when on that is too old."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Final

from opencode_lifecycle.lifecycle.background import Pulse
from opencode_lifecycle.lifecycle.observing.cross_checking import CatalogWatch
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.observing.node_watch import NodeWatch
from opencode_lifecycle.lifecycle.observing.proving import PROBES_PER_SECOND, SteadyProbes
from opencode_lifecycle.lifecycle.observing.sweeping import (
    READS_PER_SECOND,
    USAGES_PER_SECOND,
    SecretSweep,
    UsageSweep,
)
from opencode_lifecycle.lifecycle.observing.watching import NomadWatch
from opencode_lifecycle.lifecycle.orphans.sweep import OrphanSweep

_CHECKS_HEARD_WITHIN: Final = timedelta(minutes=7)
"""Consul answers a blocking query after 5 minutes although nothing changed, and may add a sixteenth and our own pauses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """*age* is None for one that saw nothing yet. *limit* tells, for so many stacks, what age is still well."""

    age: Callable[[], float | None]
    limit: Callable[[int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchReport:
    name: str
    ok: bool
    age_seconds: float | None
    limit_seconds: float


class Watches:
    """Every watch of this replica. One that saw nothing yet is as old as the process."""

    def __init__(self, watches: Mapping[str, Watch], *, stacks: Callable[[], int]) -> None:
        self._watches = watches
        self._stacks = stacks
        self._start = Pulse()
        self._start.beat()

    def ages(self) -> Mapping[str, float | None]:
        return {name: watch.age() for name, watch in self._watches.items()}

    def report(self) -> Sequence[WatchReport]:
        stacks, uptime = self._stacks(), self._start.age()
        reports = []
        for name, watch in self._watches.items():
            age, limit = watch.age(), watch.limit(stacks)
            silent_for = uptime if age is None else age
            reports.append(
                WatchReport(
                    name=name,
                    ok=silent_for is not None and silent_for <= limit,
                    age_seconds=None if age is None else round(age, 1),
                    limit_seconds=round(limit, 1),
                )
            )
        return reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """How often the watches look, as the settings say."""

    observation_max_age: timedelta
    liveness: timedelta
    secrets: timedelta
    usage: timedelta
    comparison: timedelta


def watches_of(
    *,
    fleet: Fleet,
    nomad: NomadWatch,
    nodes: NodeWatch,
    catalog: CatalogWatch,
    secrets: SecretSweep,
    probes: SteadyProbes,
    usage: UsageSweep,
    orphans: OrphanSweep,
    periods: Periods,
) -> Watches:
    patience = periods.observation_max_age
    fresh = _at_most(patience)
    compared = two_rounds(periods.comparison, patience)
    return Watches(
        {
            "nomad_events": Watch(age=nomad.stream_age, limit=fresh),
            "nomad_listing": Watch(age=fleet.listing_pulse.age, limit=fresh),
            "nomad_nodes": Watch(age=nodes.pulse.age, limit=fresh),
            "consul_checks": Watch(age=catalog.checks_pulse.age, limit=_at_most(_CHECKS_HEARD_WITHIN)),
            "consul_comparison": Watch(age=catalog.comparison_pulse.age, limit=compared),
            "vault_versions": Watch(
                age=secrets.pulse.age, limit=two_rounds(periods.secrets, patience, READS_PER_SECOND)
            ),
            "probes": Watch(
                age=probes.pulse.age, limit=two_rounds(periods.liveness, patience, PROBES_PER_SECOND)
            ),
            "usage": Watch(age=usage.pulse.age, limit=two_rounds(periods.usage, patience, USAGES_PER_SECOND)),
            "orphans": Watch(age=orphans.pulse.age, limit=compared),
        },
        stacks=lambda: len(fleet),
    )


def _at_most(age: timedelta) -> Callable[[int], float]:
    return lambda _: age.total_seconds()


def two_rounds(period: timedelta, patience: timedelta, per_second: float = inf) -> Callable[[int], float]:
    """
    Allow one round to fail: two of them, and *patience* for the answers.

    A round takes *period*, or longer where there are more stacks than that at *per_second*.
    """
    return lambda stacks: 2 * max(period.total_seconds(), stacks / per_second) + patience.total_seconds()
