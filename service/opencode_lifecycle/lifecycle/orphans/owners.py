"""Whose the secrets and pointers are that have no row: asked a few at a time, and remembered."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import OrphanId
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind
from opencode_lifecycle.ports.orchestrator import LiveFiles
from opencode_lifecycle.ports.secrets import PasswordStore

ASKED: Final = 200
"""Secrets and pointers that are asked whose they are in one comparison: with many, another installation is near."""
_SILENT: Final = frozenset({OrphanKind.SECRET, OrphanKind.VARIABLE})
"""Kinds that say whose they are only when they are asked one by one."""


class Owners:
    """
    Knows whose the things are that do not say it in a list.

    Where there are more than can be asked at once, those that were never asked come first, and then those that were asked
    longest ago: every one gets its turn. What one said holds until it is asked again; what was never asked is not
    spoken of, since it may be another's.
    """

    def __init__(self, *, passwords: PasswordStore, live_files: LiveFiles, timeout: timedelta) -> None:
        self._passwords = passwords
        self._live_files = live_files
        self._timeout = timeout.total_seconds()
        self._said: dict[OrphanId, Find] = {}
        """What each said last, the oldest first. What an earlier life was told, the orphans in the database know."""

    async def say_of(self, finds: Sequence[Find], earlier: Mapping[OrphanId, Orphan]) -> list[Find]:
        """Return *finds* with what they say of their owners, without those that were never asked or are gone."""
        there = {find.id: find for find in finds if find.kind in _SILENT}
        known = {each: orphan.find for each, orphan in earlier.items()} | self._said
        self._said = {each: said for each, said in known.items() if each in there}
        deadline = Deadline.after(self._timeout, "ask whose these are")
        turns = [*(each for each in there if each not in self._said), *self._said]
        for each in turns[:ASKED]:
            said = await self.ask(there[each], deadline)
            self._said.pop(each, None)
            if said is not None:
                self._said[each] = said
        others = [find for find in finds if find.kind not in _SILENT]
        return [
            *others,
            *(_as_said(find, self._said[each]) for each, find in there.items() if each in self._said),
        ]

    async def ask(self, find: Find, deadline: Deadline) -> Find | None:
        """Return *find* with what it says now, or None when it is gone. What says it in lists is not asked."""
        match find.kind:
            case OrphanKind.SECRET:
                seen = await self._passwords.look(find.job_id, deadline)
                if seen is None:
                    return None
                marked = replace(find, installation=seen.installation, user_id=seen.user_id)
                return marked.dated(seen.written_at)
            case OrphanKind.VARIABLE:
                owner = await self._live_files.owner_of(find.job_id, deadline)
                if owner is None:
                    return replace(find, installation=None, user_id=None)
                return replace(find, installation=owner.installation, user_id=owner.user_id)
            case _:
                return find


def _as_said(find: Find, said: Find) -> Find:
    """Join what a list says now with what was said when it was asked."""
    told = replace(find, installation=said.installation, user_id=said.user_id)
    return told if find.written_at is not None else told.dated(said.written_at)
