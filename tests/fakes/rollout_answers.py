"""What the service answers about releases, groups and rollouts, in the exact shapes of the contract."""

from typing import Any

from fakes.service_answers import SINCE, items, staleness

RELEASE = "rel_01JABCDEFGHJKMNPQRSTVWXYZ0"
NEXT_RELEASE = "rel_01JABCDEFGHJKMNPQRSTVWXYZ1"
ROLLOUT = "ro_01JABCDEFGHJKMNPQRSTVWXYZ0"
PLAN = "plan_01JABCDEFGHJKMNPQRSTVWXYZ0"


def specification(**changes: Any) -> dict[str, Any]:
    """Return the specification of a rollout to the next release at the default pace, except for *changes*."""
    return {
        "release": NEXT_RELEASE,
        "selector": {
            "all_stale": False, "reasons": [], "releases": [], "labels": {}, "groups": [], "users": [],
        },
        "strategy": {
            "canary": "1",
            "waves": ["10%"],
            "max_in_flight": 10,
            "max_unavailable": None,
            "soak": "30s",
            "gate": {"failure_budget": "5%", "health": True, "prompt": None},
            "deadline": "1h",
            "at_deadline": "skip",
        },
        "rotate_passwords": False,
        "recreate": False,
        **changes,
    }  # fmt: skip


def planned_stack(user_id: str = "ada", **changes: Any) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "generation": 3,
        "revision": "feedfacefeedface",
        "release": RELEASE,
        "why": [staleness()],
        "class": "restart",
        "busy": "idle",
        "placement": "possible",
        "wave": 1,
        "left_out": None,
        "message": "",
        **changes,
    }


def plan(*stacks: Any, **changes: Any) -> dict[str, Any]:
    """Return a plan of *stacks*, whose totals are theirs, except for *changes*."""
    moved = [each for each in stacks if each["left_out"] is None]
    return {
        "id": PLAN,
        "specification": specification(),
        "target_before": RELEASE,
        "changes_target": bool(moved),
        "has_changes": bool(moved),
        "waves": 1,
        "totals": {
            "stacks": len(stacks),
            "to_move": len(moved),
            "left_out": len(stacks) - len(moved),
            **{
                each: sum(stack["class"] == each for stack in moved) for each in ("live", "reload", "restart")
            },
            "busy": sum(
                stack["busy"] != "idle" and stack["class"] in {"reload", "restart"} for stack in moved
            ),
            "not_placeable": sum(stack["placement"] == "refused" for stack in moved),
        },
        "stacks": list(stacks),
        "created_by": "operator",
        "created_at": SINCE,
        "lapses_at": SINCE,
        **changes,
    }


def rollout(state: str = "running", **changes: Any) -> dict[str, Any]:
    """Return a rollout that moves its first wave after the canary, except for *changes*."""
    return {
        "id": ROLLOUT,
        "state": state,
        "reason": None,
        "message": "",
        "release": NEXT_RELEASE,
        "target_before": RELEASE,
        "promoted_at": SINCE,
        "goes_back": False,
        "rollback_data": "keep",
        "wave": 1,
        "waves": 2,
        "soaks_until": None,
        "counts": {"migrated": 3, "ordered": 2, "waiting": 5},
        "specification": specification(),
        "created_by": "operator",
        "created_at": SINCE,
        "updated_at": SINCE,
        "finished_at": None,
        **changes,
    }


def rollout_detail(state: str = "running", *members: Any, **changes: Any) -> dict[str, Any]:
    return {
        **rollout(state),
        "wave_counts": [
            {"wave": 0, "counts": {"migrated": 1}},
            {"wave": 1, "counts": {"migrated": 2, "ordered": 2}},
            {"wave": 2, "counts": {"waiting": 5}},
        ],
        "members": items(*members),
        **changes,
    }


def member(user_id: str = "ada", **changes: Any) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "wave": 1,
        "state": "ordered",
        "reason": None,
        "message": "",
        "class": "restart",
        "release_before": RELEASE,
        "goes_back": False,
        "ordered_at": SINCE,
        "deadline": "2026-01-02T04:04:05Z",
        "prompt": None,
        "changed_at": SINCE,
        **changes,
    }


def release(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a release in short, as lists have it."""
    return {
        "id": f"rel_01JABCDEFGHJKMNPQRSTVWXYZ{number - 1}",
        "number": number,
        "image": "registry.example/opencode@sha256:feed",
        "opencode_version": "1.18.34",
        "digests": {"template": "a" * 16, "prompt": "b" * 16, "config": "c" * 16},
        "note": "",
        "created_by": "settings",
        "created_at": SINCE,
        "is_current": number == 1,
        "stacks": 2,
        **changes,
    }


def whole_release(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a release with everything it is made of."""
    return {
        **release(number),
        "template": 'job "x" {}',
        "instructions": "Be kind.",
        "managed_config": "{}",
        "agent_prompts": {},
        "managed": "{}",
        "environment": {"TZ": "UTC"},
        "resource_classes": {"small": {"cpu": 200, "memory": 512, "memory_max": 2048}},
        **changes,
    }


def made_release(number: int = 2, **changes: Any) -> dict[str, Any]:
    checks = {"template": "accepted by Nomad", "config": "not checked: no OpenCode program"}
    return {**whole_release(number), "checks": checks, **changes}


def group(**changes: Any) -> dict[str, Any]:
    return {
        "group": "team-a",
        "pin": None,
        "idle_stop_after": "30m",
        "changed_at": SINCE,
        "changed_by": "operator",
        **changes,
    }
