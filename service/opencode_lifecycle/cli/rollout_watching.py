"""Watching a rollout until it is over, with its progress shown live."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from math import inf
from time import monotonic
from typing import Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from opencode_lifecycle.cli.client import Client, JsonObject
from opencode_lifecycle.cli.following import ShowProgress, poll
from opencode_lifecycle.cli.neighbours_away import neighbours_away
from opencode_lifecycle.cli.output import Screen, duration, parse_time, plain
from opencode_lifecycle.cli.rollout_tables import standing_text, wave_table
from opencode_lifecycle.cli.rollout_words import (
    because,
    concerned_of,
    count_of,
    counts_text,
    done_of,
    is_over,
    standing,
    waits_of,
)
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.rollout import MemberState, RolloutState
from opencode_lifecycle.model.states import MigrationState

FEW: Final = 5
"""So many stacks are named that are in flight, and of which agents are waited for."""
_IN_FLIGHT: Final = (("state", MemberState.ORDERED.value), ("limit", str(FEW)))
"""A rollout is asked for with a page of its members: a few of those that are in flight."""
_NEIGHBOURS_EVERY: Final = 5.0
"""Seconds between two questions for the neighbours, since the service asks each of them then."""
_BAR: Final = 40
_MOST_WAVES: Final = 12
"""More do not fit a screen; those around the one that is moved are shown."""


async def latest_rollout(client: Client) -> str | None:
    """Return the rollout that runs, or the last one that did; None when there never was one."""
    newest: str | None = None
    async for page in client.rollouts():
        for item in page["items"]:
            if not is_over(item):
                return str(item["id"])
            newest = newest or str(item["id"])
    return newest


class Lookout:
    """Looks at one rollout as often as it is told to, and at the service's neighbours now and then."""

    def __init__(self, client: Client, rollout_id: str) -> None:
        self._client = client
        self._rollout_id = rollout_id
        self._away: Sequence[str] = ()
        self._asked_at = -inf

    async def look(self) -> JsonObject:
        """
        Return the rollout with what it may wait for.

        Its `draining` are a few stacks whose agents are waited for, by whosever order, its `away` the neighbours that cannot
        be reached.
        """
        found = await self._client.rollout(self._rollout_id, _IN_FLIGHT)
        if is_over(found) or not count_of(found.get("counts"), MemberState.ORDERED):
            return found
        if monotonic() - self._asked_at >= _NEIGHBOURS_EVERY:
            self._away, self._asked_at = await neighbours_away(self._client), monotonic()
        found = {**found, "away": self._away}
        query = [("migration_state", MigrationState.DRAINING.value)]
        async for page in self._client.stacks(query, FEW):
            return {**found, "draining": page["items"]}
        return found


async def follow_rollout(
    client: Client, rollout_id: str, *, deadline: Deadline, show: ShowProgress
) -> JsonObject:
    """Return the rollout when it is over, or as it was last seen when *deadline* is."""
    lookout = Lookout(client, rollout_id)
    return await poll(lookout.look, await lookout.look(), is_over, deadline=deadline, show=show)


@contextmanager
def progress_of_rollout(screen: Screen) -> Iterator[ShowProgress]:
    """Show progress on stderr: live on a terminal, else a line for each change, and with --json nothing."""
    if screen.as_json:
        yield lambda _: None
    elif screen.notes.is_terminal:
        with Live(console=screen.notes, transient=True, refresh_per_second=10) as live:
            spinner = Spinner("dots")
            yield lambda rollout: live.update(_picture(rollout, spinner))
    else:
        yield _Lines(screen)


class _Lines:
    """Tells each change once."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._last = ""

    def __call__(self, rollout: JsonObject) -> None:
        line = f"{rollout.get('id')}: {standing(rollout)}: {counts_text(rollout.get('counts'))}"
        if reason := because(rollout):
            line += f" ({reason})"
        if line != self._last:
            self._screen.note(line)
        self._last = line


def _picture(rollout: JsonObject, spinner: Spinner) -> RenderableType:
    counts = rollout.get("counts")
    done, total = done_of(counts), concerned_of(counts)
    title = Text(plain(rollout.get("id")), style="bold").append("  ")
    title.append_text(standing_text(rollout))
    begun = parse_time(rollout.get("created_at"))
    if begun is not None:
        title.append(f"  {duration(max(0, int((datetime.now(UTC) - begun).total_seconds())))}", style="dim")
    spinner.update(text=title)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=max(total, 1), completed=done, width=_BAR),
        f"{done} of {total} done",
        counts_text(counts),
    )
    parts: list[RenderableType] = [spinner, bar]
    waves = rollout.get("wave_counts") or []
    if waves:
        parts.append(_waves(_around(waves, rollout.get("wave")), rollout.get("waves")))
    why = because(rollout)
    if why and rollout.get("state") != RolloutState.PAUSED:
        # Why it is paused is part of what it waits for.
        parts.append(Text("since ", style="dim").append(plain(why), style="none"))
    parts += [
        Text("waits for ", style="dim").append(plain(each), style="none")
        for each in waits_of(rollout, now=datetime.now(UTC))
    ]
    return Group(*parts)


def _around(waves: list[JsonObject], wave: object) -> list[JsonObject]:
    if len(waves) <= _MOST_WAVES or not isinstance(wave, int):
        return waves[:_MOST_WAVES]
    first = min(max(0, wave - _MOST_WAVES // 2), len(waves) - _MOST_WAVES)
    return waves[first : first + _MOST_WAVES]


def _waves(waves: list[JsonObject], planned: object) -> Table:
    headers, rows = wave_table(waves, planned)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for header in headers:
        table.add_column(header)
    for row in rows:
        table.add_row(*row)
    return table
