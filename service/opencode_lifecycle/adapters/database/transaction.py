"""
One write transaction, and the numbers it gives out.

Every change of a stack gets a number, and readers follow the changes by asking for those after the last number they saw.
That is only sound when numbers become visible in order. On PostgreSQL a plain sequence would not do:

1. A takes 7 and B takes 8, both uncommitted.
2. B commits. A reader asks for changes after 6, sees 8 and remembers 8.
3. A commits. The reader asks for changes after 8 and never learns of 7.

So a transaction that gives out numbers first locks the one row of `sequences` and keeps it until it has committed. That
makes writers take turns, as they do on SQLite anyway, and it is what keeps two decisions about one absent user apart.
Writers of one process share their turns (see `writer`), so a turn is worth many writes.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, CursorResult, Select, UpdateBase, bindparam, func, select, update

from opencode_lifecycle.adapters.database.tables import sequences
from opencode_lifecycle.model.clock import Clock

CHANNEL: Final = "opencode_lifecycle_changes"

_TAKE_TURN: Final = select(sequences.c.changes, sequences.c.events).with_for_update()
_KEEP_NUMBERS: Final = update(sequences).values(
    changes=bindparam("last_change"), events=bindparam("last_event")
)
_NOTIFY: Final = select(func.pg_notify(CHANNEL, bindparam("payload")))

Values = Mapping[str, Any]


class Transaction:
    """
    What a write may do. Nothing in it can be awaited, so no other system is ever called while it is open.

    With *in_turn* False it gives out no numbers, and it does not wait for the others.
    """

    def __init__(self, connection: Connection, clock: Clock, *, in_turn: bool = True) -> None:
        self._connection = connection
        self._clock = clock
        self.writes = 0
        """Statements so far that may have changed something."""
        self.statements = 0
        """All statements so far."""
        self.announces = False
        """Whether others should hear of this transaction."""
        self._changes = self._events = self._first_change = self._first_event = 0
        if in_turn:
            numbers = self._execute(_TAKE_TURN).mappings().one()
            self._changes, self._events = numbers["changes"], numbers["events"]
            self._first_change, self._first_event = self._changes, self._events

    @property
    def last_change(self) -> int:
        return self._changes

    def now(self) -> datetime:
        return self._clock()

    def read(self, statement: Select[Any], values: Values | None = None) -> Sequence[Mapping[str, Any]]:
        result = self._execute(statement, values)
        names = tuple(result.keys())
        return [dict(zip(names, row, strict=True)) for row in result]

    def write(self, statement: UpdateBase, values: Values | Sequence[Values] | None = None) -> int:
        """Execute it and return how many rows it touched."""
        self.writes += 1
        return self._execute(statement, values).rowcount

    def next_change(self) -> int:
        self._changes += 1
        return self._changes

    def next_event(self) -> int:
        self._events += 1
        return self._events

    def finish(self) -> None:
        """Keep the numbers that were given out. Listeners of other processes hear of it when this is committed."""
        if (self._changes, self._events) != (self._first_change, self._first_event):
            self.announces = True
            self._execute(_KEEP_NUMBERS, {"last_change": self._changes, "last_event": self._events})
        if self.announces and self._connection.dialect.name == "postgresql":
            self._execute(_NOTIFY, {"payload": str(self._changes)})

    def _execute(
        self, statement: Select[Any] | UpdateBase, values: Values | Sequence[Values] | None = None
    ) -> CursorResult[Any]:
        self.statements += 1
        return self._connection.execute(statement, values)
