"""
The page that draws every state machine, from the tables that the code goes by. Pure.

    python -m opencode_lifecycle.state_machines > service/STATES.md
"""

from typing import Final

from opencode_lifecycle.state_machines.of_fleets import CONDITION, MEMBER, ROLLOUT
from opencode_lifecycle.state_machines.of_stacks import HEALTH, MIGRATION, OPERATION, ORDERS, PHASE
from opencode_lifecycle.state_machines.parts import Machine

MACHINES: Final = (PHASE, HEALTH, MIGRATION, ORDERS, OPERATION, ROLLOUT, MEMBER, CONDITION)


def diagram(machine: Machine) -> str:
    """Draw *machine*, states in the order in which its table names them, so that the same table gives the same text."""
    order = {state: number for number, state in enumerate(machine.moves)}
    lines = [f"    [*] --> {state}" for state in machine.entries]
    for state, targets in machine.moves.items():
        lines += [f"    {state} --> {target}" for target in sorted(targets, key=order.__getitem__)]
        if state in machine.ends:
            lines.append(f"    {state} --> [*]")
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def exits(machine: Machine) -> str:
    """Write what ends each state of *machine*, a row for each way out."""
    rows = [
        f"| {state} | {each.how} | {each.ended_by} | {', '.join(each.to) or '-'} |"
        for state in machine.moves
        for each in machine.exits[state]
    ]
    return "\n".join(
        ["| state | what ends it | within, or by whom | it is then |", "|---|---|---|---|", *rows]
    )


def document() -> str:
    """Return the page: of each machine its diagram, and what ends each state."""
    sections = [_INTRODUCTION]
    for machine in MACHINES:
        sections += [f"## {machine.title}", machine.about, diagram(machine), exits(machine)]
    return "\n\n".join(sections) + "\n"


_INTRODUCTION: Final = """# States

Drawn from the tables in `opencode_lifecycle/model` and `opencode_lifecycle/state_machines` by

    python -m opencode_lifecycle.state_machines > service/STATES.md

Staying in a state is always legal and not drawn. What bounds a state is a setting, in small letters, or a constant of the code;
in brackets is its default. A state has a row for each way out of it; what is within nothing, and asked for by nobody, is where a
stack may stay."""
