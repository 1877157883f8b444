"""
How commands speak: results to stdout, everything else to stderr.

People get tables, in colour on a terminal unless NO_COLOR is set. Scripts get JSON with --json, and without it plain
lines that are never cut or folded. Text that came from outside is stripped of what could steer a terminal.
"""

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Cell = str | Text

_UNFOLDED_WIDTH: Final = 10_000
_SHORT: Final = 16
"""Columns of at most so many characters are words, states and numbers: folding them makes them unreadable and gains nothing."""
_NOTHING: Final = "-"
_STYLES: Final = {
    "running": "green",
    "healthy": "green",
    "current": "green",
    "succeeded": "green",
    "ok": "green",
    "migrated": "green",
    "idle": "green",
    "possible": "green",
    "pending": "cyan",
    "starting": "cyan",
    "accepted": "cyan",
    "queued": "cyan",
    "replacing": "cyan",
    "verifying": "cyan",
    "ordered": "cyan",
    "stopping": "yellow",
    "draining": "yellow",
    "busy": "yellow",
    "skipped": "yellow",
    "taken_back": "yellow",
    "paused": "yellow",
    "rolling_back": "yellow",
    "rolled_back": "yellow",
    "stale": "yellow",
    "degraded": "yellow",
    "warning": "yellow",
    "superseded": "yellow",
    "confirmed": "yellow",
    "held": "yellow",
    "deleting": "yellow",
    "failed": "red",
    "aborted": "red",
    "refused": "red",
    "unresponsive": "red",
    "critical": "red",
    "standing": "red",
}


class Screen:
    """One command's way of speaking. With *as_json*, tables and notes are left out."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._results = _console(sys.stdout)
        self.notes = _console(sys.stderr)

    def document(self, value: Any) -> None:
        """Write *value* as JSON: the service's own answer, nothing added."""
        click.echo(json.dumps(value, indent=2))

    def line(self, text: Cell) -> None:
        """Write one result line, unfolded, so that it can be copied or cut out whole."""
        self._results.print(_cell(text), soft_wrap=True)

    def sentence(self, text: str) -> None:
        """Write text for people, folded between words on a terminal."""
        self._results.print(Text(plain(text)))

    def heading(self, text: str) -> None:
        self._results.print()
        self._results.print(Text(plain(text), style="bold"))

    def facts(self, rows: Iterable[tuple[str, Any]]) -> None:
        """Write names with their values; what is absent shows as a dash."""
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(plain(name), _cell(value))
        self._results.print(table)

    def table(
        self,
        headers: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        whole: Collection[str] = (),
        spare: Sequence[str] = (),
    ) -> None:
        """
        Write one line per row, with headers. Columns that are named *whole* are the last to be folded: people copy them.

        On a terminal that is too narrow, *spare* columns are left out, the first of them first, and named in a note.
        """
        cells = [[_cell(value) for value in row] for row in rows]
        table, left_out = self._table_of(headers, cells, whole), []
        for header in spare:
            if not self._results.is_terminal or self._natural_width(table) <= self._results.width:
                break
            left_out.append(header)
            kept = [at for at, name in enumerate(headers) if name not in left_out]
            table = self._table_of(
                [headers[at] for at in kept], [[row[at] for at in kept] for row in cells], whole
            )
        self._results.print(table)
        if left_out:
            self.note(f"Left out, since the terminal is too narrow: {', '.join(left_out)}. --json has all.")

    def _table_of(
        self, headers: Sequence[str], rows: Sequence[Sequence[Text]], whole: Collection[str]
    ) -> Table:
        style = box.SIMPLE_HEAD if self._results.is_terminal else None
        between = 1 if style else 2
        table = Table(box=style, header_style="bold", padding=(0, between, 0, 0), pad_edge=False)
        for at, header in enumerate(headers):
            is_short = max([len(header), *(row[at].cell_len for row in rows)]) <= _SHORT
            table.add_column(plain(header), overflow="fold", no_wrap=is_short or header in whole)
        for row in rows:
            table.add_row(*row)
        return table

    def _natural_width(self, table: Table) -> int:
        """Return how wide *table* is when nothing of it is folded."""
        unbounded = self._results.options.update(max_width=_UNFOLDED_WIDTH)
        return self._results.measure(table, options=unbounded).maximum

    def gap(self) -> None:
        """Leave a line empty between results."""
        self._results.print()

    def note(self, text: str) -> None:
        """Tell a person something that is no result. Silent with --json."""
        if not self.as_json:
            self.notes.print(Text(plain(text)), soft_wrap=True)


def show_failure(what: str, *, details: Sequence[str] = (), advice: str = "") -> None:
    """Write what failed and what to do about it to stderr, with --json too."""
    console = _console(sys.stderr)
    console.print(Text("Error: ", style="bold red") + Text(plain(what)), soft_wrap=True)
    for detail in details:
        console.print(Text(f"  {plain(detail)}"), soft_wrap=True)
    if advice:
        console.print(Text("  What to do: ", style="bold") + Text(plain(advice)), soft_wrap=True)


def counted(number: int, what: str) -> str:
    """Say *number* of *what*, such as `1 stack` or `2 stacks`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def plain(value: Any) -> str:
    """Return *value* as text in which nothing steers a terminal; what would is shown as U+FFFD."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def state(value: Any) -> Text:
    """Colour the name of a phase, a health or another state by what it means to a person."""
    text = plain(value) if value else _NOTHING
    return Text(text, style=_STYLES.get(text, ""))


def age(moment: Any, *, now: datetime | None = None) -> str:
    """Return an RFC 3339 time to the second, with how long ago it was, such as `2026-01-02T03:04:05Z (12 s ago)`."""
    when = parse_time(moment)
    if when is None:
        return _NOTHING
    shown = when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{shown} ({ago(when, now=now)})"


def ago(moment: Any, *, now: datetime | None = None) -> str:
    """Return how long ago an RFC 3339 time was, or in how long it is, such as `12 s ago`, for cells without room for more."""
    when = moment if isinstance(moment, datetime) else parse_time(moment)
    if when is None:
        return _NOTHING
    seconds = int(((now or datetime.now(UTC)) - when).total_seconds())
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def duration(seconds: int) -> str:
    """Return a span as a person says it, in its one or two largest units."""
    for size, unit, next_size, next_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // next_size} {next_unit}"
    return f"{seconds} s"


def parse_time(value: Any) -> datetime | None:
    """Read an RFC 3339 time; None for what is none."""
    try:
        when = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return when if when.tzinfo is not None else None


def _cell(value: Any) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text(_NOTHING if value is None or value == "" else plain(value))


def _console(stream: TextIO) -> Console:
    is_terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=is_terminal,
        width=None if is_terminal else _UNFOLDED_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )
