"""Nodes that take nothing new: those that an operator has marked ineligible, which every drain does as well."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from opencode_lifecycle.adapters.nomad.connection import SYSTEM, NomadConnection, path_of
from opencode_lifecycle.adapters.nomad.reading import mapping, moment, text
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamNonsense
from opencode_lifecycle.model.node import ClosedNode, Drain

OPERATION: Final = "list nodes"
_PAGE: Final = 50
"""A node tells of every volume on it, of which there may be thousands."""
_CLOSED: Final = 'SchedulingEligibility == "ineligible"'


async def closed_nodes(connection: NomadConnection, deadline: Deadline) -> Sequence[ClosedNode]:
    """List the closed ones alone, and ask those that are drained for how long. One that is gone by then is not closed."""
    stubs, _ = await connection.pages(
        OPERATION, path_of("nodes"), {"filter": _CLOSED}, page_size=_PAGE, deadline=deadline
    )
    closed = []
    for stub in (mapping(OPERATION, each) for each in stubs):
        if stub.get("SchedulingEligibility") != "ineligible":
            raise UpstreamNonsense(SYSTEM, OPERATION, "a node is listed that was not asked for")
        if stub.get("Drain") is not True:
            closed.append(_node(stub, None))
            continue
        path = path_of("node", text(OPERATION, stub, "ID"))
        answer = await connection.get(OPERATION, path, deadline=deadline)
        if answer.found:
            node = mapping(OPERATION, answer.body)
            if node.get("SchedulingEligibility") == "ineligible":
                closed.append(_node(node, node.get("DrainStrategy")))
    return closed


def _node(source: Mapping[str, Any], strategy: Any) -> ClosedNode:
    return ClosedNode(
        id=text(OPERATION, source, "ID"),
        name=text(OPERATION, source, "Name"),
        drain=_drain(mapping(OPERATION, strategy)) if strategy is not None else None,
    )


def _drain(strategy: Mapping[str, Any]) -> Drain:
    """
    Read until when a drain waits: a `Deadline` of 0 waits for ever, a negative one not at all.

    Otherwise `ForceDeadline` has the moment.
    """
    deadline = strategy.get("Deadline")
    if not isinstance(deadline, int) or isinstance(deadline, bool):
        raise UpstreamNonsense(SYSTEM, OPERATION, "Deadline is no number")
    if deadline == 0:
        return Drain(deadline=None)
    at = moment(OPERATION, strategy.get("StartedAt" if deadline < 0 else "ForceDeadline"))
    if at is None:
        raise UpstreamNonsense(SYSTEM, OPERATION, "a drain with a deadline does not say when that is")
    return Drain(deadline=at)
