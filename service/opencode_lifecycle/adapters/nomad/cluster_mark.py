"""The mark that an installation leaves in its cluster: one Nomad variable."""

from typing import Final

from opencode_lifecycle.adapters.nomad.connection import SYSTEM, NomadConnection, path_of
from opencode_lifecycle.adapters.nomad.reading import mapping, number, text
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamNonsense, VersionConflict

PATH: Final = "opencode/installations"
_TRIES: Final = 3


class NomadClusterMark:
    """The `ClusterMark` port. Every write is a check-and-set on what was read."""

    def __init__(self, *, connection: NomadConnection) -> None:
        self._connection = connection

    async def read(self, installation: str, deadline: Deadline) -> str | None:
        mark, _ = await self._read("read the mark", installation, deadline)
        return mark

    async def write(self, installation: str, mark: str, *, replace: bool = False, deadline: Deadline) -> str:
        operation = "leave the mark"
        path = f"{PATH}/{installation}"
        for _ in range(_TRIES):
            standing, index = await self._read(operation, installation, deadline)
            if standing is not None and (standing == mark or not replace):
                return standing
            body = {"Items": {"mark": mark}}
            try:
                await self._connection.put(
                    operation, path_of("var", path), body, {"cas": index}, deadline=deadline
                )
            except VersionConflict:
                continue
            return mark
        raise VersionConflict(SYSTEM, operation, "somebody else writes it again and again")

    async def _read(self, operation: str, installation: str, deadline: Deadline) -> tuple[str | None, int]:
        path = path_of("var", f"{PATH}/{installation}")
        answer = await self._connection.get(operation, path, deadline=deadline)
        if not answer.found:
            return None, 0
        variable = mapping(operation, answer.body)
        mark = text(operation, mapping(operation, variable.get("Items")), "mark")
        if not mark:
            raise UpstreamNonsense(SYSTEM, operation, "the mark is empty")
        return mark, number(operation, variable, "ModifyIndex")
