"""
The queue in front of the database: writes that wait at the same time are committed together.

A commit costs one flush of the disk, whatever is in it. While one transaction is being committed the next writes
gather, and go together into the following one.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from opencode_lifecycle.adapters.database.changes import Changes
from opencode_lifecycle.adapters.database.engine import Writing
from opencode_lifecycle.adapters.database.failures import translated
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.errors import UpstreamUnavailable

Result = TypeVar("Result")
Work = Callable[[Transaction], Result]

_TOGETHER: Final = 64
"""Writes in one transaction at most, so that the first of them does not wait for a crowd."""


@dataclass(slots=True, eq=False)
class _Waiting:
    operation: str
    work: Work[Any]
    answer: "asyncio.Future[Any]" = field(repr=False)

    def succeed(self, result: Any) -> None:
        if not self.answer.done():
            self.answer.set_result(result)

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Refused:
    """The work raised before it had written anything, which is no concern of the others in its transaction."""

    error: Exception


class Writer:
    """Commits what is handed to it, in order. A write goes on when its caller is cancelled."""

    def __init__(self, *, writing: Writing, changes: Changes, clock: Clock) -> None:
        self._writing = writing
        self._changes = changes
        self._clock = clock
        self._queue: asyncio.Queue[_Waiting | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self.statements = 0
        """Statements executed, of transactions that were undone as well."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._serve(), name="database writer")

    async def stop(self) -> None:
        """Commit what was handed over before, then end."""
        task, self._task = self._task, None
        if task is not None:
            self._queue.put_nowait(None)
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def write(self, operation: str, work: Work[Result]) -> Result:
        """
        Run *work* in a transaction, possibly more than once, and return its answer after the commit.

        When it raises, nothing of it is written.
        """
        if self._task is None:
            raise UpstreamUnavailable("database", operation, "it is not open")
        waiting = _Waiting(operation, work, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        result: Result = await waiting.answer
        return result

    async def write_alone(self, operation: str, work: Work[Result]) -> Result:
        """Run *work* in a transaction of its own that does not take a turn and may give out no numbers."""

        def attempt(connection: Connection) -> Result:
            transaction = Transaction(connection, self._clock, in_turn=False)
            try:
                return work(transaction)
            finally:
                self.statements += transaction.statements

        with translated(operation):
            return await self._writing.transact(attempt)

    async def _serve(self) -> None:
        while (first := await self._queue.get()) is not None:
            group, ends = [first], False
            while not self._queue.empty() and len(group) < _TOGETHER and not ends:
                following = self._queue.get_nowait()
                if following is None:
                    ends = True
                else:
                    group.append(following)
            await self._commit([waiting for waiting in group if not waiting.answer.done()])
            if ends:
                return

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        if not group:
            return
        try:
            with translated(group[0].operation):
                answers, announced = await self._writing.transact(partial(self._attempt, group))
        except UpstreamUnavailable as error:
            for waiting in group:
                waiting.fail(UpstreamUnavailable("database", waiting.operation, error.detail))
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to whoever waits, not to this loop
            if len(group) == 1:
                group[0].fail(error)
                return
            for waiting in group:
                await self._commit([waiting])
        except BaseException:
            for waiting in group:
                waiting.fail(UpstreamUnavailable("database", waiting.operation, "it is being closed"))
            raise
        else:
            if announced is not None:
                self._changes.announce(announced)
            for waiting, answer in zip(group, answers, strict=True):
                if isinstance(answer, _Refused):
                    waiting.fail(answer.error)
                else:
                    waiting.succeed(answer)

    def _attempt(self, group: Sequence[_Waiting], connection: Connection) -> tuple[list[Any], int | None]:
        """
        Do the work of the whole group in one transaction.

        Work that fails half way spoils it for all: it is undone, and each is tried again alone.
        """
        transaction = Transaction(connection, self._clock)
        try:
            answers = [_answer_of(waiting, transaction) for waiting in group]
            transaction.finish()
        finally:
            self.statements += transaction.statements
        return answers, transaction.last_change if transaction.announces else None


def _answer_of(waiting: _Waiting, transaction: Transaction) -> Any:
    written = transaction.writes
    try:
        return waiting.work(transaction)
    except SQLAlchemyError:
        raise
    except Exception as error:
        if transaction.writes != written:
            raise
        return _Refused(error)
