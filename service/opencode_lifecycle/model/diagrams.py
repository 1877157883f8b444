"""
The state machines as Mermaid diagrams, drawn from the tables that the code goes by. Pure.

    python -m opencode_lifecycle.model.diagrams > service/STATES.md
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from opencode_lifecycle.model.operation import OPERATION_MOVES, OperationState
from opencode_lifecycle.model.rollout import MEMBER_MOVES, ROLLOUT_MOVES, MemberState, RolloutState
from opencode_lifecycle.model.states import (
    HEALTH_MOVES,
    MIGRATION_MOVES,
    PHASE_EXITS,
    PHASE_MOVES,
    Health,
    MigrationState,
    Phase,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One table of legal moves: where it is entered, and from which states a stack or an operation leaves it."""

    title: str
    about: str
    moves: Mapping[Any, frozenset[StrEnum]]
    entries: Sequence[StrEnum]
    ends: frozenset[StrEnum] = frozenset()


MACHINES: Final = (
    Machine(
        title="Phase",
        about="How far a stack is. Stopping and deleting are legal from every phase.",
        moves=PHASE_MOVES,
        entries=(Phase.PENDING,),
        ends=frozenset({Phase.DELETING}),
    ),
    Machine(
        title="Health",
        about="What the runtime itself shows. Its deadlines are those of the phase.",
        moves=HEALTH_MOVES,
        entries=(Health.UNKNOWN,),
    ),
    Machine(
        title="Migration state",
        about="How far a stack is on its way to what it should run. Before it is interrupted it is *queued* while nobody can\n"
        "see whether its agent works, and *draining* while the agent does or a backend holds a lease; it is *held* where its\n"
        "node, or an order whose deadline has passed, keeps it as it is. Stopping it makes every state current.",
        moves=MIGRATION_MOVES,
        entries=(MigrationState.CURRENT,),
    ),
    Machine(
        title="Operation",
        about="What became of a request. A later request supersedes one that has no outcome.",
        moves=OPERATION_MOVES,
        entries=(OperationState.ACCEPTED, OperationState.SUCCEEDED),
        ends=frozenset(state for state in OperationState if state.is_finished),
    ),
    Machine(
        title="Rollout",
        about="How far a rollout is. One that is paused goes on in the direction that it had.",
        moves=ROLLOUT_MOVES,
        entries=(RolloutState.RUNNING,),
        ends=frozenset(RolloutState) - {RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ROLLING_BACK},
    ),
    Machine(
        title="Member of a rollout",
        about="What became of one stack in a rollout. Whoever was moved is ordered once more to go back.",
        moves=MEMBER_MOVES,
        entries=(MemberState.WAITING,),
        ends=frozenset(MemberState) - {MemberState.WAITING, MemberState.ORDERED},
    ),
)


def diagram(machine: Machine) -> str:
    """Draw *machine*, states in the order in which its table names them, so that the same table gives the same text."""
    order = {state: number for number, state in enumerate(machine.moves)}
    lines = [f"    [*] --> {state}" for state in machine.entries]
    for state, targets in machine.moves.items():
        lines += [f"    {state} --> {target}" for target in sorted(targets, key=order.__getitem__)]
        if state in machine.ends:
            lines.append(f"    {state} --> [*]")
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def document() -> str:
    """Return the page with all diagrams and the way out of each phase."""
    sections = [_INTRODUCTION]
    for machine in MACHINES:
        sections += [f"## {machine.title}", machine.about, diagram(machine)]
        if machine.title == "Phase":
            sections.append(_exits())
    return "\n\n".join(sections) + "\n"


def _exits() -> str:
    rows = [f"| {phase} | {PHASE_EXITS[phase]} |" for phase in PHASE_MOVES]
    return "\n".join(["| phase | what gets a stack out of it, or why it may stay |", "|---|---|", *rows])


_INTRODUCTION: Final = """# States

Drawn from the tables in `opencode_lifecycle/model/states.py`, `operation.py` and `rollout.py` by

    python -m opencode_lifecycle.model.diagrams > service/STATES.md

Staying in a state is always legal and not drawn."""


if __name__ == "__main__":
    sys.stdout.write(document())
