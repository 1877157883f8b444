"""What is known of nodes that take nothing new, and for how long."""

from datetime import timedelta

from opencode_lifecycle.lifecycle.observing.nodes import Nodes
from opencode_lifecycle.model.node import ClosedNode, Drain

MAX_AGE = timedelta(seconds=30)
CLOSED = ClosedNode(id="n1", name="node", drain=None)
DRAINED = ClosedNode(id="n1", name="node", drain=Drain(deadline=None))


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def known_nodes() -> tuple[Nodes, Clock]:
    clock = Clock()
    return Nodes(max_age=MAX_AGE, monotonic=clock), clock


def test_before_the_first_listing_no_node_is_known_to_be_open_or_closed():
    nodes, _ = known_nodes()

    assert (nodes.age, nodes.closed_node("n1"), nodes.closed) == (None, None, frozenset())


def test_a_listing_is_as_old_as_its_beginning():
    nodes, clock = known_nodes()
    begun = nodes.now()
    clock.seconds += 4

    nodes.listed([CLOSED], begun=begun)

    assert nodes.age == timedelta(seconds=4)


def test_what_was_listed_too_long_ago_says_nothing():
    nodes, clock = known_nodes()
    nodes.listed([CLOSED], begun=nodes.now())
    assert nodes.closed_node("n1") == CLOSED

    clock.seconds += MAX_AGE.total_seconds() + 1

    assert (nodes.are_known, nodes.closed_node("n1"), nodes.closed) == (False, None, frozenset())


def test_a_listing_tells_which_nodes_are_not_as_they_were():
    nodes, _ = known_nodes()
    nodes.listed([CLOSED, ClosedNode(id="n2", name="other", drain=None)], begun=nodes.now())

    assert nodes.listed([DRAINED], begun=nodes.now()) == {"n1", "n2"}
    assert nodes.listed([DRAINED], begun=nodes.now()) == frozenset()


def test_a_listing_that_was_begun_before_the_last_one_says_nothing():
    nodes, clock = known_nodes()
    begun = nodes.now()
    clock.seconds += 1
    nodes.listed([], begun=nodes.now())

    assert nodes.listed([CLOSED], begun=begun) == frozenset()
    assert nodes.closed_node("n1") is None


def test_after_a_time_of_which_nothing_is_known_any_node_may_have_changed():
    nodes, clock = known_nodes()
    assert nodes.listed([CLOSED], begun=nodes.now()) is None
    clock.seconds += MAX_AGE.total_seconds() + 1

    assert nodes.listed([CLOSED], begun=nodes.now()) is None
