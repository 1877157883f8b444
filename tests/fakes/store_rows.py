"""What the stores in memory have in common: the row of a stack, and pages."""

from dataclasses import dataclass
from datetime import UTC, datetime

from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.view import Page

AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Row:
    stack: Stack
    next_attempt_at: datetime | None
    claim_token: str | None = None
    claim_lapses_at: datetime | None = None

    def is_free(self, now: datetime) -> bool:
        return self.claim_token is None or (self.claim_lapses_at is not None and self.claim_lapses_at <= now)


def page_of(matching, limit):
    found = matching[:limit]
    return Page(
        items=found, next_cursor=found[-1].id if limit is not None and len(matching) > limit else None
    )
