"""The nodes of the in-memory Nomad: which there are, and which of them take nothing new."""

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime

from opencode_lifecycle.model.node import ClosedNode, Drain


class FakeNodes:
    """
    Nodes by name, which is their id as well, in the order in which the scheduler tries them.

        nomad.nodes.drain("node-1", deadline=None)  # `nomad node drain -enable -no-deadline`
        nomad.nodes.pass_deadline("node-1")
        nomad.nodes.open("node-1")  # `nomad node drain -disable`, or `nomad node eligibility -enable`
    """

    def __init__(
        self,
        first: str,
        *,
        is_empty: Callable[[str], bool],
        on_change: Callable[[], None],
        on_open: Callable[[], None],
        evict: Callable[[str], None],
    ) -> None:
        self.names = [first]
        self.closed: dict[str, ClosedNode] = {}
        self._is_empty = is_empty
        self._on_change = on_change
        self._on_open = on_open
        self._evict = evict

    def add(self, name: str) -> None:
        self.names.append(name)
        self._on_open()

    def drain(self, name: str, *, deadline: datetime | None) -> None:
        """Begin to empty the node. What must not be migrated stays until the deadline; one that is empty is done at once."""
        self.closed[name] = ClosedNode(id=name, name=name, drain=Drain(deadline=deadline))
        self._on_change()
        self.emptied(name)

    def close(self, name: str) -> None:
        self.closed[name] = ClosedNode(id=name, name=name, drain=None)
        self._on_change()

    def open(self, name: str) -> None:
        self.closed.pop(name, None)
        self._on_change()
        self._on_open()

    def pass_deadline(self, name: str) -> None:
        """Let the deadline of the drain pass: what is left is ended, and the node is closed from then on."""
        self.close(name)
        self._evict(name)

    def emptied(self, name: str) -> None:
        """End the drain of a node on which nothing is left. It stays closed."""
        node = self.closed.get(name)
        if node is not None and node.drain is not None and self._is_empty(name):
            self.closed[name] = replace(node, drain=None)
            self._on_change()

    def pick(self, bound_to: str | None = None, *, avoid: Collection[str] | None = None) -> str | None:
        """Return the first node that may be used, the one it is *bound_to* alone where there is one; None for none."""
        closed = self.closed if avoid is None else avoid
        names = self.names if bound_to is None else [bound_to]
        return next((name for name in names if name not in closed), None)
