"""Orphans: things that bear our names without a row that they belong to."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from opencode_lifecycle.model.identifiers import JobId, OrphanId, UserId

WRITTEN_AT: Final = "written_at"
"""In the details of a find, as ISO 8601: when it was last written."""


class OrphanKind(StrEnum):
    JOB = "job"
    SECRET = "secret"  # noqa: S105 - a kind of thing
    SERVICE = "service"
    VOLUME = "volume"
    VARIABLE = "variable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """
    One thing in a neighbour that bears a name of ours, as it was found.

    *installation* and *user_id* are what is written on it, None where nothing is. *reference* is what its system calls
    it: a volume's id, a service's id; the name where there is nothing else. *details* are for people, all but one.
    """

    kind: OrphanKind
    job_id: JobId
    reference: str
    installation: str | None = None
    user_id: UserId | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def written_at(self) -> datetime | None:
        """When it was last written, as its system says; None where that does not say."""
        text = self.details.get(WRITTEN_AT)
        return datetime.fromisoformat(text) if isinstance(text, str) else None

    def dated(self, written_at: datetime | None) -> Self:
        """Return the same find with the time at which it was last written."""
        if written_at is None:
            return replace(self, details={k: v for k, v in self.details.items() if k != WRITTEN_AT})
        return replace(self, details={**self.details, WRITTEN_AT: written_at.isoformat()})

    @property
    def id(self) -> OrphanId:
        return OrphanId("orp_" + hashlib.sha256(f"{self.kind}\0{self.reference}".encode()).hexdigest()[:24])


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """
    A find that no row explains. *proven* says that it is ours beyond doubt: its marks and its name agree.

    *confirmations* counts the full comparisons that found it, in a row; *last_seen_at* is when the last of those was made
    that count. What is not proven is never touched.
    """

    find: Find
    proven: bool
    first_seen_at: datetime
    last_seen_at: datetime
    confirmations: int

    @property
    def id(self) -> OrphanId:
        return self.find.id
