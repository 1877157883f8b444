"""What every store stands on."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import CompoundSelect, Select
from sqlalchemy.ext.asyncio import AsyncEngine

from opencode_lifecycle.adapters.database.failures import translated
from opencode_lifecycle.adapters.database.writer import Result, Work, Writer


class Store:
    """Reads single statements, and hands writes to the writer."""

    _reading: AsyncEngine
    _writer: Writer
    _takes_turns: bool
    """Whether all writes must queue in this process (SQLite)."""
    _reads = 0
    """Statements executed for reading."""

    async def _read(
        self,
        operation: str,
        statement: Select[Any] | CompoundSelect[Any],
        values: Mapping[str, Any] | None = None,
    ) -> Sequence[Mapping[str, Any]]:
        self._reads += 1
        with translated(operation):
            async with self._reading.connect() as connection:
                result = await connection.execute(statement, values)
                names = tuple(result.keys())
                return [dict(zip(names, row, strict=True)) for row in result]

    async def _write(self, operation: str, work: Work[Result]) -> Result:
        return await self._writer.write(operation, work)

    async def _write_alone(self, operation: str, work: Work[Result]) -> Result:
        if self._takes_turns:
            return await self._writer.write(operation, work)
        return await self._writer.write_alone(operation, work)
