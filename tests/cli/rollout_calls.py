"""What the tests of `rollout` send, and how they read what it prints."""

from datetime import UTC, datetime

from fakes.rollout_answers import NEXT_RELEASE, RELEASE, ROLLOUT
from fakes.service_answers import SINCE, migration, order, stack

PLAN_CALL = "POST /v1/rollouts/plan"
START_CALL = "POST /v1/rollouts"
GET = f"GET /v1/rollouts/{ROLLOUT}"
NOW = datetime(2026, 1, 2, 3, 5, 0, tzinfo=UTC)
ENDED = {"finished_at": SINCE, "counts": {"migrated": 10}}


EVERY_OPTION = [
    "--release", NEXT_RELEASE, "--reason", "image", "--reason", "prompt", "--running", RELEASE, "--label", "team=search",
    "--group", "default", "--user", "ada", "--user", "bob", "--canary", "2", "--wave", "5", "--wave", "25%",
    "--max-in-flight", "4", "--max-unavailable", "3%", "--soak", "90s", "--failure-budget", "1", "--no-health-gate",
    "--prompt", "say yes", "--deadline", "2h", "--at-deadline", "hold",
]  # fmt: skip
THEIR_BODY = {
    "release": NEXT_RELEASE,
    "selector": {
        "reasons": ["image", "prompt"],
        "releases": [RELEASE],
        "labels": {"team": "search"},
        "groups": ["default"],
        "users": ["ada", "bob"],
    },
    "strategy": {
        "canary": "2",
        "waves": ["5", "25%"],
        "max_in_flight": 4,
        "max_unavailable": "3%",
        "soak": "90s",
        "gate": {"failure_budget": "1", "health": False, "prompt": "say yes"},
        "deadline": "7200s",
        "at_deadline": "hold",
    },
}


def lines_of(result):
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def bodies(service):
    return [asked.body for asked in service.was_asked("POST")]


def draining(user_id="ada", order_id=ROLLOUT, deadline="2026-01-02T04:04:05Z"):
    return stack(
        user_id,
        migration_state="draining",
        migration=migration("draining", order=order(id=order_id, deadline=deadline)),
    )
