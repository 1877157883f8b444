"""What stacks are wanted to be: releases, and what groups have otherwise."""

from collections.abc import Sequence
from typing import Protocol

from opencode_lifecycle.model.group import Group
from opencode_lifecycle.model.identifiers import (
    ReleaseId,
)
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.release import Release, ReleaseInUse
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.rollouts import ClaimedRollout


class ReleaseStore(Protocol):
    async def get_release(self, release_id: ReleaseId) -> Release | None: ...

    async def add_release(self, release: Release, event: Event | None = None) -> Release:
        """
        Store it unless a release of that id exists; return the stored one. Its number is given here.

        *event* is written only when it is new.
        """
        ...

    async def find_releases(self, *, before: int | None, limit: int) -> Page[ReleaseInUse]:
        """Return one page, newest first; *before* and `next_cursor` are numbers of releases."""
        ...

    async def current_release(self) -> Release | None:
        """Return the fleet's target: the release that new stacks want."""
        ...

    async def use_release(
        self,
        release_id: ReleaseId,
        *,
        event: Event | None = None,
        under: ClaimedRollout | None = None,
        of_settings: bool = False,
    ) -> None:
        """
        Make it the fleet's target. One that is it already stays it, and *event* is not written.

        Raises `ReleaseNotFound`, and while a rollout is active `RolloutActive`, unless it is done *under* the claim on
        it: then `ClaimLost`, as `StackStore.decide` does. With *of_settings* it is remembered as the one that the settings describe.
        """
        ...

    async def settings_release(self) -> ReleaseId | None:
        """Return the release that was last used as that of the settings."""
        ...


class GroupStore(Protocol):
    async def find_groups(self) -> Sequence[Group]:
        """Return every group that was ever set to anything, in the order of names."""
        ...

    async def get_group(self, name: str) -> Group | None: ...

    async def put_group(
        self, group: Group, event: Event | None = None, *, before: Group | None = None
    ) -> bool:
        """
        Insert or replace it, or raise `ReleaseNotFound` when there is no release that it is pinned to.

        Where it is not as *before* says any more, which of a group that was never set is one without anything, nothing is
        written, and the answer is False.
        """
        ...
