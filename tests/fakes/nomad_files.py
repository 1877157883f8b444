"""What is in the directories of allocations, in memory: the live files, as their task's templates render them."""

from collections.abc import Mapping

from opencode_lifecycle.model.identifiers import AllocationId, JobId

LIVE_FILES: Mapping[str, str] = {
    "instructions": "server/local/live/instructions/AGENTS.md",
    "managed": "server/local/live/managed/opencode.json",
}
"""Where each text goes that the pointer names."""


class FakeFiles:
    """
    Files by allocation. What a test puts there stays, unless a template renders the same file again.

    A job in `deaf` (or every one, when `all_deaf`) has templates that follow their pointer no more: its files stay as they
    were when its task started.
    """

    def __init__(self) -> None:
        self.of: dict[AllocationId, dict[str, bytes]] = {}
        self.deaf: set[JobId] = set()
        self.all_deaf = False

    def hears(self, job_id: JobId) -> bool:
        return not self.all_deaf and job_id not in self.deaf

    def render(
        self, allocation_id: AllocationId, pointer: Mapping[str, str] | None, bundles: Mapping[str, str]
    ) -> None:
        """Render what *pointer* names. Without it, or without its texts, the templates wait and change nothing."""
        for name, path in LIVE_FILES.items():
            text = bundles.get(pointer.get(name, "")) if pointer is not None else None
            if text is not None:
                self.of.setdefault(allocation_id, {})[path] = text.encode()
