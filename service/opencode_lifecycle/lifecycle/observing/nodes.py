"""Which nodes take nothing new, as they were listed last."""

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from time import monotonic

from opencode_lifecycle.model.node import ClosedNode


class Nodes:
    """Says nothing by what was listed longer ago than may be believed. Its clock is one that nobody sets."""

    def __init__(self, *, max_age: timedelta, monotonic: Callable[[], float] = monotonic) -> None:
        self._max_age = max_age.total_seconds()
        self._monotonic = monotonic
        self._closed: dict[str, ClosedNode] = {}
        self._listed_at: float | None = None

    def now(self) -> float:
        """Return the time by which a listing says when it was begun."""
        return self._monotonic()

    def listed(self, closed: Sequence[ClosedNode], *, begun: float) -> frozenset[str] | None:
        """
        Take in a whole listing, and return the ids of the nodes that are not as they were known.

        None where nothing was known any more, so that any may be. One that was begun before what is known says nothing.
        """
        if self._listed_at is not None and begun < self._listed_at:
            return frozenset()
        was_known, before = self.are_known, self._closed
        self._closed, self._listed_at = {node.id: node for node in closed}, begun
        if not was_known:
            return None
        ids = before.keys() | self._closed.keys()
        return frozenset(each for each in ids if before.get(each) != self._closed.get(each))

    @property
    def age(self) -> timedelta | None:
        """Return how long ago the last listing was begun; None when that is too long, or there was none."""
        age = self._monotonic() - self._listed_at if self._listed_at is not None else None
        return timedelta(seconds=age) if age is not None and age <= self._max_age else None

    @property
    def are_known(self) -> bool:
        """Whether a node that is not known to be closed is known to be open."""
        return self.age is not None

    @property
    def closed(self) -> Collection[str]:
        """Return the ids of all that are known to be closed."""
        return frozenset(self._closed) if self.are_known else frozenset()

    def closed_node(self, node_id: str | None) -> ClosedNode | None:
        """Return the node if it is known to take nothing new."""
        return self._closed.get(node_id) if node_id is not None and self.are_known else None

    @property
    def any_was_closed(self) -> bool:
        """Whether a node was closed when they were listed last, however long ago. Mostly none is, so that none need be named."""
        return bool(self._closed)
