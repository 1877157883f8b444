"""How the service speaks of itself: log lines, and metrics of what it looks after."""

import logging
import sys
from collections import Counter
from collections.abc import Iterator

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from opencode_lifecycle.lifecycle.control_plane import ControlPlane
from opencode_lifecycle.model.states import Health, MigrationState, Phase


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
            structlog.processors.dict_tracebacks if form == "json" else structlog.processors.format_exc_info,
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

    def describe(self) -> Iterator[Metric]:
        """Return nothing: what is collected is only known when it is asked for."""
        return iter(())
