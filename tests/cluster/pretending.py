"""Programs that only pretend, and a listener: what tests of finding and making the servers share."""

from collections.abc import Callable
from pathlib import Path

from opencode_lifecycle.cluster.progress import Silent

Script = Callable[[Path, str], Path]


class Heard(Silent):
    """Remembers what people were told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)
