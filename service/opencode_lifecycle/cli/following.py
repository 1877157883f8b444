"""Watching an accepted request come to its end, with its phases shown live."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from opencode_lifecycle.cli.client import CallFailed, Client, JsonObject
from opencode_lifecycle.cli.output import Screen, parse_time, plain, state
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.states import Desired, Health, Phase

POLL_SECONDS: Final = 0.25

ShowProgress = Callable[[JsonObject], None]


def is_finished(operation: JsonObject) -> bool:
    """Whether the operation has come to an end. A state this version does not know is none."""
    try:
        return OperationState(operation.get("state", "")).is_finished
    except ValueError:
        return False


def is_ready(stack: JsonObject) -> bool:
    """Whether the stack runs, is healthy, has an address, and says so of the latest accepted change."""
    runtime = stack.get("runtime") or {}
    return bool(
        stack.get("desired") == Desired.RUNNING
        and stack.get("phase") == Phase.RUNNING
        and stack.get("health") == Health.HEALTHY
        and stack.get("generation") == stack.get("observed_generation")
        and (runtime.get("addresses") or {}).get("internal")
    )


async def follow_operation(
    client: Client, operation: JsonObject, *, deadline: Deadline, show: ShowProgress
) -> JsonObject:
    """Return the operation when it is finished, or as it was last seen when *deadline* is over."""
    operation_id = str(operation["id"])
    return await poll(
        lambda: client.operation(operation_id), operation, is_finished, deadline=deadline, show=show
    )


async def follow_stack(
    client: Client, stack: JsonObject, *, deadline: Deadline, show: ShowProgress
) -> JsonObject:
    """Return the stack when it is ready, or as it was last seen when *deadline* is over."""
    user_id = str(stack["user_id"])

    def show_phase(seen: JsonObject) -> None:
        entered = {"phase": seen.get("phase"), "at": seen.get("updated_at")}
        show({"phases": [entered], "message": seen.get("message")})

    return await poll(lambda: client.stack(user_id), stack, is_ready, deadline=deadline, show=show_phase)


async def poll(
    read: Callable[[], Awaitable[JsonObject]],
    seen: JsonObject,
    enough: Callable[[JsonObject], bool],
    *,
    deadline: Deadline,
    show: ShowProgress,
) -> JsonObject:
    """Read until *enough*. A service that is away for a moment, such as for its restart, is waited for."""
    show(seen)
    while not enough(seen) and deadline.left() > 0:
        await asyncio.sleep(min(POLL_SECONDS, deadline.left()))
        try:
            seen = await read()
        except CallFailed as failure:
            if not failure.may_pass or deadline.left() <= 0:
                raise
            show({**seen, "message": f"{failure.detail}; trying again"})
            continue
        show(seen)
    return seen


@contextmanager
def progress(screen: Screen, user_id: str) -> Iterator[ShowProgress]:
    """Show phases on stderr: live on a terminal, else a line for each one entered, and with --json nothing."""
    if screen.as_json:
        yield lambda _: None
    elif screen.notes.is_terminal:
        with Live(console=screen.notes, transient=True, refresh_per_second=10) as live:
            spinner = Spinner("dots")

            def show_live(operation: JsonObject) -> None:
                spinner.update(text=_trail(user_id, operation))
                live.update(spinner)

            yield show_live
    else:
        yield _PhaseLines(screen, user_id)


class _PhaseLines:
    """Tells each phase once, as it is entered."""

    def __init__(self, screen: Screen, user_id: str) -> None:
        self._screen = screen
        self._user_id = user_id
        self._told = 0
        self._last: object = None

    def __call__(self, operation: JsonObject) -> None:
        phases = _phases(operation)
        for entered in phases[min(self._told, len(phases) - 1) if phases else 0 :]:
            if entered.get("phase") != self._last:
                self._last = entered.get("phase")
                self._screen.note(f"{self._user_id}: {self._last}")
        self._told = len(phases)


def _phases(operation: JsonObject) -> Sequence[JsonObject]:
    phases = operation.get("phases")
    return [entered for entered in phases if isinstance(entered, dict)] if isinstance(phases, list) else []


def _trail(user_id: str, operation: JsonObject) -> Text:
    """Return one line: the phases so far with the seconds each took, and what is being waited for."""
    line = Text(plain(user_id), style="bold")
    phases = _phases(operation)
    times = [parse_time(entered.get("at")) for entered in phases]
    for number, entered in enumerate(phases):
        line.append(" → " if number else "  ", style="dim").append_text(state(entered.get("phase")))
        following = times[number + 1] if number + 1 < len(times) else None
        line.append(_seconds_between(times[number], following), style="dim")
    if not phases:
        line.append("  ").append_text(state(operation.get("state")))
    message: Any = operation.get("message")
    if message:
        line.append(f"\n  {plain(message)}", style="dim")
    return line


def _seconds_between(start: datetime | None, end: datetime | None) -> str:
    return f" {(end - start).total_seconds():.1f} s" if start is not None and end is not None else ""
