"""What Consul's answers say of services that bear a stack's name."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.service_catalog import ServiceInstance

PREFIX: Final = "oc-"
_ALLOCATION: Final = re.compile(
    r"_nomad-(?:task|group)-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?:-|\Z)"
)
_ALLOCATION_IN_META: Final = "allocation_id"
_INSTALLATION_IN_META: Final = "installation"
_HIGHEST_PORT: Final = 65535

NOT_AS_IT_SHOULD_BE: Final = (AttributeError, KeyError, TypeError, ValueError)
"""What every function here raises for an answer of another shape: Python's own errors, which may quote it."""


def health_entries(job_id: JobId, entries: Any) -> Sequence[ServiceInstance]:
    """Read the instances of one service with their checks."""
    found = []
    for entry in _objects(entries):
        service = entry["Service"]
        if service["Service"] != job_id:
            raise ValueError("an instance of another service")
        passing = all(check["Status"] == "passing" for check in entry["Checks"])
        found.append(_instance(service, entry["Node"], passing=passing))
    return tuple(instance for instance in found if instance is not None)


def node_names(nodes: Any) -> Sequence[str]:
    return tuple(_text(node["Node"]) for node in _objects(nodes))


def node_services(answer: Any) -> Sequence[tuple[JobId, ServiceInstance]]:
    """
    Read the services with our prefix of one node; a node that is gone has none.

    One without a port has no address that could be a runtime's: others may use our prefix, too.
    """
    node, services = answer["Node"], answer["Services"]
    if not services and services in (None, []):
        return ()
    found = []
    for service in _objects(services):
        name = _text(service["Service"])
        if name.startswith(PREFIX) and (type(service["Port"]) is not int or service["Port"] != 0):
            found.append((JobId(name), _instance(service, node, passing=True)))
    return tuple((job_id, instance) for job_id, instance in found if instance is not None)


def critical_claims(checks: Any) -> frozenset[tuple[JobId, AllocationId]]:
    """Read which allocations have a check in the list; checks of nodes and of other services are left out."""
    claims = set()
    for check in _objects(checks):
        name, match = _text(check["ServiceName"]), _ALLOCATION.match(_text(check["ServiceID"]))
        if match is not None and name.startswith(PREFIX):
            claims.add((JobId(name), AllocationId(match[1])))
    return frozenset(claims)


def all_allowed(answers: Any) -> bool:
    """Read whether our token has every right that was asked for, of which there was at least one."""
    allowed = [answer["Allow"] for answer in _objects(answers)]
    if not allowed or not all(isinstance(each, bool) for each in allowed):
        raise TypeError("a right that is neither given nor denied")
    return all(allowed)


def name_of_agent_node(answer: Any) -> str:
    return _text(answer["Config"]["NodeName"])


def _instance(
    service: Mapping[str, Any], node: Mapping[str, Any], *, passing: bool
) -> ServiceInstance | None:
    """
    Return None for an instance that belongs to no allocation and names no installation: it is no runtime, of nobody's.

    One that names an installation without an allocation was registered by hand in its name.
    """
    match = _ALLOCATION.match(service["ID"])
    meta = service.get("Meta") or {}
    allocation = match[1] if match else meta.get(_ALLOCATION_IN_META)
    installation = meta.get(_INSTALLATION_IN_META)
    if not allocation and not installation:
        return None
    host, port = service["Address"] or node["Address"], service["Port"]
    if type(port) is not int or not 0 < port <= _HIGHEST_PORT:
        raise ValueError("a port that is none")
    return ServiceInstance(
        allocation_id=AllocationId(_text(allocation or "")),
        address=Address(host=_text(host), port=port),
        passing=passing,
        service_id=service["ID"],
        node=_text(node["Node"]),
        installation=_text(installation) if installation else None,
    )


def _objects(value: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise TypeError("not a list of objects")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
