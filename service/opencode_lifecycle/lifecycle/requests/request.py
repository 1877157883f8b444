"""What a decision is made of: who asked, when, and what holds for everybody."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.stack import Intent, Stack
from opencode_lifecycle.ports.stores import Decision, Situation

DEFAULT_GROUP = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What every decision needs besides the situation."""

    user_id: UserId
    by: Principal
    now: datetime
    if_match: int | None
    installation: str
    namespace: str
    region: str
    current_release: ReleaseId
    group_pins: Mapping[str, ReleaseId] = field(default_factory=dict)
    default_resources: str
    check_resources: Callable[[ReleaseId, str | None], None]
    """Raises `InvalidBody` when a release has no resource class of that name."""

    def target(self, group: str) -> ReleaseId:
        """Return what stacks of *group* want that begin or start: the release of its pin, or the fleet's target."""
        return self.group_pins.get(group, self.current_release)


Decide = Callable[[Situation], Decision]
TakeOver = Callable[[Stack], tuple[Intent, list[str]]]
"""What a stack that had no row is to be wanted as, and the names of what of that is not known."""
