"""What the calls on releases and groups need of the service behind them. Tests bring their own."""

from typing import Protocol

from opencode_lifecycle.model.group import Group, GroupWish
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.release import MadeRelease, ReleaseInUse, ReleaseWish
from opencode_lifecycle.model.view import Page


class Releasing(Protocol):
    """Every refusal and failure is an error of `model.errors`."""

    async def create(self, wish: ReleaseWish, *, by: Principal) -> MadeRelease:
        """
        Make a release after everything of it was checked, or find the one that has this content.

        `ReleaseNotFound` for the base; `InvalidBody` or `BundleTooLarge` with a pointer to everything that is wrong.
        """
        ...

    async def find(self, before: int | None, limit: int) -> Page[ReleaseInUse]:
        """Return releases, newest first; *before* and `next_cursor` are their numbers."""
        ...

    async def show(self, release_id: ReleaseId) -> ReleaseInUse: ...

    async def use(self, release_id: ReleaseId, *, by: Principal) -> ReleaseInUse:
        """Make it the fleet's target. `RolloutActive` while a rollout is under way."""
        ...


class Groups(Protocol):
    async def show(self, name: str) -> Group:
        """Return the group; any name is one's, and one of which nothing was said has no pin and no idle stop."""
        ...

    async def put(self, name: str, wish: GroupWish, *, by: Principal) -> Group:
        """Set what *wish* names. `ReleaseNotFound` for its pin."""
        ...
