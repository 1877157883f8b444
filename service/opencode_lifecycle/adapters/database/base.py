"""What every store stands on."""

from opencode_lifecycle.adapters.database.engine import Query, Reading, Rows, Values
from opencode_lifecycle.adapters.database.failures import translated
from opencode_lifecycle.adapters.database.writer import Result, Work, Writer


class Store:
    """Reads single statements, and hands writes to the writer."""

    _reading: Reading
    _writer: Writer
    _takes_turns: bool
    """Whether all writes must queue in this process (SQLite)."""
    _reads = 0
    """Statements executed for reading."""

    async def _read(self, operation: str, statement: Query, values: Values | None = None) -> Rows:
        self._reads += 1
        with translated(operation):
            return await self._reading.rows(statement, values)

    async def _write(self, operation: str, work: Work[Result]) -> Result:
        return await self._writer.write(operation, work)

    async def _write_alone(self, operation: str, work: Work[Result]) -> Result:
        if self._takes_turns:
            return await self._writer.write(operation, work)
        return await self._writer.write_alone(operation, work)
