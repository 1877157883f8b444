"""Whether the service is alive and ready."""

from collections.abc import Sequence
from typing import Literal

from opencode_lifecycle.api.schemas.shapes import Mirror, Outgoing


class DependencyShape(Outgoing):
    name: str
    ok: bool
    detail: str
    age_seconds: float | None


class WatchShape(Mirror):
    name: str
    ok: bool
    age_seconds: float | None
    limit_seconds: float


class ReadinessShape(Outgoing):
    """`watches` say how old what is known is, from `limit_seconds` on too old; the status does not depend on them."""

    status: Literal["ready", "not ready"]
    dependencies: Sequence[DependencyShape]
    watches: Sequence[WatchShape]


class LivenessShape(Outgoing):
    status: Literal["alive"] = "alive"
