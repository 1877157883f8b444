"""Nomad's JSON into our words. What is not as it must be is `UpstreamNonsense`, never a guess."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from sys import intern
from typing import Any, Final

from opencode_lifecycle.adapters.nomad.connection import SYSTEM
from opencode_lifecycle.adapters.nomad.task_trouble import trouble_of
from opencode_lifecycle.model.errors import UpstreamNonsense
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.observation import AllocationSeen, ClientStatus, JobSeen
from opencode_lifecycle.model.stack import Address

TASK: Final = "server"
PORT_LABEL: Final = "http"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HIGHEST_PORT: Final = 65535
_OF_ONE: Final = "user"
"""The one entry of a job's meta that differs from stack to stack."""


def mapping(operation: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UpstreamNonsense(SYSTEM, operation, "an object was expected")
    return value


def text(operation: str, source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    if not isinstance(value, str):
        raise UpstreamNonsense(SYSTEM, operation, f"{name} is no text")
    return value


def shared_text(operation: str, source: Mapping[str, Any], name: str) -> str:
    """Return a text that is the same for many, so that a fleet keeps it once."""
    return intern(text(operation, source, name))


def number(operation: str, source: Mapping[str, Any], name: str) -> int:
    value = source.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UpstreamNonsense(SYSTEM, operation, f"{name} is no number")
    return value


def instant(operation: str, source: Mapping[str, Any], name: str) -> datetime | None:
    """Return a time that Nomad gives in nanoseconds, or None where it gives none."""
    nanoseconds = number(operation, source, name) if source.get(name) else 0
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000) if nanoseconds else None
    except OverflowError:
        raise UpstreamNonsense(SYSTEM, operation, f"{name} is no time") from None


def job_seen(operation: str, source: Any, *, version: int | None = None) -> JobSeen:
    """Read a job, or a job stub when its *version*, which stubs lack, is known from elsewhere."""
    job = mapping(operation, source)
    meta = job.get("Meta") or {}
    if not isinstance(meta, Mapping) or not all(isinstance(value, str) for value in meta.values()):
        raise UpstreamNonsense(SYSTEM, operation, "Meta is no map of texts")
    stopped = job.get("Stop")
    if not isinstance(stopped, bool):
        raise UpstreamNonsense(SYSTEM, operation, "Stop is neither true nor false")
    return JobSeen(
        job_id=JobId(text(operation, job, "ID")),
        version=number(operation, job, "Version") if version is None else version,
        modify_index=number(operation, job, "JobModifyIndex"),
        stopped=stopped,
        meta={intern(name): value if name == _OF_ONE else intern(value) for name, value in meta.items()},
        submitted_at=instant(operation, job, "SubmitTime"),
    )


def allocation_seen(operation: str, source: Any, *, address: Address | None = None) -> AllocationSeen:
    """Read an allocation or its stub. *address* is used where the source does not tell."""
    allocation = mapping(operation, source)
    state = _task_state(operation, allocation)
    trouble, message = trouble_of(state)
    try:
        client_status = ClientStatus(text(operation, allocation, "ClientStatus"))
    except ValueError:
        raise UpstreamNonsense(SYSTEM, operation, "the client status is none we know") from None
    return AllocationSeen(
        id=AllocationId(text(operation, allocation, "ID")),
        job_version=_job_version(operation, allocation),
        modify_index=number(operation, allocation, "ModifyIndex"),
        create_index=number(operation, allocation, "CreateIndex"),
        desired_status=shared_text(operation, allocation, "DesiredStatus"),
        client_status=client_status,
        node_id=shared_text(operation, allocation, "NodeID"),
        node_name=shared_text(operation, allocation, "NodeName"),
        address=address_of(operation, allocation) or address,
        restarts=number(operation, state, "Restarts") if "Restarts" in state else 0,
        started_at=moment(operation, state.get("StartedAt")),
        trouble=trouble,
        trouble_message=message,
    )


def newest_first(allocations: Sequence[AllocationSeen]) -> tuple[AllocationSeen, ...]:
    if len(allocations) <= 1:
        return tuple(allocations)
    return tuple(sorted(allocations, key=lambda each: (each.create_index, each.id), reverse=True))


def address_of(operation: str, allocation: Mapping[str, Any]) -> Address | None:
    """Return the address that Nomad gave the port labelled `http`, or None where the source has no resources."""
    resources = allocation.get("AllocatedResources")
    shared = resources.get("Shared") if isinstance(resources, Mapping) else None
    ports = shared.get("Ports") if isinstance(shared, Mapping) else None
    for port in ports if isinstance(ports, Sequence) else ():
        if isinstance(port, Mapping) and port.get("Label") == PORT_LABEL:
            value = number(operation, port, "Value")
            if not 0 < value <= _HIGHEST_PORT:
                raise UpstreamNonsense(SYSTEM, operation, "a port is out of range")
            return Address(host=shared_text(operation, port, "HostIP"), port=value)
    return None


def _job_version(operation: str, allocation: Mapping[str, Any]) -> int:
    """Return the version of the job that the allocation runs. Whole allocations carry the job, or in events neither."""
    if "JobVersion" in allocation:
        return number(operation, allocation, "JobVersion")
    return number(operation, mapping(operation, allocation.get("Job")), "Version")


def _task_state(operation: str, allocation: Mapping[str, Any]) -> Mapping[str, Any]:
    states = allocation.get("TaskStates")
    if states is None:
        return {}
    tasks = mapping(operation, states)
    # Jobs of other templates name their tasks as they like: with a single task there is no doubt.
    state = tasks.get(TASK) or (next(iter(tasks.values())) if len(tasks) == 1 else None)
    return {} if state is None else mapping(operation, state)


def moment(operation: str, value: Any) -> datetime | None:
    """Return a time that Nomad gives as text, or None for none and for its zero."""
    if value is None or value == "0001-01-01T00:00:00Z":
        return None
    if not isinstance(value, str):
        raise UpstreamNonsense(SYSTEM, operation, "a time is no text")
    try:
        return datetime.fromisoformat(_to_microseconds(value))
    except ValueError:
        raise UpstreamNonsense(SYSTEM, operation, "a time cannot be read") from None


def _to_microseconds(value: str) -> str:
    """Cut nanoseconds, which Python's parser does not take."""
    seconds, point, rest = value.partition(".")
    digits = rest.rstrip("Zz")
    if not point or not digits.isdigit():
        return value
    return f"{seconds}.{digits[:6]:0<6}+00:00"
