"""A staleness reason: one facet in which a runtime is not as it should be."""

from dataclasses import dataclass
from enum import StrEnum

from opencode_lifecycle.model.facets import Facet


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
