"""How the service speaks of itself: log lines, and metrics of what it looks after."""

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from opencode_lifecycle.lifecycle.control_plane import ControlPlane
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.staleness import needs_restart, severity_of
from opencode_lifecycle.model.states import Health, MigrationState, Phase, Reason

_TRACEBACKS: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
"""Without the values of variables: among them are passwords and tokens."""


def configure_logging(*, form: str, level: str) -> None:
    """Write one line per event to stderr: JSON for machines, or coloured text for a terminal."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _TRACEBACKS if form == "json" else structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # The libraries below log through the standard library; their warnings are ours to show, their chatter is not.
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s")


class FleetCollector(Collector):
    """Counts stacks by state when it is asked, from memory."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def collect(self) -> Iterator[Metric]:
        """Return the gauges of this moment."""
        statuses = [known.stack.status for known in self._plane.fleet]
        families: tuple[tuple[str, type[Phase | Health | MigrationState]], ...] = (
            ("phase", Phase),
            ("health", Health),
            ("migration_state", MigrationState),
        )
        for name, states in families:
            counts = Counter(getattr(status, name) for status in statuses)
            family = GaugeMetricFamily(
                f"opencode_lifecycle_stacks_by_{name}", f"Stacks by {name}.", labels=[name]
            )
            for state in states:
                family.add_metric([state.value], counts[state])
            yield family
        reasons = Counter(status.reason for status in statuses)
        by_reason = GaugeMetricFamily(
            "opencode_lifecycle_stacks_by_reason",
            "Stacks by why they are as they are; those of which nothing needs saying are in none.",
            labels=["reason"],
        )
        for reason in Reason:
            by_reason.add_metric([reason.value], reasons[reason])
        yield by_reason
        yield _of_staleness(statuses)
        yield from self._of_the_whole()
        age = self._plane.fleet.listing_pulse.age()
        yield GaugeMetricFamily(
            "opencode_lifecycle_observation_age_seconds",
            "Age of the last full listing of Nomad; -1 before the first.",
            value=-1 if age is None else age,
        )
        yield GaugeMetricFamily(
            "opencode_lifecycle_reconciling",
            "Stacks being worked on now by this replica.",
            value=self._plane.dispatcher.at_work,
        )
        yield GaugeMetricFamily(
            "opencode_lifecycle_event_streams",
            "Runtimes that this replica listens to, since their migration waits for their agent.",
            value=self._plane.busy_watch.streams,
        )
        yield GaugeMetricFamily(
            "opencode_lifecycle_waiting_until_idle",
            "Runtimes whose migration waits for their agent, whether they are listened to or not.",
            value=self._plane.busy_watch.waiting,
        )

    def _of_the_whole(self) -> Iterator[Metric]:
        standing = {condition.kind: condition for condition in self._plane.oversight.standing_conditions()}
        conditions = GaugeMetricFamily(
            "opencode_lifecycle_condition",
            "1 while the condition stands and holds work back, 0.5 when it is confirmed, else 0.",
            labels=["kind"],
        )
        for kind in ConditionKind:
            condition = standing.get(kind)
            value = 0.0 if condition is None else 1.0 if condition.freezes else 0.5
            conditions.add_metric([kind.value], value)
        yield conditions
        orphans = GaugeMetricFamily(
            "opencode_lifecycle_orphans",
            "What bore our names without a row at the last comparison.",
            labels=["kind", "proven"],
        )
        for (kind_of_orphan, proven), count in self._plane.oversight.orphan_counts().items():
            orphans.add_metric([kind_of_orphan, str(proven).lower()], count)
        yield orphans
        ages = GaugeMetricFamily(
            "opencode_lifecycle_watch_age_seconds",
            "Age of what each watch last saw; -1 before it saw anything.",
            labels=["watch"],
        )
        for watch, age in self._plane.oversight.watch_ages().items():
            ages.add_metric([watch], -1 if age is None else age)
        yield ages

    def describe(self) -> Iterator[Metric]:
        """Return nothing: what is collected is only known when it is asked for."""
        return iter(())


def _of_staleness(statuses: Sequence[Status]) -> Metric:
    """Count the stale as each of them is shown: an edit from outside may restart one runtime and not another."""
    counts = Counter(
        (facet, needs_restart(facet, edits_restart=status.edits_restart))
        for status in statuses
        for facet in status.stale
    )
    family = GaugeMetricFamily(
        "opencode_lifecycle_stale_stacks",
        "Stacks that are not as they should be, by facet, how severe that is, and whether putting it right restarts the "
        "runtime; one may be counted in several.",
        labels=["facet", "severity", "restart"],
    )
    for facet in Facet:
        for restart in sorted({needs_restart(facet, edits_restart=each) for each in (False, True)}):
            labels = [facet.value, severity_of(facet).value, str(restart).lower()]
            family.add_metric(labels, counts[facet, restart])
    return family
