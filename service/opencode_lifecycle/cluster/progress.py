"""Telling people what is going on: a live line with the elapsed time on a terminal, plain lines elsewhere."""

from typing import Protocol, Self

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Progress(Protocol):
    def step(self, text: str) -> None:
        """Say what is happening from now on."""
        ...

    def note(self, text: str) -> None:
        """Say something that stays readable."""
        ...


class Silent:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def step(self, text: str) -> None:
        del text

    def note(self, text: str) -> None:
        del text


class Shown:
    """Shows progress on *console* while it is entered as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._last = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def step(self, text: str) -> None:
        if text == self._last:
            return
        self._last = text
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, markup=False)
            return
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(text, total=None)

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
