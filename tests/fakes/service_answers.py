"""What the service answers about stacks and all that belongs to them, in the exact shapes of the contract."""

from typing import Any

SINCE = "2026-01-02T03:04:05Z"
JOB = "oc-ada-abcdefghijklmnopqrst"


def stack(user_id: str = "ada", **changes: Any) -> dict[str, Any]:
    """Return a stack that runs and is current, except for *changes*."""
    return {
        "user_id": user_id,
        "job_id": JOB,
        "namespace": "opencode",
        "region": "global",
        "group": "default",
        "labels": {"team": "search"},
        "resources": "small",
        "generation": 3,
        "observed_generation": 3,
        "desired": "running",
        "phase": "running",
        "health": "healthy",
        "migration_state": "current",
        "reason": None,
        "message": "",
        "release": "rel_1",
        "wanted_release": "rel_2",
        "pinned": False,
        "runtime": runtime(),
        "staleness": [],
        "migration": None,
        "observed_at": SINCE,
        "last_operation": "op_1",
        "created_at": SINCE,
        "updated_at": SINCE,
        **changes,
    }


def runtime(**changes: Any) -> dict[str, Any]:
    return {
        "job_version": 7,
        "allocation_id": "11111111-2222-3333-4444-555555555555",
        "node": "node-a",
        "image": "registry.example/opencode@sha256:feed",
        "opencode_version": "1.18.34",
        "labels": {"team": "search"},
        "revision": "feedfacefeedface",
        "restarts": 1,
        "started_at": SINCE,
        "addresses": {"internal": "http://10.0.0.7:21000", "public": None},
        **changes,
    }


def waiting_stack(user_id: str = "ada", **changes: Any) -> dict[str, Any]:
    """Return a stack that was accepted and does not run yet."""
    return stack(
        user_id,
        **{"phase": "pending", "health": "unknown", "runtime": None, "observed_generation": 2, **changes},
    )


def migration(state: str, **changes: Any) -> dict[str, Any]:
    """Return what is shown of a migration in *state* that nobody ordered, except for *changes*."""
    return {
        "state": state,
        "class": "restart",
        "order": None,
        "since": None,
        "busy_until": None,
        "refused": None,
        "footing_release": None,
        "node": None,
        **changes,
    }


def order(**changes: Any) -> dict[str, Any]:
    return {"id": "ro_1", "deadline": None, "at_deadline": "skip", **changes}


def staleness(**changes: Any) -> dict[str, Any]:
    return {"facet": "image", "have": "v1", "want": "v2", "severity": "warning", "restart": True, **changes}


def operation(state: str = "succeeded", **changes: Any) -> dict[str, Any]:
    finished = state in {"succeeded", "failed", "superseded"}
    return {
        "id": "op_1",
        "kind": "ensure",
        "user_id": "ada",
        "state": state,
        "phases": [],
        "reason": None,
        "message": "",
        "receipt": None,
        "created_at": SINCE,
        "finished_at": SINCE if finished else None,
        **changes,
    }


def phases(*names: str) -> list[dict[str, str]]:
    return [{"phase": name, "at": f"2026-01-02T03:04:0{second}Z"} for second, name in enumerate(names)]


def address(**changes: Any) -> dict[str, Any]:
    return {
        "url": "http://10.0.0.7:21000",
        "host": "10.0.0.7",
        "port": 21000,
        "audience": "internal",
        "allocation_id": "11111111-2222-3333-4444-555555555555",
        "generation": 3,
        "proven_at": SINCE,
        **changes,
    }


def event(**changes: Any) -> dict[str, Any]:
    return {
        "id": "evt_1",
        "user_id": "ada",
        "kind": "stack.ensured",
        "actor": "backend-1",
        "at": SINCE,
        "generation": 3,
        "data": {"resources": "small"},
        **changes,
    }


def token(**changes: Any) -> dict[str, Any]:
    return {
        "id": "tok_1",
        "name": "backend-1",
        "role": "backend",
        "subject": None,
        "created_at": SINCE,
        "created_by": "root",
        "revoked_at": None,
        **changes,
    }


def items(*found: Any, next_cursor: str | None = None) -> dict[str, Any]:
    return {"items": list(found), "next_cursor": next_cursor}


def readiness(*failing: str) -> dict[str, Any]:
    return {
        "status": "not ready" if failing else "ready",
        "dependencies": [
            {
                "name": name,
                "ok": name not in failing,
                "detail": "sealed" if name in failing else "",
                "age_seconds": 1.5,
            }
            for name in ("database", "nomad", "vault", "consul")
        ],
        "watches": [watch("nomad_listing"), watch("orphans")],
    }


def watch(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "ok": True, "age_seconds": 1.5, "limit_seconds": 30.0, **changes}


def condition(**changes: Any) -> dict[str, Any]:
    """Return a condition that stands and holds work back, except for *changes*."""
    return {
        "id": "cond_01JABCDEFGHJKMNPQRSTVWXYZ0",
        "kind": "mass_disappearance",
        "status": "standing",
        "freezes": True,
        "message": "7 of 9 stacks that should run are not in Nomad's listing.",
        "details": {"missing": 7},
        "since": SINCE,
        "confirmed_at": None,
        "confirmed_by": None,
        "cleared_at": None,
        **changes,
    }


def snapshot(**changes: Any) -> dict[str, Any]:
    return {
        "id": "01JABCDEFGHJKMNPQRSTVWXYZ0",
        "taken_at": SINCE,
        "opencode_version": "1.17.0",
        "before_version": "1.18.34",
        "migrations": {"count": 32, "last": "20260511173437_session-metadata"},
        "bytes": 3_670_016,
        "files": [{"path": "opencode.db", "bytes": 3_670_016, "sha256": "0" * 64}],
        "restored_at": None,
        **changes,
    }


def orphan(**changes: Any) -> dict[str, Any]:
    return {
        "id": "orp_0123456789abcdef01234567",
        "kind": "job",
        "job_id": JOB,
        "reference": JOB,
        "installation": "main",
        "user_id": "ada",
        "proven": True,
        "confirmations": 2,
        "first_seen_at": SINCE,
        "last_seen_at": SINCE,
        "details": {"stopped": False},
        **changes,
    }
