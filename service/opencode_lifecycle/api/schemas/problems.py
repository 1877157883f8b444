"""What is answered when something is wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from opencode_lifecycle.api.schemas.shapes import Outgoing


class FaultShape(Outgoing):
    pointer: str
    detail: str


class ProblemShape(Outgoing):
    """RFC 9457. `code` is stable and for machines; `detail` is for people. `errors` comes with `invalid-body`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: Sequence[FaultShape] | None = None
    facts: Mapping[str, Any] | None = None
