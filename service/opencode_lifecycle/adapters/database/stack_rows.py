"""
A stack and its row, each way. The only place that knows how the one lies in the other.

A whole fleet is kept in memory, and most of it is alike: what is equal for many is one object.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from sys import intern
from typing import Any, Final

from opencode_lifecycle.adapters.database.facet_mask import facets_in_mask, mask_of
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.identifiers import OperationId, ReleaseId
from opencode_lifecycle.model.migration import AtDeadline, Footing, MigrationOrder, OrderOutcome, Refusal
from opencode_lifecycle.model.stack import (
    Address,
    FieldEdit,
    Intent,
    KeptWorkspace,
    Runtime,
    Stack,
    Status,
    Successor,
    Workspace,
)
from opencode_lifecycle.model.states import Desired, Health, MigrationState, Phase, Reason

Row = Mapping[str, Any]

_FACETS = (
    "image",
    "opencode_version",
    "template",
    "environment",
    "resources",
    "secret_version",
    "prompt",
    "config",
    "labels",
    "endpoints",
)
_RUNTIME = (
    "allocation_id",
    "job_version",
    "node",
    "image",
    "opencode_version",
    "revision",
    "secret_version",
    "release",
    "restarts",
    "started_at",
    "proven_at",
)
_FACETS_OF: Final = itemgetter(*_FACETS)
_FACETS_IN: Final = itemgetter(*(f"facet_{name}" for name in _FACETS))
_NO_FACETS = {f"facet_{name}": None for name in _FACETS}
_SHARED_OF_RUNTIME = ("node", "image", "opencode_version", "revision", "release")
_NOTHING: Final[Mapping[str, str]] = {}
_NO_RUNTIME = {f"runtime_{name}": None for name in (*_RUNTIME, "host", "port")}
_NO_WORKSPACE = {"workspace_volume_id": None, "workspace_node_id": None, "workspace_path": None}


def stack_of(row: Row) -> Stack:
    return Stack(
        user_id=row["user_id"],
        job_id=row["job_id"],
        namespace=intern(row["namespace"]),
        region=intern(row["region"]),
        intent=_intent_of(row),
        status=_status_of(row),
        busy_until=row["busy_until"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        change_seq=row["change_seq"],
    )


def values_of(stack: Stack) -> dict[str, Any]:
    """Return every column but those that say whose turn it is."""
    return {
        "user_id": stack.user_id,
        "job_id": stack.job_id,
        "namespace": stack.namespace,
        "region": stack.region,
        "created_at": stack.created_at,
        "updated_at": stack.updated_at,
        "busy_until": stack.busy_until,
        "change_seq": stack.change_seq,
        **intent_values(stack.intent),
        **status_values(stack.status),
    }


def _intent_of(row: Row) -> Intent:
    return Intent(
        generation=row["generation"],
        desired=Desired(row["desired"]),
        group=intern(row["group"]),
        resources=intern(row["resources"]),
        labels=row["labels"] or _NOTHING,
        environment=row["environment"] or _NOTHING,
        wanted_release=ReleaseId(intern(row["wanted_release"])),
        pinned=row["pinned"],
        held=row["held"],
        fresh_start=row["fresh_start"],
        rotation=row["rotation"],
        order=_order_of(row["migration_order"]),
        recovered=row["recovered"],
        delete_workspace=row["delete_workspace"],
        successor=_successor_of(row["successor"]),
        last_operation=row["last_operation"],
    )


def intent_values(intent: Intent) -> dict[str, Any]:
    return {
        "generation": intent.generation,
        "desired": intent.desired.value,
        "group": intent.group,
        "resources": intent.resources,
        "labels": dict(intent.labels),
        "environment": dict(intent.environment),
        "wanted_release": intent.wanted_release,
        "pinned": intent.pinned,
        "held": intent.held,
        "fresh_start": intent.fresh_start,
        "rotation": intent.rotation,
        "migration_order": _order_document(intent.order),
        "recovered": intent.recovered,
        "delete_workspace": intent.delete_workspace,
        "successor": _successor_document(intent.successor),
        "last_operation": intent.last_operation,
    }


def _order_of(document: Row | None) -> MigrationOrder | None:
    if document is None:
        return None
    return MigrationOrder(
        id=document["id"],
        deadline=datetime.fromisoformat(document["deadline"]) if document["deadline"] else None,
        at_deadline=AtDeadline(document["at_deadline"]),
        rotate=document["rotate"],
        fresh=document["fresh"],
        restore=document.get("restore", False),
    )


def _order_document(order: MigrationOrder | None) -> dict[str, Any] | None:
    if order is None:
        return None
    return {
        "id": order.id,
        "deadline": order.deadline.isoformat() if order.deadline is not None else None,
        "at_deadline": order.at_deadline.value,
        "rotate": order.rotate,
        "fresh": order.fresh,
        "restore": order.restore,
    }


def _footing_of(document: Row | None) -> Footing | None:
    if document is None:
        return None
    return _footing(
        document["release"],
        document["resources"],
        tuple(document["environment"].items()),
        _FACETS_OF(document["facets"]),
        # Of one that was written down before that was, it is not known whether it was used: it counts as that.
        (document["restore"], document.get("used", True), document.get("moved_data", False)),
    )


@lru_cache(maxsize=4096)
def _footing(
    release: str,
    resources: str,
    environment: tuple[tuple[str, str], ...],
    facets: tuple[Any, ...],
    data: tuple[str, bool, bool],
) -> Footing:
    return Footing(
        release=ReleaseId(intern(release)),
        resources=intern(resources),
        environment=dict(environment) or _NOTHING,
        facets=_facets(facets),
        restore=data[0],
        used=data[1],
        moved_data=data[2],
    )


def _footing_document(footing: Footing | None) -> dict[str, Any] | None:
    if footing is None:
        return None
    return {
        "release": footing.release,
        "resources": footing.resources,
        "environment": dict(footing.environment),
        "facets": {name: getattr(footing.facets, name) for name in _FACETS},
        "restore": footing.restore,
        "used": footing.used,
        "moved_data": footing.moved_data,
    }


def _refusal_of(document: Row | None) -> Refusal | None:
    return (
        None if document is None else Refusal(reason=Reason(document["reason"]), message=document["message"])
    )


def _refusal_document(refusal: Refusal | None) -> dict[str, str] | None:
    return None if refusal is None else {"reason": refusal.reason.value, "message": refusal.message}


def _successor_of(document: Row | None) -> Successor | None:
    if document is None:
        return None
    return Successor(
        group=document["group"],
        resources=document["resources"],
        labels=document["labels"],
        environment=document["environment"],
        operation=OperationId(document["operation"]),
        deletion=OperationId(document["deletion"]) if document["deletion"] else None,
    )


def _successor_document(successor: Successor | None) -> dict[str, Any] | None:
    if successor is None:
        return None
    return {
        "group": successor.group,
        "resources": successor.resources,
        "labels": dict(successor.labels),
        "environment": dict(successor.environment),
        "operation": successor.operation,
        "deletion": successor.deletion,
    }


def _status_of(row: Row) -> Status:
    return Status(
        observed_generation=row["observed_generation"],
        phase=Phase(row["phase"]),
        phase_since=row["phase_since"],
        health=Health(row["health"]),
        migration_state=MigrationState(row["migration_state"]),
        reason=None if row["reason"] is None else Reason(row["reason"]),
        message=row["message"],
        facets=_facets_of(row),
        release=None if row["release"] is None else ReleaseId(intern(row["release"])),
        secret_version=row["secret_version"],
        workspace=_workspace_of(row),
        job_modify_index=row["job_modify_index"],
        fresh_start_done=row["fresh_start_done"],
        rotation_done=row["rotation_done"],
        runtime=_runtime_of(row),
        attempts=row["attempts"],
        edits=tuple(FieldEdit(**edit) for edit in row["edits"]),
        edits_restart=row["edits_restart"],
        recycled_at=row["recycled_at"],
        stale=facets_in_mask(row["stale"]),
        built=_footing_of(row["built"]),
        footing=_footing_of(row["footing"]),
        refused=row["refused"],
        refused_in=row["refused_in"],
        refusal=_refusal_of(row["refusal"]),
        migrating_since=row["migrating_since"],
        order_done=row["order_done"],
        order_outcome=None if row["order_outcome"] is None else OrderOutcome(row["order_outcome"]),
    )


def status_values(status: Status) -> dict[str, Any]:
    return {
        "observed_generation": status.observed_generation,
        "phase": status.phase.value,
        "phase_since": status.phase_since,
        "health": status.health.value,
        "migration_state": status.migration_state.value,
        "reason": None if status.reason is None else status.reason.value,
        "message": status.message,
        "release": status.release,
        "secret_version": status.secret_version,
        "job_modify_index": status.job_modify_index,
        "fresh_start_done": status.fresh_start_done,
        "rotation_done": status.rotation_done,
        "attempts": status.attempts,
        "edits": [{"field": edit.field, "have": edit.have, "want": edit.want} for edit in status.edits],
        "edits_restart": status.edits_restart,
        "recycled_at": status.recycled_at,
        "stale": mask_of(status.stale, edits_restart=status.edits_restart),
        "built": _footing_document(status.built),
        "footing": _footing_document(status.footing),
        "refused": status.refused,
        "refused_in": status.refused_in,
        "refusal": _refusal_document(status.refusal),
        "migrating_since": status.migrating_since,
        "order_done": status.order_done,
        "order_outcome": None if status.order_outcome is None else status.order_outcome.value,
        **_facet_values(status.facets),
        **_workspace_values(status.workspace),
        **_runtime_values(status.runtime),
    }


def _facets_of(row: Row) -> Facets | None:
    if row["facet_image"] is None:
        return None
    return _facets(_FACETS_IN(row))


@lru_cache(maxsize=4096)
def _facets(values: tuple[Any, ...]) -> Facets:
    return Facets(**dict(zip(_FACETS, values, strict=True)))


def _facet_values(facets: Facets | None) -> Row:
    if facets is None:
        return _NO_FACETS
    return {f"facet_{name}": getattr(facets, name) for name in _FACETS}


def _workspace_of(row: Row) -> Workspace | None:
    if row["workspace_volume_id"] is None:
        return None
    return Workspace(
        volume_id=row["workspace_volume_id"],
        node_id=intern(row["workspace_node_id"]),
        path=row["workspace_path"],
    )


def _workspace_values(workspace: Workspace | None) -> Row:
    if workspace is None:
        return _NO_WORKSPACE
    return {
        "workspace_volume_id": workspace.volume_id,
        "workspace_node_id": workspace.node_id,
        "workspace_path": workspace.path,
    }


def _runtime_of(row: Row) -> Runtime | None:
    if row["runtime_allocation_id"] is None:
        return None
    host = row["runtime_host"]
    address = None if host is None else Address(host=intern(host), port=row["runtime_port"])
    values = {name: row[f"runtime_{name}"] for name in _RUNTIME}
    return Runtime(address=address, **values | {name: intern(values[name]) for name in _SHARED_OF_RUNTIME})


def _runtime_values(runtime: Runtime | None) -> Row:
    if runtime is None:
        return _NO_RUNTIME
    return {
        "runtime_host": None if runtime.address is None else runtime.address.host,
        "runtime_port": None if runtime.address is None else runtime.address.port,
        **{f"runtime_{name}": getattr(runtime, name) for name in _RUNTIME},
    }


def kept_workspace_of(row: Row) -> KeptWorkspace:
    return KeptWorkspace(
        user_id=row["user_id"],
        job_id=row["job_id"],
        workspace=Workspace(volume_id=row["volume_id"], node_id=row["node_id"], path=row["path"]),
        kept_at=row["kept_at"],
    )


def kept_workspace_values(kept: KeptWorkspace) -> Row:
    return {
        "user_id": kept.user_id,
        "job_id": kept.job_id,
        "volume_id": kept.workspace.volume_id,
        "node_id": kept.workspace.node_id,
        "path": kept.workspace.path,
        "kept_at": kept.kept_at,
    }
