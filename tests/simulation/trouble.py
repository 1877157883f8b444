"""What can go wrong with calls of a simulated control plane, and which of them are effects."""

from dataclasses import dataclass, field

WRITES = frozenset(
    {
        "register",
        "deregister",
        "ensure",
        "rotate",
        "destroy",
        "mark",
        "void_claims",
        "append",
        "claim_orphan",
        "release_orphan",
        "use_release",
        "add_release",
        "publish",
        "point",
        "clear",
        "write_mark",
        "decide",
        "claim",
        "save",
        "release_claim",
        "renew_claim",
        "finish_deletion",
        "put_condition",
        "change_condition",
        "put_orphans",
        "put_cluster_mark",
        "extend_lease",
        "create_rollout",
        "change_rollout",
        "claim_rollout",
        "save_rollout",
        "release_rollout",
        "put_plan",
        "put_group",
        "put_snapshots",
        "reload",
        "abort_turns",
    }
)
"""The external effects: before and after each of them the control plane may die."""

UNTOLD = frozenset({"claim", "claim_rollout"})
"""Not told in a story, since most of the time they change nothing."""


@dataclass(slots=True)
class Trouble:
    """What goes wrong at the moment: chances per call, and systems that are away."""

    fail: float = 0.0
    lose_reply: float = 0.0
    slow: float = 0.0
    away: dict[str, float] = field(default_factory=dict)
    """Systems that answer nobody, with when they began to."""
    cut_off: set[tuple[int, str]] = field(default_factory=set)
    """Systems that one replica cannot reach, by its number."""
    hang: float = 0.0
    """The chance that a call is never answered; only its deadline ends it."""
    die_at: tuple[str, bool, int] | None = None
    """Die before (False) or after (True) the n-th call of this method from now."""
    fail_at: tuple[str, bool, int] | None = None
    """Let that call fail instead: before it took effect, or after, so that only its reply is lost."""
    failed: bool = False
    """Whether it came to that."""

    def send_away(self, system: str, now: float) -> None:
        self.away.setdefault(system, now)
