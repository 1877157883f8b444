"""The nodes of a simulated cluster: operators close, drain and open them, and a drain has its deadline."""

from datetime import timedelta
from random import Random

from fakes.nomad_nodes import FakeNodes
from opencode_lifecycle.model.node import ClosedNode
from simulation.loop import VirtualLoop

OTHER = "node-2"
_MARGIN = 120.0
"""Seconds before the deadline of a drain from which on nobody is waited for."""
LEFT = (None, 2.0, 20.0, 60.0, 120.0)
"""Seconds that a drain leaves for an agent at work, before its margin begins; None for ever."""

_LASTS = {"closed": 40.0, "drained": 40.0, "forced": 20.0}
"""
Seconds after which nobody acts any more by what a node was: the greatest age of a listing, and the moment that a look takes.

Before anybody is stopped by force the node is looked at: there lie only the calls between, each with its deadline.
"""


class Nodes:
    """Remembers of each node what it was lately, as far as somebody may still go by that."""

    def __init__(self, fake: FakeNodes, loop: VirtualLoop, random: Random) -> None:
        self._fake = fake
        self._loop = loop
        self._random = random
        self._last: dict[str, ClosedNode] = {}
        self._since: dict[str, float] = {}
        """Since when each closed node is closed."""
        self._until: dict[tuple[str, str], float] = {}
        """Until when each node was last "closed", "drained", and "forced"."""
        self._told = fake._on_change
        fake._on_change = self._changed

    def have_two(self) -> None:
        self._fake.add(OTHER)

    def pick(self, avoid: object) -> str | None:
        """Return the node for a new workspace."""
        names = [name for name in self._fake.names if name not in avoid]  # type: ignore[operator]
        return self._random.choice(names) if names else None

    @property
    def names(self) -> list[str]:
        return self._fake.names

    @property
    def some_are_closed(self) -> bool:
        return bool(self._fake.closed)

    def drain(self, name: str, left: float | None) -> None:
        """Drain the node, so that an agent at work has *left* seconds; a drain under way gets another deadline."""
        if left is None:
            self._fake.drain(name, deadline=None)
            return
        seconds = left + _MARGIN
        self._fake.drain(name, deadline=self._loop.wall_clock() + timedelta(seconds=seconds))
        if (node := self._fake.closed[name]).drain is not None:
            self._loop.call_later(seconds, self._pass_deadline, name, node)

    def close(self, name: str) -> None:
        self._fake.close(name)

    def open_all(self) -> None:
        for name in list(self._fake.closed):
            self._fake.open(name)

    # --- what was so lately

    def was(self, how: str, name: str | None) -> bool:
        """Whether the node is, or was until a moment ago, "closed", "drained", or "forced": past what an agent was left."""
        node = self._fake.closed.get(name or "")
        ended = self._until.get((name or "", how), -1e9)
        return self._is(how, node) or self._loop.time() - ended < _LASTS[how]

    def closed_for(self, name: str | None) -> float:
        """Return for how many seconds the node has been closed, without being drained at any moment of them."""
        if name not in self._fake.closed or self.was("drained", name):
            return 0.0
        return self._loop.time() - self._since[name]

    def _is(self, how: str, node: ClosedNode | None) -> bool:
        if node is None or how == "closed" or node.drain is None:
            return node is not None and how == "closed"
        deadline = node.drain.deadline
        is_past = deadline is not None and self._loop.wall_clock() >= deadline - timedelta(seconds=_MARGIN)
        return how == "drained" or is_past

    def _changed(self) -> None:
        now = self._loop.time()
        for name in self._last.keys() | self._fake.closed.keys():
            before, after = self._last.get(name), self._fake.closed.get(name)
            for how in ("closed", "drained", "forced"):
                if self._is(how, before) and not self._is(how, after):
                    self._until[name, how] = now
            if after is not None and before is None:
                self._since[name] = now
        self._last = dict(self._fake.closed)
        self._told()

    def _pass_deadline(self, name: str, drained: ClosedNode) -> None:
        if self._fake.closed.get(name) is drained:
            self._fake.pass_deadline(name)
